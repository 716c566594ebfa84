"""The status writer against a real etcd, its answers lost at will."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal

from noded.registration.claim import NodeClaim, NodedIdentity
from noded.registration.status_reporter import StatusReporter
from nodestore.errors import OutcomeUnknown, Unavailable
from nodestore.etcd.session import Compare, Etcd, EtcdSettings, Op, TxnResult
from nodestore.schema.keys import Keys
from nodestore.schema.models import Status, decode
from tests.support.etcd_cluster import EtcdCluster
from tests.support.waiting import first_true

TIMEOUT_S = 20.0


class Lossy(Etcd):
    """An Etcd whose next transactions fail before or after they happened."""

    def __init__(self, settings: EtcdSettings) -> None:
        super().__init__(settings)
        self.faults: list[Literal["not sent", "answer lost"]] = []
        self.kept: list[tuple[Sequence[Compare], Sequence[Op], Sequence[Op]]] = []

    async def txn(
        self, compares: Sequence[Compare], then: Sequence[Op] = (), orelse: Sequence[Op] = (), **options: Any
    ) -> TxnResult:
        fault = self.faults.pop(0) if self.faults else None
        if fault == "not sent":
            self.kept.append((compares, then, orelse))
            raise Unavailable("test: not sent")
        result = await super().txn(compares, then, orelse, **options)
        if fault == "answer lost":
            raise OutcomeUnknown("test: answer lost")
        return result


def status(generation: int) -> Status:
    return Status(node="n1", nonce="me", host="pc", phase="ready", observed_generation=generation)


class Rig:
    def __init__(self, etcd: Lossy, keys: Keys) -> None:
        self.etcd = etcd
        self.key, self.alive = keys.status_of("n1"), keys.alive_of("n1")
        self.presence = NodeClaim(etcd, self.alive, NodedIdentity("n1", "host", "me"), 2, lambda: None)
        self.reporter = StatusReporter(etcd, self.key, self.alive, self.presence)

    async def claim(self) -> None:
        self.presence.claim_revision = await self.etcd.put(self.alive, b"ours")
        self.reporter.on_claim_changed()

    async def shows(self, generation: int) -> int:
        """How often the key was written, once it shows that generation."""

        async def look() -> int:
            found = await self.etcd.get(self.key)
            shown = found and decode(Status, found.value, found.key).observed_generation == generation
            return found.version if found and shown else 0

        return int(await first_true(look, f"the status of generation {generation}", timeout_s=TIMEOUT_S))


@asynccontextmanager
async def rig(cluster: EtcdCluster, keys: Keys) -> AsyncIterator[Rig]:
    async with Lossy(EtcdSettings(endpoints=cluster.endpoints)) as etcd, asyncio.TaskGroup() as tasks:
        made = Rig(etcd, keys)
        writing = tasks.create_task(made.reporter.write_statuses())
        try:
            yield made
        finally:
            writing.cancel()


async def test_without_a_claim_nothing_is_written(etcd_one: EtcdCluster, keys: Keys) -> None:
    """A status waits for the claim; then only the newest one is written."""
    async with rig(etcd_one, keys) as made:
        made.reporter.report(status(1))
        made.reporter.report(status(2))
        await made.reporter.flush()
        assert await made.etcd.get(made.key) is None
        await made.claim()
        assert await made.shows(2) == 1


async def test_with_a_claim_that_was_put_over_nothing_is_written(etcd_one: EtcdCluster, keys: Keys) -> None:
    """The comparison in etcd decides, not what we believe."""
    async with rig(etcd_one, keys) as made:
        await made.claim()
        await made.etcd.put(made.alive, b"theirs")
        made.reporter.report(status(1))
        await made.reporter.flush()
        assert await made.etcd.get(made.key) is None


async def test_a_lost_answer_is_not_written_twice(etcd_one: EtcdCluster, keys: Keys) -> None:
    """After a lost answer the key is read first. A status that was not written is written again."""
    async with rig(etcd_one, keys) as made:
        await made.claim()
        made.etcd.faults = ["not sent", "answer lost"]
        made.reporter.report(status(1))
        assert await made.shows(1) == 1
        made.reporter.report(status(2))
        assert await made.shows(2) == 2


async def test_a_late_write_replaces_nothing_newer(etcd_one: EtcdCluster, keys: Keys) -> None:
    """A status that etcd receives long after it was given up does not land on a newer one."""
    async with rig(etcd_one, keys) as made:
        await made.claim()
        made.reporter.report(status(1))
        await made.shows(1)
        made.etcd.faults = ["not sent"]
        made.reporter.report(status(2))
        while not made.etcd.kept:
            await asyncio.sleep(0.01)
        made.reporter.report(status(3))
        await made.shows(3)
        result = await made.etcd.txn(*made.etcd.kept[0])
        assert not result.succeeded
        await made.shows(3)


async def test_a_new_claim_writes_only_what_is_not_there(etcd_one: EtcdCluster, keys: Keys) -> None:
    """After a lost lease the same status is not written again, but one that a restored store lacks is."""
    async with rig(etcd_one, keys) as made:
        await made.claim()
        made.reporter.report(status(1))
        await made.shows(1)
        await made.claim()
        await made.reporter.flush()
        assert await made.shows(1) == 1
        await made.etcd.put(made.key, status(0).encode())
        await made.claim()
        assert await made.shows(1) == 3
