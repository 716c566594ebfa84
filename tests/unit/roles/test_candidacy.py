"""The candidacy: written under a lease, kept up to date, unique by name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import pytest

from masterd.application.identity import ApplicationIdentity
from masterd.election.campaign import MasterIdentity
from masterd.replication.cluster_view import ClusterView
from masterd.replication.replica import Replica
from masterd.roles.candidacy import Candidacy, NameTaken
from masterd.roles.self_report import SelfReport
from masterd.state_machine.state import AdoptedConfig
from nodestore.errors import Denied, LeaseLost, NodectlError, OutcomeUnknown, Unavailable
from nodestore.etcd.lease import Lease
from nodestore.etcd.session import Etcd
from nodestore.schema.keys import Keys
from nodestore.schema.models import Candidate, ConfigRecord, Inventory, decode
from tests.support.fakes.clock import VirtualTime
from tests.support.fakes.etcd import SETTINGS, FakeEtcd

KEYS = Keys("test")
ME = MasterIdentity("m1", "pc1", ("http://pc1:1",), None, "mine")
TTL_S = 10
REPORT = SelfReport(ApplicationIdentity("toy", "1.0", "hash"), 0.0, None, None, None)


@dataclass
class Bench:
    """The candidacy of m1 and everything that it depends on."""

    etcd: Etcd
    replica: Replica
    changed: asyncio.Event
    candidacy: Candidacy
    hosts_etcd_leader: bool = False
    self_report: SelfReport = REPORT

    async def lease(self) -> Lease:
        return await Lease.grant(self.etcd, TTL_S)

    async def shown(self) -> Candidate | None:
        kv = await self.etcd.get(KEYS.candidate("m1"))
        return None if kv is None else decode(Candidate, kv.value, kv.key)

    async def put_other(self, **fields: Any) -> None:
        """Another process writes a candidacy under m1's name."""
        other = Candidate(**{"id": "m1", "host": "pc2", "urls": (), "nonce": "other", **fields})
        await self.etcd.put(KEYS.candidate("m1"), other.encode())


@asynccontextmanager
async def bench(me: MasterIdentity = ME) -> AsyncIterator[Bench]:
    async with Etcd(SETTINGS, connect=FakeEtcd().connect) as etcd:
        view, replica, changed = ClusterView(etcd, KEYS), Replica(etcd, KEYS), asyncio.Event()
        watching = asyncio.create_task(view.watch())
        made: Bench
        candidacy = Candidacy(
            etcd, KEYS, me, candidates=view.candidates, replica=replica,
            hosts_etcd_leader=lambda: made.hosts_etcd_leader, self_report=lambda: made.self_report, changed=changed,
        )  # fmt: skip
        made = Bench(etcd, replica, changed, candidacy)
        yield made
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


def adopted(priority: int) -> AdoptedConfig:
    """A configuration that gives m1 this priority."""
    inventory = Inventory.model_validate({"masters": {"m1": {"priority": priority}}})
    record = ConfigRecord(version=1, time=0.0, actor="a", inventory={})
    return AdoptedConfig(record=record, inventory=inventory, index=1, revision=1)


@pytest.mark.parametrize(
    ("option", "configured", "expected"), [(None, None, 0), (None, 7, 7), (3, 7, 3), (0, 7, 0), (3, None, 3)]
)
def test_the_option_wins_over_the_configured_priority(
    option: int | None, configured: int | None, expected: int
) -> None:
    async def priority() -> int | None:
        async with bench(replace(ME, priority=option)) as b:
            b.replica.state.adopted = None if configured is None else adopted(configured)
            await b.candidacy.announce(await b.lease())
            shown = await b.shown()
            return None if shown is None else shown.priority

    with VirtualTime() as world:
        assert world.run(priority()) == expected


def test_the_candidacy_is_kept_by_its_lease() -> None:
    """It shows this process, and goes with the lease."""

    async def run() -> None:
        async with bench() as b:
            lease = await b.lease()
            revision = await b.candidacy.announce(lease)
            kv = await b.etcd.get(KEYS.candidate("m1"))
            assert kv is not None
            assert (kv.lease, kv.mod_revision) == (lease.id, revision)
            assert decode(Candidate, kv.value, kv.key).nonce == "mine"
            await lease.revoke()
            assert await b.shown() is None

    with VirtualTime() as world:
        world.run(run())


