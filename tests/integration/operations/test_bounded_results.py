"""What commands leave behind in etcd is bounded, however many they are and however large. With a real etcd.

Remembered results and the state have limits in bytes. So etcd never fills up with them, and commands are always taken
again.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

import pytest

from nodestore.errors import NodectlError, NoSpace
from nodestore.etcd import maintenance
from nodestore.schema.keys import Keys
from nodestore.schema.models import Inventory
from tests.support.etcd_cluster import EtcdCluster
from tests.support.masters import Masters

NINE = [f"n{number}" for number in range(1, 10)]
SHIPPED = 256 << 20
SMALL = 24 << 20
REQUEST = 128
HOUR = 9 * 3_600
"""Commands in an hour of nine nodes whose documents are replaced once a second."""
SOME = 6_400
"""So many that results are forgotten for their size, long before they are 10,000 or an hour old."""
DOCUMENT_BYTES = 3_000


def inventory(nodes: list[str]) -> Inventory:
    return Inventory.model_validate(
        {
            "nodes": {node: {} for node in nodes},
            "defaults": {"driver": {"name": "process", "settings": {"argv": ["x"]}}},
        }
    )


@dataclass
class Load:
    """Replaces the documents of nodes as fast as the leader takes the commands. Refused ones are sent again."""

    masters: Masters
    nodes: list[str]
    document_bytes: int
    sent: list[dict[str, Any]] = field(default_factory=list)
    """The commands that were acknowledged, in order of index."""
    results: list[dict[str, Any]] = field(default_factory=list)
    index: int = 0

    async def run(self, commands: int, request: int, patience_s: float) -> None:
        """Until `commands` are acknowledged. Fails if none is for `patience_s`."""
        taken_at = time.monotonic()
        while len(self.sent) < commands:
            many = [self._command(len(self.sent) + number) for number in range(min(request, commands - len(self.sent)))]
            try:
                answer = await self.masters.ask("m1", "POST", "/v1/commands", {"commands": many})
            except NodectlError as error:
                if time.monotonic() - taken_at > patience_s:
                    raise AssertionError(f"no command is taken for {patience_s:g} s") from error
                await asyncio.sleep(0.2)
                continue
            problems = [result["problem"] for result in answer["results"] if "problem" in result]
            assert problems == []
            taken_at = time.monotonic()
            self.sent += many
            self.results += answer["results"]
            self.index = answer["index"]

    def _command(self, number: int) -> dict[str, Any]:
        text = f"{number}:" + "x" * self.document_bytes
        args = {"node": self.nodes[number % len(self.nodes)], "document": {"text": text}}
        return {"name": "node.put", "args": args, "id": f"load-{number}", "after": self.index, "actor": "t"}

    async def repeat(self, number: int) -> dict[str, Any]:
        answer = await self.masters.ask("m1", "POST", "/v1/commands", {"commands": [self.sent[number]]})
        return dict(answer["results"][0])

    async def oldest_known(self) -> int:
        """The number of the oldest command whose repeat is answered. Older ones are refused as too old."""
        low, high = 0, len(self.sent) - 1
        while low < high:
            middle = (low + high) // 2
            answer = await self.repeat(middle)
            if "problem" in answer:
                assert answer["problem"]["code"] == "too_old", answer
                low = middle + 1
            else:
                high = middle
        return low


async def small_command(masters: Masters) -> None:
    """A small command is taken at once, or in a moment while room is being made."""
    deadline = time.monotonic() + 20.0
    while True:
        try:
            answer = await masters.ask(
                "m1", "POST", "/v1/commands", {"name": "node.set", "args": {"node": "n1", "values": {"x": 1}}}
            )
        except NoSpace:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.5)
            continue
        assert answer["index"] > 0
        return


async def in_use(masters: Masters, cluster: EtcdCluster) -> int:
    """Bytes in use once old revisions are compacted."""
    endpoint = cluster.endpoints[0]
    await maintenance.compact(masters.etcd, (await masters.etcd.range("/none")).revision, physical=True, timeout_s=30.0)
    await masters.etcd.put("/foreign", b"")  # the members report freed pages after the next write
    await asyncio.sleep(1.0)
    return (await maintenance.status(masters.etcd, endpoint, timeout_s=20.0)).db_in_use_bytes


@pytest.mark.timeout(400)
@pytest.mark.parametrize("commands", [SOME, pytest.param(HOUR, marks=pytest.mark.nightly)])
async def test_an_hour_of_nine_nodes_fits_the_shipped_quota(keys: Keys, commands: int) -> None:
    """Then a small command works, the oldest retained id is answered with its first result, and older ones are refused
    and not run again."""
    async with EtcdCluster(1) as cluster, Masters(cluster, keys, arguments=("--lease-ttl=60",)) as masters:
        await masters.configure(inventory(NINE))
        masters.start("m1")
        await masters.wait_serving("m1", 60.0)
        load = Load(masters, NINE, DOCUMENT_BYTES)
        await load.run(commands, REQUEST, 45.0)
        await small_command(masters)
        oldest = await load.oldest_known()
        assert 0 < oldest < commands - 4_000  # 16 MiB of results of 3 kB each
        answer = await load.repeat(oldest)
        assert (answer["repeated"], answer["index"], answer["result"]) == (
            True, load.results[oldest]["index"], load.results[oldest]["result"],
        )  # fmt: skip
        assert (await load.repeat(oldest - 1))["problem"]["code"] == "too_old"
        assert await in_use(masters, cluster) < SHIPPED // 2


@pytest.mark.nightly
@pytest.mark.timeout(200)
async def test_large_documents_in_a_small_etcd(keys: Keys) -> None:
    """One living document of 300 kB, replaced again and again in an etcd of 24 MiB: nothing that is kept grows."""
    async with (
        EtcdCluster(1, flags=(f"--quota-backend-bytes={SMALL}",)) as cluster,
        Masters(cluster, keys, arguments=(f"--etcd-quota-bytes={SMALL}", "--lease-ttl=60")) as masters,
    ):
        await masters.configure(inventory(["n1", "n2"]))
        masters.start("m1")
        await masters.wait_serving("m1", 60.0)
        load = Load(masters, ["n1"], 300_000)
        await load.run(4, 1, 30.0)
        early = await load.repeat(3)  # its result is read from the journal
        assert (early["repeated"], early["result"]) == (True, load.results[3]["result"])
        await load.run(40, 1, 30.0)
        await small_command(masters)
        last = await load.repeat(39)  # its entry is truncated already if etcd was filled by two thirds just then
        if "problem" in last:
            assert last["problem"]["code"] == "result_forgotten"
        else:
            assert (last["repeated"], last["result"]) == (True, load.results[39]["result"])
        first = await load.repeat(0)  # done, but its entry is truncated
        assert first["problem"]["code"] == "result_forgotten"
        assert not await maintenance.alarms(masters.etcd)
        await load.run(42, 1, 30.0)


async def test_a_state_that_is_too_large_is_refused_with_the_figure(keys: Keys) -> None:
    """Before the snapshots of it fill etcd; a smaller document is taken afterwards."""
    async with (
        EtcdCluster(1, flags=(f"--quota-backend-bytes={SMALL}",)) as cluster,
        Masters(cluster, keys, arguments=(f"--etcd-quota-bytes={SMALL}", "--lease-ttl=60")) as masters,
    ):
        await masters.configure(inventory(["n1"]))
        masters.start("m1")
        await masters.wait_serving("m1", 60.0)
        answer = await masters.command("node.put", node="n1", document={"text": "x" * 500_000})
        assert answer["problem"]["code"] == "too_large"
        assert f"the limit is {SMALL // 32}, a 32nd of etcd's quota" in answer["problem"]["detail"]
        assert "problem" not in await masters.command("node.put", node="n1", document={"text": "x" * 50_000})
