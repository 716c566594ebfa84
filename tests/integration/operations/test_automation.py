"""What docs/automation.md shows works as it stands: its commands and its script watch a real master's keys.

The script needs the package etcd3, which does not live with our protobuf: `make interop` makes an environment for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from masterd.api import schema_files
from nodectl.etcd_binary import find
from nodestore.etcd.lease import Lease
from nodestore.schema.keys import Keys
from nodestore.schema.models import Alive, Inventory, Status
from tests.support.doc_examples import examples
from tests.support.etcd_cluster import EtcdCluster
from tests.support.masters import Masterd, Masters

PAGE = examples("automation.md")
WALL = Inventory.model_validate({"nodes": {"n1": {}}, "defaults": {"driver": {"name": "process"}}})
WAIT_S = 30.0
_ROOT = Path(__file__).parents[3]
_INTEROP = _ROOT / ".cache" / "interop"
_PYTHON = _INTEROP / "bin" / "python"

needs_etcd3 = pytest.mark.skipif(
    not (_INTEROP / ".installed").exists(), reason="no environment with etcd3: make interop makes one"
)
needs_a_shell = pytest.mark.skipif(shutil.which("sh") is None, reason="the examples are for a POSIX shell")


@pytest.fixture(scope="module", autouse=True)
def _no_process_stays() -> Iterator[None]:
    yield
    Masterd.discard_warm()


@pytest.fixture(scope="module")
def etcdctl() -> Path:
    """The etcdctl of the etcd under test."""
    found = find.find_etcd().ctl
    if found is None:
        pytest.skip("there is no etcdctl beside etcd")
    return found


class Watcher:
    """A program that prints as it watches, and is ended with all that it started."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self._child = child
        self.lines: list[str] = []

    @classmethod
    @contextlib.asynccontextmanager
    async def of(cls, *argv: str, environ: Mapping[str, str] = {}) -> AsyncIterator[Watcher]:
        child = await asyncio.create_subprocess_exec(
            *argv, env={**os.environ, **environ}, start_new_session=True,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        try:
            yield cls(child)
        finally:
            with contextlib.suppress(ProcessLookupError):
                if sys.platform == "win32":
                    child.kill()
                else:
                    os.killpg(child.pid, signal.SIGKILL)
            await child.communicate()

    async def line(self, wanted: Callable[[str], Any]) -> Any:
        """What `wanted` makes of the first line that it makes something of, now or later; else AssertionError."""
        for line in self.lines:
            if (found := wanted(line)) is not None:
                return found
        assert self._child.stdout is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WAIT_S):
                while raw := await self._child.stdout.readline():
                    self.lines.append(raw.decode().rstrip("\r\n"))
                    if (found := wanted(self.lines[-1])) is not None:
                        return found
        raise AssertionError("the line that was waited for is not among these:\n" + "\n".join(self.lines))

    async def block(self, text: str) -> None:
        """Until these lines have come, one after another."""
        lines = text.splitlines()
        await self.line(lambda _: True if self.lines[-len(lines) :] == lines else None)

    async def end(self) -> tuple[int, str]:
        """Its exit code and all that it printed."""
        async with asyncio.timeout(WAIT_S):
            rest, _ = await self._child.communicate()
        assert self._child.returncode is not None
        return self._child.returncode, "\n".join(self.lines) + rest.decode()


@contextlib.asynccontextmanager
async def _red(cluster: EtcdCluster, keys: Keys) -> AsyncIterator[Masters]:
    """A master, whose commands are those of the page: n1 is red by the command with index 2."""
    async with Masters(cluster, keys) as masters:
        await masters.configure(WALL)
        masters.start("m1")
        await masters.wait_serving("m1")
        assert (await masters.command("node.set", node="n1", values={"colour": "red"}))["index"] == 2
        yield masters


async def _turn_blue(masters: Masters) -> None:
    assert (await masters.command("node.set", node="n1", values={"colour": "blue"}))["index"] == 3


def _shell(etcdctl: Path, cluster: EtcdCluster, keys: Keys) -> dict[str, str]:
    """The environment that the page asks for."""
    path = os.pathsep.join([str(etcdctl.parent), os.environ["PATH"]])
    return {"PATH": path, "ETCDCTL_ENDPOINTS": ",".join(cluster.endpoints), "CLUSTER": keys.prefix.rstrip("/")}