def test_an_earlier_process_of_the_same_host_is_overwritten() -> None:
    async def run() -> None:
        async with bench() as b:
            await b.put_other(host="pc1", nonce="earlier")
            await b.candidacy.announce(await b.lease())
            shown = await b.shown()
            assert shown is not None
            assert shown.nonce == "mine"

    with VirtualTime() as world:
        world.run(run())


def test_a_name_that_another_host_holds_is_waited_for() -> None:
    """The log names the other host once. The candidacy is written when the other one is deleted."""

    async def run() -> None:
        async with bench() as b:
            await b.put_other()
            announcing = asyncio.create_task(b.candidacy.announce(await b.lease()))
            await asyncio.sleep(TTL_S / 2)
            assert not announcing.done()
            await b.etcd.delete(KEYS.candidate("m1"))
            await announcing
            shown = await b.shown()
            assert shown is not None
            assert shown.host == "pc1"

    with VirtualTime() as world:
        world.run(run())


def test_the_lease_expires_while_another_host_holds_the_name() -> None:
    """The caller gets a new lease and begins again."""

    async def run() -> None:
        async with bench() as b:
            await b.put_other()
            with pytest.raises(LeaseLost, match="before the candidacy was written"):
                await b.candidacy.announce(await b.lease())

    with VirtualTime() as world:
        world.run(run())


def test_a_masterd_whose_name_is_taken_ends() -> None:
    """Another process's candidacy shows through the watch, long before the next regular refresh."""

    async def run() -> float:
        async with bench() as b:
            lease = await b.lease()
            keeping = asyncio.create_task(b.candidacy.keep_fresh(lease, await b.candidacy.announce(lease)))
            await asyncio.sleep(0.5)
            begun = world.now
            await b.put_other()
            with pytest.raises(NameTaken, match="m1: this process ends"):
                await keeping
            return world.now - begun

    with VirtualTime() as world:
        assert world.run(run()) < 0.5


@pytest.mark.parametrize(
    ("act", "within_s"), [(lambda b: b.changed.set(), 0.1), (lambda b: None, 2.1)], ids=["at once", "regularly"]
)
def test_a_changed_value_is_written(act: Callable[[Bench], None], within_s: float) -> None:
    """At once if it is requested, else with the next regular refresh."""

    async def run() -> None:
        async with bench() as b:
            lease = await b.lease()
            keeping = asyncio.create_task(b.candidacy.keep_fresh(lease, await b.candidacy.announce(lease)))
            await asyncio.sleep(2.5)  # the first refresh is over
            b.hosts_etcd_leader = True
            act(b)
            await asyncio.sleep(within_s)
            shown = await b.shown()
            assert shown is not None
            assert shown.beside_etcd_leader
            keeping.cancel()
            await asyncio.wait([keeping])

    with VirtualTime() as world:
        world.run(run())


def test_an_unchanged_candidacy_is_not_written_again() -> None:
    async def run() -> None:
        async with bench() as b:
            lease = await b.lease()
            keeping = asyncio.create_task(b.candidacy.keep_fresh(lease, await b.candidacy.announce(lease)))
            await asyncio.sleep(2.5)  # the first refresh is over
            before = await b.etcd.get(KEYS.candidate("m1"))
            await asyncio.sleep(6.0)
            assert await b.etcd.get(KEYS.candidate("m1")) == before
            keeping.cancel()
            await asyncio.wait([keeping])

    with VirtualTime() as world:
        world.run(run())


@pytest.mark.parametrize(
    ("error", "raised"), [(Denied("no"), True), (Unavailable("away"), False), (OutcomeUnknown("late"), False)]
)
def test_a_refusal_counts_only_until_the_candidacy_was_accepted(error: NodectlError, raised: bool) -> None:
    """Wrong credentials end the process at its start; later on everything is retried."""

    async def run() -> None:
        async with bench() as b:
            if raised:
                with pytest.raises(type(error)):
                    b.candidacy.raise_if_refused(error)
            else:
                b.candidacy.raise_if_refused(error)
            await b.candidacy.announce(await b.lease())
            b.candidacy.raise_if_refused(error)

    with VirtualTime() as world:
        world.run(run())
