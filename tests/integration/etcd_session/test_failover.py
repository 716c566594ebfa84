"""The store's members die, hang, lose their leader or their peers under a working session."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from nodestore.errors import NodectlError, OutcomeUnknown, Unavailable
from nodestore.etcd import maintenance
from nodestore.etcd.session import Etcd, EtcdSettings, cmp_mod, op_get, op_put
from nodestore.schema.keys import Keys
from tests.faults.network.peers import PeerNetwork
from tests.support.etcd_cluster import EtcdCluster, Member
from tests.support.sessions import error_of
from tests.support.waiting import eventually


def session(cluster: EtcdCluster, first: Member | None = None) -> Etcd:
    """A session that uses `first` until it fails."""
    rest = [member.endpoint for member in cluster.members if member is not first]
    return Etcd(EtcdSettings(endpoints=(first.endpoint, *rest) if first else tuple(rest)))


class Traffic:
    """Reads, guarded writes and plain puts, one after another, and the errors they met."""

    def __init__(self, etcd: Etcd, keys: Keys) -> None:
        self._etcd, self._keys = etcd, keys
        self.rounds = 0
        self.guarded: list[NodectlError] = []
        self.plain: list[NodectlError] = []

    async def run(self) -> None:
        """Counts up a key by compare-and-swap; what it holds in the end is the number of rounds, whatever broke."""
        key, revision = self._keys.head, 0
        while True:
            value = str(self.rounds + 1).encode()
            try:
                result = await self._etcd.txn(
                    [cmp_mod(key, revision)], [op_put(key, value)], [op_get(key)], repeatable=True
                )
                found = None if result.succeeded else result.range(0).first
                assert result.succeeded or (found is not None and found.value == value), "somebody else's write"
                revision = result.revision if found is None else found.mod_revision
                self.rounds += 1
            except NodectlError as error:
                self.guarded.append(error)
            try:
                await self._etcd.put(self._keys.paused, value)
            except NodectlError as error:
                self.plain.append(error)

    async def goes_on(self, rounds: int = 20, timeout_s: float = 10.0) -> None:
        aim = self.rounds + rounds
        await eventually(lambda: self.rounds >= aim, f"{rounds} more rounds", timeout_s=timeout_s)


@asynccontextmanager
async def traffic(etcd: Etcd, keys: Keys) -> AsyncIterator[Traffic]:
    """Traffic in the background, healthy when it is handed over."""
    work = Traffic(etcd, keys)
    task = asyncio.create_task(work.run())
    try:
        await work.goes_on()
        yield work
    finally:
        task.cancel()
        await asyncio.wait((task,))
    if not task.cancelled():
        task.result()
    found = await etcd.get(keys.head)
    assert found is not None
    # An open round may have landed as well; nothing may have landed twice.
    assert found.version - work.rounds in (0, 1)
    assert int(found.value) == found.version


async def follower(cluster: EtcdCluster) -> Member:
    leader = await cluster.leader()
    return next(member for member in cluster.members if member is not leader)


async def test_kill_of_the_follower_in_use(broken_three: EtcdCluster, keys: Keys) -> None:
    """Reads and guarded writes meet no error; at most the one plain put that was under way is unknown."""
    victim = await follower(broken_three)
    async with session(broken_three, victim) as etcd, traffic(etcd, keys) as work:
        victim.kill()
        await work.goes_on()
        assert work.guarded == []
        assert len(work.plain) <= 1
        assert etcd.endpoint != victim.endpoint


async def test_kill_of_the_leader_in_use(broken_three: EtcdCluster, keys: Keys) -> None:
    """The store elects within the call's deadline, so guarded writes meet no error here either."""
    victim = await broken_three.leader()
    async with session(broken_three, victim) as etcd, traffic(etcd, keys) as work:
        victim.kill()
        await work.goes_on()
        assert work.guarded == []


async def test_pause_of_the_member_in_use(broken_three: EtcdCluster, keys: Keys) -> None:
    """A member hangs with its sockets open: a call leaves it within the deadline, and later calls do not use it
    again."""
    victim = await follower(broken_three)
    async with session(broken_three, victim) as etcd, traffic(etcd, keys) as work:
        victim.pause()
        await work.goes_on()
        assert work.guarded == []
        assert len(work.plain) <= 1
        assert all(isinstance(error, OutcomeUnknown) for error in work.plain)
        assert etcd.endpoint != victim.endpoint


