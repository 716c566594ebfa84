"""What people and scripts get wrong: the line they read, and the code with which `nodectl` ends."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from nodectl import Client
from nodestore.errors import Conflict, Invalid
from nodestore.schema.keys import Keys
from nodestore.schema.models import ConfigRecord, Inventory, decode
from tests.support.cli import InProcessNodectl, Nodectl
from tests.support.etcd_cluster import EtcdCluster
from tests.support.masters import Masterd, Masters

INVENTORY = Inventory.model_validate({"nodes": {"n1": {}, "n2": {}}, "defaults": {"driver": {"name": "file"}}})
BAD_FILES = {
    "not YAML": ("nodes: [\n", ":2: not YAML: "),
    "a wrong type": ("nodes:\n  n1: {position: left}\n", ":2: nodes.n1.position: expected two whole numbers"),
    "a node twice": ("nodes:\n  n1: {}\n  n1: {}\n", ":3: nodes.n1: is given twice, first in line 2"),
    "a position twice": (
        "nodes:\n  n1: {position: [0, 0]}\n  n2: {position: [0, 0]}\n",
        ":3: nodes.n2.position: [0, 0] is already the position of node n1 (line 2)",
    ),
    "a name with a slash": ("nodes:\n  a/b: {}\n", ":2: nodes.a/b: node name 'a/b' is not allowed: use 1 to 63"),
    "half a character": ('nodes:\n  n1: {document: {x: "\\ud800"}}\n', ":2: nodes.n1.document.x: holds half"),
    "nothing": ("", ": is empty: it needs at least `nodes:`"),
    "more than a file may be": ("#" * (1 << 20) + "\nnodes: {}\n", ": larger than 1 MiB"),
}


BAD_CONFIGURATIONS: dict[str, tuple[dict[str, Any], int | None]] = {
    "a slash in a node's name": ({"nodes": {"a/b": {}}}, None),
    "a node out of its directory": ({"nodes": {"../up": {}}}, None),
    "a master's name": ({"masters": {"m 1": {}}}, None),
    "a group's name": ({"groups": {"": {}}}, None),
    "an unknown node in a group": ({"groups": {"g": {"nodes": ["n7"]}}}, None),
    "a position twice": ({"nodes": {"n1": {"position": [0, 0]}, "n2": {"position": [0, 0]}}}, None),
    "a wrong type": ({"nodes": {"n1": {"position": "left"}}}, None),
    "several mistakes": ({"nodes": {"n1": {"position": "left", "labels": 1}}}, None),
    "a newer schema": ({"v": 2}, None),
    "too deep": ({"settings": json.loads('{"x":' * 64 + "1" + "}" * 64)}, None),
    "too large a number": ({"settings": {"x": 1 << 1024}}, None),
    "another version": ({"nodes": {}}, 7),
    "no version": ({"nodes": {}}, -1),
}


@pytest.fixture(scope="module", autouse=True)
def _no_process_stays() -> Iterator[None]:
    yield
    Masterd.discard_warm()


@asynccontextmanager
async def one(etcd: EtcdCluster, keys: Keys) -> AsyncIterator[Masters]:
    async with Masters(etcd, keys) as masters:
        await masters.configure(INVENTORY)
        masters.start("m1")
        await masters.wait_serving("m1")
        yield masters


def command(name: str, arguments: str) -> tuple[str, ...]:
    return ("command", name, arguments)


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


REFUSED: list[tuple[tuple[str, ...], int, str]] = [
    (command("no.such", "{}"), 3, "there is no command 'no.such'; there are: drill.mark, node.act, node.clear"),
    (command("node.set", '{"node": 5, "values": {}}'), 2, "command node.set: node: Input should be a valid string"),
    (command("node.set", '{"node": "n1"}'), 2, "command node.set: values: Field required"),
    (command("node.set", '{"node": "n1", "values": {}, "x": 1}'), 2, "command node.set: x: Extra inputs are not perm"),
    (command("node.set", "[1]"), 2, "the arguments must be a JSON object such as"),
    (command("node.set", "{"), 2, "the arguments is not JSON: "),
    (("command", "node.set", "{}", "--command-id", "x"), 2, "--command-id: 'x' is not an id from `nodectl command-id`"),
    (("node", "set", "nx", "a=1"), 3, "there is no node 'nx' in the configuration"),
    (("node", "set", "n1", "a"), 2, "'a' is not KEY=VALUE (or KEY- to remove KEY)"),
    (("node", "set", "n1", r'x="\ud800"'), 2, "half of a surrogate pair"),
    (("node", "set", "n1", "x\udcff=1"), 2, "half of a surrogate pair"),
    (("node", "set", "n1", f"x={nested(80)}"), 2, "nested more than 64 levels deep"),
    (("node", "set", "n1", "x=1e999"), 2, "has no JSON notation"),
    (("node", "show", "n/1"), 3, "there is no node 'n/1' in the configuration"),
    (("scene", "apply", "none"), 3, "there is no scene 'none'"),
    (("scene", "save", "a/b"), 2, "scene name 'a/b' is not allowed: use 1 to 63 letters"),
    (("state", "get", "nodes/n9"), 3, "there is no document 'nodes/n9'"),
    (("snapshot", "restore", "none"), 3, "there is no snapshot 'none'"),
    (("snapshot", "restore", "--index", "99"), 3, "there is no index 99: the journal is at "),
    (("snapshot", "save", "a/b"), 2, "snapshot name 'a/b' is not allowed"),
    (("config", "rollback", "7"), 3, "7"),
    (("master", "switchover", "mx"), 3, "there is no standby 'mx'; there are: none"),
    (("--cluster", "a/b", "node", "list"), 2, "cluster name 'a/b' is not allowed: use 1 to 63 letters"),
    (("frobnicate",), 2, "no command 'frobnicate'; see nodectl --help"),
    (("node", "list", "--colour"), 2, "No such option"),
]


async def test_what_is_wrong_is_said_in_one_line(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """With the code of docs/cli.md; afterwards the master works as before, and nothing of it is in the journal."""
    async with one(etcd_one, keys) as masters:
        nodectl = InProcessNodectl([masters.running["m1"].url])
        before = (await masters.command("node.set", node="n1", values={"x": 1}))["index"]
        for args, code, words in REFUSED:
            said = await nodectl(*args)
            assert (said.code, said.out) == (code, ""), (args, said)
            assert words in said.lines[0], (args, said)
            assert said.lines[0].startswith("error: "), (args, said)
            assert len(said.lines) <= 2, (args, said)
            assert len(said.lines[0]) < 500, (args, said)
        for what, (text, words) in BAD_FILES.items():
            file = tmp_path / "wall.yaml"
            file.write_text(text)
            for verb in ("validate", "apply"):
                said = await nodectl("config", verb, str(file))
                assert (said.code, said.out) == (2, ""), (what, said)
                assert f"{file}{words}" in said.err, (what, said)
        scene = tmp_path / "scene.yaml"
        scene.write_text(json.dumps({"nodes": {node: {"text": "x" * 450_000} for node in ("n1", "n2")}}))
        said = await nodectl("scene", "save", "huge", "--file", str(scene))
        assert said.code == 1, said
        assert "command scene.save would write " in said.err, said
        assert "; the limit is " in said.err, said
        after = (await masters.command("node.set", node="n1", values={"x": 2}))["index"]
        assert after == before + 1
        assert await masters.problems() == []


async def test_both_ways_refuse_the_same_configurations(etcd_one: EtcdCluster, keys: Keys) -> None:
    """By HTTP and by etcd endpoints, with the same error; none of them is written."""
    by_http: dict[str, tuple[str, str]] = {}
    async with (
        one(etcd_one, keys) as masters,
        Client(masters.running["m1"].url, actor="test") as http,
        Client(etcd_one.members[0].endpoint, cluster=keys.cluster, actor="test") as etcd,
    ):
        for client in (http, etcd):
            for what, (inventory, expect_version) in BAD_CONFIGURATIONS.items():
                with pytest.raises((Invalid, Conflict)) as raised:
                    await client.config_apply(inventory, expect_version=expect_version)
                error = (type(raised.value).__name__, str(raised.value))
                assert by_http.setdefault(what, error) == error, what
        assert (await http.config())["version"] == 1
        for version, client in ((2, http), (3, etcd)):
            assert await client.config_apply({"nodes": {"n1": {}}}, expect_version=version - 1) == version
            written = await masters.etcd.get(keys.config_current)
            assert written is not None
            assert decode(ConfigRecord, written.value, written.key).inventory == {"nodes": {"n1": {}}}
            await client.pause("same")
            assert (await etcd.paused() or {}).get("reason") == "same"
            await client.resume()
            assert await etcd.paused() is None
    assert "node name 'a/b' is not allowed" in by_http["a slash in a node's name"][1]
    assert by_http["another version"][0] == "Conflict"


async def test_a_cluster_name_with_a_slash_starts_nothing(tmp_path: Path) -> None:
    """Its keys would lie among those of another cluster. Each program reports this in one line and ends with code 2."""
    nodectl = Nodectl(["127.0.0.1:1"], "a/b")
    masterd = [sys.executable, "-m", "masterd", "--id", "m1", "--cluster", "a/b"]
    noded = [sys.executable, "-m", "noded", "--node", "n1", "--cluster", "a/b", "--work-dir", str(tmp_path)]

    async def daemon(argv: list[str]) -> tuple[int | None, str]:
        child = await asyncio.create_subprocess_exec(*argv, stderr=asyncio.subprocess.PIPE)
        return child.returncode or await child.wait(), (await child.communicate())[1].decode()

    said, *daemons = await asyncio.gather(nodectl("status"), daemon(masterd), daemon(noded))
    for code, text in [(said.code, said.err), *daemons]:
        assert code == 2, text
        assert "cluster name 'a/b' is not allowed: use 1 to 63 letters, digits, '.', '_' or '-'" in text
        assert len(text.splitlines()) == 1, text
