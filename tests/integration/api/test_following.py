"""Following the journal with the client and the command line: complete and in order, also across failovers."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

from nodectl import Client
from nodestore.errors import TooOld
from nodestore.schema.keys import Keys
from nodestore.schema.models import Epoch, Inventory
from nodestore.support.jsonio import loads
from tests.support.etcd_cluster import EtcdCluster
from tests.support.masters import Masters
from tests.support.waiting import eventually

INVENTORY = Inventory.model_validate({"nodes": {"n1": {}}, "defaults": {"driver": {"name": "x"}}})
WAIT_S = 30.0


class Heard:
    """Commands that a follower received."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []

    @property
    def indexes(self) -> list[int]:
        return [told["index"] for told in self.told]

    async def reaches(self, index: int) -> None:
        await eventually(lambda: self.indexes[-1:] == [index], f"{index} is told", timeout_s=WAIT_S)


@asynccontextmanager
async def journal_of(client: Client, after: int | str | None) -> AsyncIterator[Heard]:
    """Collect what `client.journal` yields, in a background task."""
    heard = Heard()

    async def listen() -> None:
        async with aclosing(client.journal(after)) as journal:
            async for told in journal:
                heard.told.append(told)

    task = asyncio.create_task(listen())
    try:
        yield heard
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def followed_by_nodectl(endpoints: tuple[str, ...], keys: Keys) -> AsyncIterator[Heard]:
    """Collect what `nodectl history --follow` writes, in a background task."""
    heard = Heard()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NODECTL_")}
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "nodectl", "--endpoints", ",".join(endpoints), "--cluster", keys.cluster,
        "history", "--follow", "--after", "0", "-o", "json",
        cwd=Path(__file__).parents[3], env={**kept, "NODECTL_CONFIG": os.devnull}, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip

    async def listen() -> None:
        assert child.stdout is not None
        async for line in child.stdout:
            heard.told.append(loads(line))

    task = asyncio.create_task(listen())
    try:
        yield heard
    finally:
        child.kill()
        await asyncio.gather(task, child.wait())


async def _start(masters: Masters, *names: str) -> None:
    for name in names:
        masters.start(name)
        await masters.wait_candidate(name)
        await masters.wait_serving(names[0])


async def _write(masters: Masters, count: int) -> int:
    """So many commands, one after another; the index of the last."""
    for number in range(count):
        await masters.command("node.set", node="n1", values={"x": number})
    return max(masters.acknowledged.values())


async def test_followers_miss_nothing_when_the_leader_is_killed(etcd_one: EtcdCluster, keys: Keys) -> None:
    """Through etcd, through masterds, and on the command line: 1, 2, 3, ... without a gap, a repeat or an end."""
    async with Masters(etcd_one, keys) as masters:
        await masters.configure(INVENTORY)
        await _start(masters, "m1", "m2", "m3")
        urls = [masterd.url for masterd in masters.running.values()]
        async with (
            Client(etcd_one.endpoints, cluster=keys.cluster) as by_etcd,
            Client(urls) as by_url,
            journal_of(by_etcd, 0) as first,
            journal_of(by_url, 0) as second,
            followed_by_nodectl(etcd_one.endpoints, keys) as third,
        ):
            last = await _write(masters, 20)
            for heard in (first, second, third):
                await heard.reaches(last)
            for _ in range(2):
                leader = (await masters.leader()).record
                assert leader is not None
                writing = asyncio.create_task(_write(masters, 20))
                masters.running[leader.id].kill()
                last = await writing
                for heard in (first, second, third):
                    await heard.reaches(last)
                masters.start(leader.id)
                await masters.wait_candidate(leader.id)
            for heard in (first, second, third):
                assert heard.indexes == list(range(1, last + 1))
            assert [told["id"] for told in first.told] == [told["id"] for told in third.told]
            assert first.told[-1]["position"] == f"1.{last}"
        errors = [
            line for master in masters.running.values() for line in master.log_tail(500).splitlines() if "ERROR" in line
        ]
        assert errors == []  # readers that went away are none


async def test_a_position_of_a_store_that_was_restored_is_refused(etcd_one: EtcdCluster, keys: Keys) -> None:
    """Its index may be that of another command, so the client must read the state again.

    A bare index cannot show this.
    """
    async with Masters(etcd_one, keys) as masters, Client(etcd_one.endpoints, cluster=keys.cluster) as client:
        await masters.configure(INVENTORY)
        await _start(masters, "m1")
        last = await _write(masters, 3)
        async with journal_of(client, f"1.{last - 1}") as heard:
            await heard.reaches(last)
        masters.running["m1"].kill()
        await masters.etcd.put(keys.epoch, Epoch(epoch=2).encode())
        await _start(masters, "m1")

        async def refused() -> bool:
            try:
                await anext(client.journal(heard.told[-1]["position"]))
            except TooOld as error:
                return "restored from a backup" in str(error)
            return False

        await eventually(refused, "the old position is refused", timeout_s=WAIT_S)
        async with journal_of(client, 0) as anew:
            await anew.reaches(last)
            assert anew.told[-1]["position"] == f"2.{last}"
            await anew.reaches(await _write(masters, 1))