async def test_a_read_leaves_a_paused_member_in_its_deadline(broken_three: EtcdCluster, keys: Keys) -> None:
    """One call, sent to a member that has just been paused, is answered by another."""
    victim = await follower(broken_three)
    async with session(broken_three, victim) as etcd:
        await etcd.put(keys.head, b"x")
        victim.pause()
        found = await etcd.get(keys.head)
        assert found is not None


async def test_many_who_leave_a_member_move_once(broken_three: EtcdCluster, keys: Keys) -> None:
    """All calls and streams of a session fail over to the same next endpoint, and stay there."""
    victim = await follower(broken_three)
    async with session(broken_three, victim) as etcd:
        await asyncio.gather(*(etcd.get(keys.head) for _ in range(20)))
        victim.pause()
        await asyncio.gather(*(etcd.get(keys.head) for _ in range(20)))
        assert etcd.endpoint == etcd.settings.endpoints[1]


async def test_move_leader_under_traffic(etcd_three: EtcdCluster, keys: Keys) -> None:
    """etcd's leadership goes to the member that is named, and no call fails."""
    leader = await etcd_three.leader()
    async with session(etcd_three, leader) as etcd, traffic(etcd, keys) as work:
        for _ in range(3):
            leader = await etcd_three.leader()
            target = next(member for member in etcd_three.members if member is not leader)
            target_id = (await maintenance.status(etcd, target.endpoint)).member
            await maintenance.move_leader(etcd, leader.endpoint, target_id)
            assert await etcd_three.leader() is target
            await work.goes_on(5)
        assert work.guarded == []


async def test_outage_and_return_of_all(broken_three: EtcdCluster, keys: Keys) -> None:
    """Without members calls raise Unavailable. When the members return, calls succeed again without any action."""
    async with session(broken_three) as etcd:
        await etcd.put(keys.head, b"x")
        for member in broken_three.members:
            member.kill()

        async def surely_not() -> bool:  # a channel may need a moment to detect the refused connection
            return isinstance(await error_of(etcd.put(keys.head, b"y", timeout_s=0.5)), Unavailable)

        await eventually(surely_not)
        for _ in range(3):
            with pytest.raises(Unavailable):
                await etcd.put(keys.head, b"y", timeout_s=0.5)
        broken_three.mend()
        await broken_three.wait_healthy()
        found = await etcd.get(keys.head, timeout_s=5.0)
        assert found is not None
        assert (found.value, found.version) == (b"x", 1)


async def test_without_a_quorum_nothing_is_claimed(broken_three: EtcdCluster, keys: Keys) -> None:
    """The last member soon reports that it has no leader.

    From then on writes certainly do not happen, and reads return nothing old.
    """
    first, *others = broken_three.members
    async with session(broken_three, first) as etcd:
        await etcd.put(keys.head, b"x")
        for member in others:
            member.kill()

        async def surely_not() -> bool:
            try:
                await etcd.put(keys.head, b"y", timeout_s=0.5)
            except NodectlError as error:
                return isinstance(error, Unavailable)
            raise AssertionError("written without a quorum")

        await eventually(surely_not)
        with pytest.raises(Unavailable):
            await etcd.get(keys.head, timeout_s=0.5)
        assert len(await maintenance.members(etcd)) == 3  # still answered
        await eventually(lambda: _knows_no_leader(etcd, first), "the member that is left has no leader")


async def test_a_member_cut_off_from_its_peers(keys: Keys) -> None:
    """Its clients still reach it and it answers them, but it has no leader: the session leaves it."""
    async with PeerNetwork(3) as network:
        cluster = network.cluster
        victim = await follower(cluster)
        async with session(cluster, victim) as etcd, traffic(etcd, keys) as work:
            network.isolate(victim)
            await work.goes_on(timeout_s=20.0)
            assert work.guarded == []
            assert etcd.endpoint != victim.endpoint
            await eventually(lambda: _knows_no_leader(etcd, victim), "the victim has no leader")
            network.heal()
            await cluster.wait_healthy()
            await work.goes_on()


async def _knows_no_leader(etcd: Etcd, member: Member) -> bool:
    return (await maintenance.status(etcd, member.endpoint, timeout_s=10.0)).leader == 0
