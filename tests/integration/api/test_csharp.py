"""The client in C# of examples/csharp, compiled and run by Mono: a command and the journal across a killed leader."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from nodestore.schema.keys import Keys
from nodestore.schema.models import Inventory, NodeConfig
from tests.support.etcd_cluster import EtcdCluster
from tests.support.masters import UNTIL_IT_DIES, Masterd, Masters

SOURCES = Path(__file__).parents[3] / "examples" / "csharp"
ANSWER_S = 60.0


@pytest.fixture(scope="module", autouse=True)
def _warm_masters_end() -> Iterator[None]:
    yield
    Masterd.discard_warm()


async def _run(*argv: str | Path) -> tuple[int | None, str, str]:
    """The exit code of a program, and what it prints to stdout and stderr."""
    pipe = asyncio.subprocess.PIPE
    running = await asyncio.create_subprocess_exec(*argv, stdout=pipe, stderr=pipe, env=_environment())
    try:
        async with asyncio.timeout(ANSWER_S):
            out, err = await running.communicate()
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()
    return running.returncode, out.decode(), err.decode()


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "NODECTL_TOKEN"}


async def _compiled(folder: Path) -> Path:
    """The example, compiled without a warning. Skips the test without Mono."""
    if shutil.which("mcs") is None or shutil.which("mono") is None:
        pytest.skip("Mono is not installed: see docs/http.md")
    made = folder / "masters.exe"
    libraries = ("-r:System.Net.Http.dll", "-r:System.Runtime.Serialization.dll")
    code, out, err = await _run("mcs", "-warnaserror", f"-out:{made}", *libraries, *sorted(SOURCES.glob("*.cs")))
    assert code == 0, out + err
    return made


@contextlib.asynccontextmanager
async def _followed(program: Path, urls: str) -> AsyncIterator[asyncio.StreamReader]:
    """What the example prints of the journal from its beginning on."""
    running = await asyncio.create_subprocess_exec(
        "mono", program, "follow", urls, "0", stdout=asyncio.subprocess.PIPE, env=_environment()
    )
    assert running.stdout is not None
    try:
        yield running.stdout
    finally:
        running.kill()
        await running.wait()


async def _set_by(lines: asyncio.StreamReader) -> tuple[str, int]:
    """The next `node.set` in the journal: its position, and the value that it set."""
    async with asyncio.timeout(ANSWER_S):
        while line := (await lines.readline()).decode():
            position, _, data = line.partition(" ")
            command = json.loads(data)
            if command["name"] == "node.set":
                return position, command["args"]["values"]["x"]
    raise AssertionError("the example has ended")


def _args(value: int) -> str:
    return json.dumps({"node": "n1", "values": {"x": value}})


async def test_a_command_and_the_journal_across_a_killed_leader(
    etcd_one: EtcdCluster, keys: Keys, tmp_path: Path
) -> None:
    program = await _compiled(tmp_path)
    async with Masters(etcd_one, keys, arguments=UNTIL_IT_DIES) as masters:
        await masters.configure(Inventory(nodes={"n1": NodeConfig()}))
        masters.start("m1")
        await masters.wait_serving("m1")
        masters.start("m2")
        await masters.wait_candidate("m2")
        urls = ",".join(master.url for master in masters.running.values())
        async with _followed(program, urls) as lines:
            code, first, err = await _run("mono", program, "send", urls, "node.set", _args(1))
            assert code == 0, err
            assert await _set_by(lines) == (f"1.{first.strip()}", 1)
            masters.running.pop("m1").kill()
            await masters.expire("m1")
            code, second, err = await _run("mono", program, "send", urls, "node.set", _args(2))
            assert code == 0, err
            assert await _set_by(lines) == (f"1.{second.strip()}", 2)
        code, _, err = await _run("mono", program, "send", urls, "node.set", json.dumps({"node": "none", "values": {}}))
        assert (code, err.partition(":")[0]) == (1, "not_found"), err
