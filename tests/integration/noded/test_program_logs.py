"""`nodectl node logs` with real processes: a noded, two masters and etcd, while each of them dies or rotates."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from nodectl.client import Client
from nodestore.errors import NodeUnavailable, NotFound
from nodestore.schema.api_types import NodeLog
from nodestore.schema.keys import Keys
from nodestore.schema.models import DriverConfig, Inventory, NodeConfig
from tests.support.etcd_cluster import EtcdCluster
from tests.support.masters import UNTIL_IT_DIES, Masters
from tests.support.noded.noded_rig import NODE, Noded, Rig, rig
from tests.support.published import DOCUMENT, faults
from tests.support.waiting import eventually

TALK = """
import sys, time
number = 0
while True:
    number += 1
    print(f"line {number}", flush=True)
    time.sleep(float(sys.argv[1]))
"""
TIMEOUT_S = 60.0


class Talking:
    """A cluster whose node n1 runs a program that numbers its lines."""

    def __init__(self, masters: Masters, node: Rig, noded: Noded, client: Client) -> None:
        self.masters, self.node, self.noded, self.client = masters, node, noded, client

    @property
    def log(self) -> Path:
        return self.node.work / "program.log"

    async def lines(self, count: int) -> None:
        """Wait until the program has printed so many lines."""
        await eventually(
            lambda: self.log.exists() and self.log.read_bytes().count(b"\n") >= count, f"{count} lines",
            timeout_s=TIMEOUT_S,
        )  # fmt: skip

    async def tail(self, lines: int = 100, node: str = NODE) -> str:
        return "".join([piece["text"] async for piece in self.client.node_logs(node, lines=lines)])


@asynccontextmanager
async def talking(
    cluster: EtcdCluster, keys: Keys, directory: Path, *masters: str, pause_s: float = 0.02, **settings: object
) -> AsyncIterator[Talking]:
    settings = {"argv": ["{python}", "-c", TALK, str(pause_s)], "settle_s": 0, "grace_s": 1, **settings}
    inventory = Inventory(
        nodes={
            NODE: NodeConfig(driver=DriverConfig(name="process", settings=settings)),
            "silent": NodeConfig(),
        }
    )
    async with (
        Masters(cluster, keys, arguments=UNTIL_IT_DIES) as started,
        rig(cluster, keys, directory) as node,
        Client(cluster.endpoints, cluster=keys.cluster) as client,
    ):
        await started.configure(inventory)
        for name in masters:
            started.start(name)
            await started.wait_candidate(name)
        await started.wait_serving(masters[0])
        found = Talking(started, node, await node.start(), client)
        await found.lines(1)
        yield found


class Follower:
    """Follows the log in a task and collects what it yields."""

    def __init__(self, client: Client, lines: int = 10_000) -> None:
        self.pieces: list[NodeLog] = []
        self._task = asyncio.create_task(self._follow(client, lines))

    async def _follow(self, client: Client, lines: int) -> None:
        async for piece in client.node_logs(NODE, lines=lines, follow=True):
            self.pieces.append(piece)

    @property
    def text(self) -> str:
        return "".join(piece["text"] for piece in self.pieces)

    @property
    def notes(self) -> list[str]:
        return [piece["note"] for piece in self.pieces if piece["note"]]

    async def reads(self, line: str) -> None:
        def found() -> bool:
            if self._task.done():
                self._task.result()
            return f"{line}\n" in self.text

        await eventually(found, f"the follower to read {line!r}; {self.notes}", timeout_s=TIMEOUT_S)

    async def close(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task


@asynccontextmanager
async def following(client: Client) -> AsyncIterator[Follower]:
    follower = Follower(client)
    try:
        yield follower
    finally:
        await follower.close()


def _numbers(text: str) -> list[int]:
    return [int(line.removeprefix("line ")) for line in text.splitlines()]


def _is_gapless(text: str) -> bool:
    numbers = _numbers(text)
    return numbers == list(range(numbers[0], numbers[0] + len(numbers)))


async def test_last_lines_come_through_any_master_and_not_through_etcd(
    etcd_one: EtcdCluster, keys: Keys, tmp_path: Path
) -> None:
    """A standby passes the request on. The revision of etcd does not change while a log is read and followed."""
    async with talking(etcd_one, keys, tmp_path, "m1", "m2", pause_s=0.01) as cluster:
        await cluster.lines(50)
        last = await cluster.tail(7)
        assert (len(last.splitlines()), _is_gapless(last)) == (7, True)
        assert await cluster.tail(0) == ""
        for name in ("m1", "m2"):
            answer = await cluster.masters.ask(name, "GET", f"/v1/nodes/{NODE}/log?lines=3")
            schema = DOCUMENT["paths"]["/v1/nodes/{node}/log"]["get"]["responses"]["200"]["content"]
            assert faults(schema["application/json"]["schema"], answer) == []
            assert len(answer["text"].splitlines()) == 3
        await cluster.node.reached(lambda status: status.phase == "ready", "the node is ready")
        etcd, prefix = cluster.masters.etcd, keys.prefix
        before = await etcd.range(prefix)
        async with following(cluster.client) as follower:
            number = _numbers(await cluster.tail(1))[0]
            await follower.reads(f"line {number + 100}")
            assert _is_gapless(follower.text)
        after = await etcd.range(prefix)
        changed = {kv.key for kv in after.kvs} & {kv.key for kv in after.kvs if kv not in before.kvs}
        assert not {key for key in changed if not key.startswith((keys.candidates, keys.terms))}
        assert not [kv.key for kv in after.kvs if b"line " in kv.value and b"while True" not in kv.value]


async def test_a_follower_goes_on_at_the_next_leader(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """The leader is killed, and the standby takes over: no line is missing, none comes twice."""
    async with talking(etcd_one, keys, tmp_path, "m1", "m2") as cluster, following(cluster.client) as follower:
        await follower.reads("line 30")
        cluster.masters.running["m1"].kill()
        await cluster.masters.expire("m1")
        await cluster.masters.wait_serving("m2")
        number = _numbers(await cluster.tail(1))[0]
        await follower.reads(f"line {number + 30}")
        assert _is_gapless(follower.text)


async def test_a_follower_reads_a_log_that_rotates(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """Each file holds some 400 lines, so many rotations happen meanwhile."""
    async with (
        talking(etcd_one, keys, tmp_path, "m1", pause_s=0.001, log_bytes_max=4_096) as cluster,
        following(cluster.client) as follower,
    ):
        await follower.reads("line 3000")
        assert follower.notes == []
        assert _is_gapless(follower.text)
        assert _is_gapless(await cluster.tail(300))


@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot be suspended there")
async def test_followers_that_never_read_hold_up_nothing(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """They take one piece each. The program writes on, and others read."""
    async with talking(etcd_one, keys, tmp_path, "m1", pause_s=0.001) as cluster:
        await cluster.lines(500)
        async with contextlib.AsyncExitStack() as stuck:
            for _ in range(20):
                pieces = cluster.client.node_logs(NODE, lines=100, follow=True)
                stuck.push_async_callback(pieces.aclose)
                assert (await anext(pieces))["text"]
            number = _numbers(await cluster.tail(1))[0]
            await cluster.lines(number + 500)
            assert _numbers(await cluster.tail(1))[0] >= number + 500


async def test_a_node_that_is_down_says_so_and_a_follower_waits(
    etcd_one: EtcdCluster, keys: Keys, tmp_path: Path
) -> None:
    """noded is killed with its program, and started again: the follower continues in the same file."""
    async with talking(etcd_one, keys, tmp_path, "m1") as cluster, following(cluster.client) as follower:
        await follower.reads("line 20")
        await cluster.noded.kill()
        claim = await cluster.node.etcd.get(keys.alive_of(NODE))
        if claim is not None:
            await cluster.node.etcd.revoke(claim.lease)
        with pytest.raises(NodeUnavailable, match=f"node {NODE}: no noded is connected"):
            await _tail_until_error(cluster)
        await eventually(lambda: follower.notes != [], "the follower mentions it", timeout_s=TIMEOUT_S)
        seen = len(follower.text)
        await cluster.node.start()
        await eventually(lambda: "line 20\n" in follower.text[seen:], "the new program's lines", timeout_s=TIMEOUT_S)
        assert follower.text.count("line 15\n") == 2
        assert len(follower.notes) == 1


async def _tail_until_error(cluster: Talking) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            await cluster.tail(1)


async def test_what_has_no_log(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """An unknown node, a node without a noded, and a program whose output is not kept."""
    async with talking(etcd_one, keys, tmp_path, "m1") as cluster:
        with pytest.raises(NotFound, match="there is no node 'n9'"):
            await cluster.tail(node="n9")
        with pytest.raises(NodeUnavailable, match="node silent: no noded is connected"):
            await cluster.tail(node="silent")
        settings = {"argv": ["{python}", "-c", TALK, "0.02"], "settle_s": 0, "grace_s": 1, "log_file": None}
        config = NodeConfig(driver=DriverConfig(name="process", settings=settings))
        await cluster.masters.configure(Inventory(nodes={NODE: config}), version=2)
        with pytest.raises(NotFound, match=f"node {NODE}: driver process keeps no log"):
            await _tail_until_error(cluster)