def _example(name: str) -> str:
    return PAGE["example", name]


def _prints(name: str, keys: Keys) -> str:
    return PAGE["prints", name].replace("/nodectl/wall/", keys.prefix)


@needs_a_shell
async def test_etcdctl_gets_what_the_page_shows(etcdctl: Path, etcd_one: EtcdCluster, keys: Keys) -> None:
    """Documents, specs, statuses and the leader, all as JSON."""
    async with _red(etcd_one, keys) as masters:
        await masters.etcd.put(keys.status_of("n1"), Status(node="n1", nonce="x", host="pc", phase="ready").encode())
        environ = _shell(etcdctl, etcd_one, keys)
        async with Watcher.of("sh", "-euc", _example("list"), environ=environ) as got:
            code, said = await got.end()
            assert (code, said.split()) == (0, [f"{keys.state}nodes/n1"])
        async with Watcher.of("sh", "-euc", _example("get"), environ=environ) as got:
            code, said = await got.end()
        assert code == 0, said
        document, desired, status, leader = said.splitlines()
        assert document == _prints("get", keys).rstrip()
        assert json.loads(desired)["generation"] == 2
        assert json.loads(desired)["spec"]["document"] == {"colour": "red"}
        assert json.loads(status)["phase"] == "ready"
        assert json.loads(leader)["id"] == "m1"


@needs_a_shell
@pytest.mark.parametrize("name", ["watch", "gapless"])
async def test_etcdctl_watches_as_the_page_says(etcdctl: Path, etcd_one: EtcdCluster, keys: Keys, name: str) -> None:
    """A command that is acknowledged comes out as the lines that the page shows."""
    environ = _shell(etcdctl, etcd_one, keys)
    async with (
        _red(etcd_one, keys) as masters,
        Watcher.of("sh", "-euc", _example(name), environ=environ) as watcher,
    ):
        await _until_watched(masters, watcher, keys)
        await _turn_blue(masters)
        await watcher.block(_prints("watch", keys))


async def _until_watched(masters: Masters, watcher: Watcher, keys: Keys) -> None:
    """Change a key below `state/` until the watcher reports it: from then on it misses nothing."""
    heard = asyncio.create_task(watcher.line(lambda line: True if line.endswith("~begun") else None))
    try:
        while not heard.done():
            await masters.etcd.put(f"{keys.state}~begun", b"{}")
            await asyncio.wait([heard], timeout=0.2)
        await heard
    finally:
        heard.cancel()
        await asyncio.wait([heard])


@needs_a_shell
async def test_etcdctl_runs_a_command_for_each_event(etcdctl: Path, etcd_one: EtcdCluster, keys: Keys) -> None:
    """It finds kind and key in its environment."""
    environ = _shell(etcdctl, etcd_one, keys)
    async with (
        _red(etcd_one, keys) as masters,
        Watcher.of("sh", "-euc", _example("run"), environ=environ) as watcher,
    ):
        await _until_watched(masters, watcher, keys)
        await _turn_blue(masters)
        await watcher.block(_prints("run", keys))


# --- etcd3 ------------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _watch_wall(cluster: EtcdCluster, keys: Keys, folder: Path) -> AsyncIterator[Watcher]:
    script = folder / "watch_wall.py"
    script.write_text(_example("watch_wall.py"), "utf-8")
    async with Watcher.of(str(_PYTHON), str(script), ",".join(cluster.endpoints), keys.prefix.rstrip("/")) as watcher:
        yield watcher


def _told(event: str, key: str) -> Callable[[str], Any]:
    """Return a function that returns the content of a line if it reports this event and key, and None otherwise."""

    def wanted(line: str) -> Any:
        told = json.loads(line)
        return told if (told["event"], told["key"]) == (event, key) else None

    return wanted


