"""The export of masterds that die: every command is in the file of each master, in order, with its author."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from nodestore.errors import NodectlError
from nodestore.schema.keys import Keys
from nodestore.schema.models import Defaults, DriverConfig, Inventory, NodeConfig
from tests.support.etcd_cluster import EtcdCluster
from tests.support.masters import Masters
from tests.support.waiting import eventually

INVENTORY = Inventory(nodes={"n1": NodeConfig()}, defaults=Defaults(driver=DriverConfig(name="exec")))


class Exports:
    """The files to which masterds export, each with a state directory of its own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def arguments(self, name: str, sink: str = "") -> list[str]:
        state = self._directory / name
        state.mkdir(exist_ok=True)
        return [f"--state-dir={state}", f"--audit-export={sink or self._sink(name)}"]

    def _sink(self, name: str) -> str:
        return f"file:{self._directory / name / 'export.jsonl'}"

    def records(self, name: str) -> list[dict[str, Any]]:
        path = self._directory / name / "export.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines() if line] if path.exists() else []

    def indexes(self, name: str) -> list[int]:
        """The indexes of the exported commands, each once: a receiver drops repeats by their position."""
        positions = dict.fromkeys(item["position"] for item in self.records(name) if item["event"] == "command")
        return [int(position.partition(".")[2]) for position in positions]


async def test_every_master_exports_every_command_through_kills_and_a_takeover(
    etcd_one: EtcdCluster, keys: Keys, tmp_path: Path
) -> None:
    exports = Exports(tmp_path)
    async with Masters(etcd_one, keys) as masters:
        await masters.configure(INVENTORY)
        masters.start("m1", arguments=exports.arguments("m1"))
        await masters.wait_serving("m1")
        masters.start("m2", arguments=exports.arguments("m2"))
        await masters.wait_candidate("m2")
        for number in range(10):
            await masters.command("node.set", node="n1", values={"x": number, "password": "hunter2"})
        await eventually(lambda: len(exports.indexes("m1")) >= 5, "m1 exports")
        masters.running["m1"].kill()
        await masters.expire("m1")
        for number in range(10):
            last = (await masters.command("node.set", node="n1", values={"x": number}))["index"]
        masters.start("m1", arguments=exports.arguments("m1"))
        for name in ("m1", "m2"):
            await eventually(lambda name=name: exports.indexes(name)[-1:] >= [last], f"{name} has exported all")
            found = exports.indexes(name)
            assert found == list(range(1, found[-1] + 1))
        [first, *_] = [item for item in exports.records("m2") if item.get("name") == "node.set"]
        assert (first["actor"], first["nodes"], first["args"]["values"]) == (
            "test",
            ["n1"],
            {"x": 0, "password": "***"},
        )


async def test_refusals_are_exported(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    exports = Exports(tmp_path)
    async with Masters(etcd_one, keys, arguments=["--require-credentials"]) as masters:
        masters.start("m1", arguments=exports.arguments("m1"))
        await masters.wait_serving("m1")
        with pytest.raises(NodectlError):
            await masters.ask("m1", "GET", "/v1/nodes")

        def refused() -> bool:
            return any(item["event"] == "refused" and item["master"] == "m1" for item in exports.records("m1"))

        await eventually(refused, "the refusal is exported")


@pytest.mark.skipif(sys.platform == "win32", reason="named pipes of Windows are not files")
async def test_sinks_that_hang_or_fail_are_in_the_status_and_stop_nothing(
    etcd_one: EtcdCluster, keys: Keys, tmp_path: Path
) -> None:
    """A named pipe that no program reads, in place of a file: to open it waits for ever. And a directory."""
    os.mkfifo(tmp_path / "pipe")
    exports = Exports(tmp_path)
    async with Masters(etcd_one, keys) as masters:
        await masters.configure(INVENTORY)
        masters.start("m1", arguments=exports.arguments("m1", f"file:{tmp_path / 'pipe'},file:{tmp_path}"))
        await masters.wait_serving("m1")
        for number in range(5):
            await masters.command("node.set", node="n1", values={"x": number})

        async def reported() -> bool:
            status = await masters.ask("m1", "GET", "/v1/status")
            return f"the export to file:{tmp_path} takes nothing: Is a directory" in json.dumps(status)

        await eventually(reported, "the status shows it")
        begun = time.monotonic()
        masters.running["m1"].terminate()
        await eventually(lambda: masters.running["m1"].exit_code == 0, "m1 ends")
        assert time.monotonic() - begun < 5.0