@needs_etcd3
async def test_etcd3_watches_as_the_page_says(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """The script prints all keys, then each change: of a document, a status, a claim, and the leader."""
    async with _red(etcd_one, keys) as masters, _watch_wall(etcd_one, keys, tmp_path) as watcher:
        there = await watcher.line(_told("there", f"{keys.state}nodes/n1"))
        assert there["value"]["document"] == {"colour": "red"}
        assert (await watcher.line(_told("there", keys.leader)))["value"]["id"] == "m1"

        await _turn_blue(masters)
        expected = json.loads(_prints("watch_wall.py", keys))
        changed = await watcher.line(_told("changed", expected["key"]))
        assert changed == {**expected, "revision": changed["revision"]}
        assert changed["revision"] > there["revision"]
        desired = await watcher.line(_told("changed", keys.desired_of("n1")))
        assert desired["value"]["generation"] == 3

        lease = await Lease.grant(masters.etcd, 5)
        alive = Alive(host_id="pc", nonce="x", host="pc")
        await masters.etcd.put(keys.alive_of("n1"), alive.encode(), lease=lease.id)
        status = Status(node="n1", nonce="x", host="pc", phase="ready", observed_generation=3)
        await masters.etcd.put(keys.status_of("n1"), status.encode())
        reported = await watcher.line(_told("changed", keys.status_of("n1")))
        assert reported["value"]["observed_generation"] == 3
        await watcher.line(_told("changed", keys.alive_of("n1")))
        await lease.revoke()
        await watcher.line(_told("gone", keys.alive_of("n1")))

        masters.running["m1"].terminate()
        await watcher.line(_told("gone", keys.leader))


@needs_etcd3
@pytest.mark.parametrize("how", ["kill", "pause"])
async def test_the_script_ends_with_its_member(how: str, tmp_path: Path) -> None:
    """The script ends with one line, also when its member only hangs, so that a supervisor can restart it."""
    async with EtcdCluster(1) as cluster:
        keys = Keys("wall")
        async with Masters(cluster, keys) as masters:
            await masters.etcd.put(keys.leader, b"{}")
            async with _watch_wall(cluster, keys, tmp_path) as watcher:
                await watcher.line(_told("there", keys.leader))
                getattr(cluster.members[0], how)()
                code, said = await watcher.end()
    assert code == 1
    assert "start me again" in said.splitlines()[-1]
    assert "Traceback" not in said


# --- schemas ----------------------------------------------------------------------------------------------------------


def _schema_of(key: str, keys: Keys) -> dict[str, Any] | None:
    """Of the model that docs/schemas.md names for this key; None for what is no JSON."""
    name = key.removeprefix(keys.prefix)
    for pattern, model in schema_files.KEYS.items():
        expression = re.sub(r"<[^>]+>", "[^/]+", pattern) if not pattern.startswith("state/") else "state/.+"
        if re.fullmatch(expression, name):
            return schema_files.schema_of(model)
    assert re.fullmatch(r"snapshots/[^/]+/\d+", name), f"{key} is in no table"
    return None


async def test_what_a_master_writes_is_as_its_schemas_say(etcd_one: EtcdCluster, keys: Keys) -> None:
    """Each value that is found in the store after some work is valid, by an independent judge."""
    async with _red(etcd_one, keys) as masters:
        await masters.command("scene.save", name="evening", nodes={"n1": {"colour": "red"}})
        await masters.ask("m1", "POST", "/v1/snapshots", {"name": "before"})
        await masters.command("snapshot.restore", snapshot="before")
        await masters.ask("m1", "PUT", "/v1/paused", {"actor": "test", "reason": "to be seen"})
        await masters.ask("m1", "PUT", "/v1/config", {"inventory": WALL.model_dump(mode="json"), "actor": "test"})
        found = (await masters.etcd.range(keys.prefix)).kvs
    wrong, judged = [], set()
    for kv in found:
        schema = _schema_of(kv.key, keys)
        if schema is None:
            continue
        judged.add(schema["title"])
        errors = [error.message for error in jsonschema_rs.iter_errors(schema, json.loads(kv.value))]
        wrong += [f"{kv.key}: {error}" for error in errors]
    assert wrong == []
    assert judged >= {"Entry", "Head", "LeaderRecord", "Manifest", "DocumentView", "Desired", "ConfigRecord", "Paused"}
