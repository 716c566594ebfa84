"""Replicas under truncation, deleted and damaged snapshots, interrupted reads, and restored backups."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from masterd.replication import replica as replica_module
from masterd.replication.images import Image
from masterd.replication.replica import Replica
from masterd.replication.snapshots import Snapshots
from masterd.state_machine.batch import CommandRequest
from masterd.term.leader import LeaderSettings
from masterd.term.publisher import Publisher
from masterd.term.retention import JournalRetention, RetentionSettings
from nodestore.cluster.election import TakeoverWon, ensure_epoch
from nodestore.errors import (
    Denied,
    Garbage,
    LeadershipLost,
)
from nodestore.etcd.session import KV, Etcd, EtcdSettings, Range
from nodestore.schema.keys import Keys
from nodestore.schema.models import Epoch, Manifest
from nodestore.support.time_slices import TimeSlice
from tests.faults.late.transactions import RunningLeader, run_leader, session, stage, take_over
from tests.faults.network.proxy import Mode
from tests.support.etcd_cluster import EtcdCluster
from tests.support.toy_app import same
from tests.support.waiting import eventually

_SMALL_SNAPSHOTS = RetentionSettings(
    snapshot_every_commands=10, keep_ids=False, check_every_s=0.01, snapshot_after_s=0.0
)


async def _write_snapshots_and_truncate(etcd: Etcd, keys: Keys, seat: RunningLeader, count: int = 3) -> None:
    """Send commands until `count` snapshots were written and the journal was truncated."""
    for number in range(count):
        for command in range(10):
            await seat.add(f"s{number}-{command}")
        index = seat.replica.index

        async def written(least: int = index - 9) -> bool:
            return any(item.index >= least for item in (await Snapshots(etcd, keys).manifests()).values())

        await eventually(written, "a snapshot is written")

    async def truncated() -> bool:
        return (await etcd.range(keys.journal, limit=1)).kvs[0].key > keys.entry(5)

    await eventually(truncated, "the journal is truncated")


async def test_a_standby_that_lags_behind_a_truncation(etcd_one: EtcdCluster, keys: Keys) -> None:
    """A replica behind a truncation loads a snapshot and has the leader's state, with ids of truncated commands."""
    async with session(etcd_one) as etcd:
        fresh, lagging = Replica(etcd, keys), Replica(etcd, keys)
        settings = LeaderSettings(retention=_SMALL_SNAPSHOTS)
        async with run_leader(etcd, etcd, keys, settings=settings) as seat:
            await seat.add("first")
            await lagging.catch_up()
            await _write_snapshots_and_truncate(etcd, keys, seat)
            await seat.add("last")
            for replica in (fresh, lagging):
                await replica.catch_up()
                assert same(replica.state, seat.replica.state)
                for index in range(replica.index):
                    recent = replica.recent_after(index)
                    assert recent is None or (recent[0].first, recent[-1].last) == (index + 1, replica.index)
            total = seat.replica.state.documents["sum"].value["sum"]
        async with run_leader(etcd, etcd, keys, "m2", settings=settings) as seat:
            again = await seat.add("first")
            assert (again.result, again.index, again.repeated) == (1, 1, True)
            assert (await seat.add("new")).result == total + 1


class HookedEtcd(Etcd):
    """A session with a hook before each read of a single key."""

    def __init__(self, cluster: EtcdCluster) -> None:
        super().__init__(EtcdSettings(endpoints=cluster.endpoints))
        self.before_get: Any = None

    async def get(self, key: str, **more: Any) -> KV | None:
        if self.before_get is not None:
            await self.before_get(key)
        return await super().get(key, **more)


async def test_what_is_remembered_of_a_journal_ends_where_the_state_is(etcd_one: EtcdCluster, keys: Keys) -> None:
    """A replica that loaded a snapshot does not return entries from memory that end before its index."""
    async with session(etcd_one) as etcd:
        lagging = Replica(etcd, keys)
        async with run_leader(etcd, etcd, keys) as seat:
            await seat.add("x1")
            await lagging.catch_up()
            assert lagging.recent_after(0) is not None
            await seat.add("x2")
            await seat.leader.archive.save("second")
            await etcd.delete(keys.entry(2))
            await lagging.catch_up()
            assert lagging.index == 2
            assert lagging.recent_after(0) is None
            assert lagging.recent_after(1) is None
            await seat.add("x3")
            await lagging.catch_up()
            recent = lagging.recent_after(2)
            assert recent is not None
            assert [entry.last for entry in recent] == [3]


@pytest.mark.parametrize("left", ["an older one", "none"])
async def test_a_snapshot_that_is_deleted_while_it_is_read(etcd_one: EtcdCluster, keys: Keys, left: str) -> None:
    """A replica whose snapshot is deleted during the read loads the next older one, or raises Garbage."""
    async with session(etcd_one) as etcd, HookedEtcd(etcd_one) as hooked:
        replica = Replica(hooked, keys)
        settings = LeaderSettings(retention=_SMALL_SNAPSHOTS)
        async with run_leader(etcd, etcd, keys, settings=settings) as seat:
            await _write_snapshots_and_truncate(etcd, keys, seat)
            names = sorted(await replica.snapshots.manifests(), reverse=True)
            gone = names[:1] if left == "an older one" else names

            async def delete(key: str) -> None:
                if key.startswith(keys.snapshots) and not key.endswith("manifest"):
                    hooked.before_get = None
                    for name in gone:
                        await etcd.delete(keys.snapshot(name), prefix=True)

            hooked.before_get = delete
            if left == "none":
                with pytest.raises(Garbage, match="gap"):
                    await replica.catch_up()
                assert replica.index == 0
                await retention_in_term(seat).write_snapshot()
            await replica.catch_up()
            assert same(replica.state, seat.replica.state)


@asynccontextmanager
async def run_leader_after_inspection(etcd: Etcd, keys: Keys) -> AsyncIterator[RunningLeader]:
    """Run a leader whose retention has already deleted incomplete snapshots, so that it does not delete the test's."""
    fragment = keys.snapshot(keys.snapshot_name(1, "fragment")) + "000000"
    await ensure_epoch(etcd, keys)  # a store that holds snapshots but no epoch is not new
    await etcd.put(fragment, b"{}")

    async def deleted() -> bool:
        return await etcd.get(fragment) is None

    async with run_leader(etcd, etcd, keys) as leader:
        await eventually(deleted, "the leader has deleted the fragment")
        yield leader


def retention_in_term(
    leader: RunningLeader, settings: RetentionSettings = _SMALL_SNAPSHOTS, replica: Replica | None = None
) -> JournalRetention:
    """A retention of the test's own, in that leader's term."""
    replica = replica or leader.replica
    publisher = Publisher(replica.etcd, replica.keys, leader.won.fence)
    publisher.complete_up_to = sys.maxsize  # in these tests every commit includes its views
    return JournalRetention(leader.won.fence, replica, publisher, settings, lambda: 0.0)


async def test_fragments_and_manifests_without_chunks_count_for_nothing(etcd_one: EtcdCluster, keys: Keys) -> None:
    """Fragments, and manifests without chunks or with garbage, are no snapshots and are deleted by the next pruning."""
    async with session(etcd_one) as etcd, run_leader_after_inspection(etcd, keys) as seat:
        await seat.add("x1")
        own_retention = retention_in_term(seat)
        kept = [await own_retention.write_snapshot()]
        await seat.add("x2")
        kept.append(await own_retention.write_snapshot())
        late = Manifest(index=9, nonce="late", chunks=2, size_bytes=1, sha256="", time=0, epoch=1, documents=0)
        await etcd.put(keys.snapshot(keys.snapshot_name(9, "late")) + "manifest", late.encode())
        await etcd.put(keys.snapshot(keys.snapshot_name(9, "half")) + "000000", b"{}")
        await etcd.put(keys.snapshot(keys.snapshot_name(8, "odd")) + "manifest", b"not json")
        newest = await Snapshots(etcd, keys).read_newest()
        assert newest is not None
        assert newest.index == 2
        await own_retention.truncate_and_prune()
        left = {kv.key.removeprefix(keys.snapshots).split("/")[0] for kv in (await etcd.range(keys.snapshots)).kvs}
        assert left == set(kept)


async def test_leaders_that_follow_one_another_quickly_do_not_fill_etcd_with_halves(
    etcd_one: EtcdCluster, keys: Keys
) -> None:
    """A new leader deletes the fragments of others, and writes a due snapshot only after its term has lasted."""
    async with session(etcd_one) as etcd, run_leader_after_inspection(etcd, keys) as seat:
        for number in range(20):
            await seat.add(f"x{number}")
        for settled_s, found in ((600.0, 0), (0.0, 1)):
            own_retention = retention_in_term(seat, replace(_SMALL_SNAPSHOTS, snapshot_after_s=settled_s))
            for number in range(20):
                await etcd.put(keys.snapshot(keys.snapshot_name(number, "half")) + "000000", b"{}")
            await own_retention.check()
            names = {kv.key.removeprefix(keys.snapshots).split("/")[0] for kv in (await etcd.range(keys.snapshots)).kvs}
            assert len(names) == found


async def test_room_is_made_by_what_snapshots_there_are_before_another_one_takes_some(
    etcd_one: EtcdCluster, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Making room truncates the journal by the existing snapshots before it writes another one."""
    async with session(etcd_one) as etcd, run_leader_after_inspection(etcd, keys) as seat:
        own_retention = retention_in_term(seat)
        for number in range(2):
            await seat.add(f"x{number}")
            await own_retention.write_snapshot()

        async def never(name: str | None = None) -> str:
            raise LeadershipLost("deposed in the middle of it")

        monkeypatch.setattr(own_retention, "write_snapshot", never)
        with pytest.raises(LeadershipLost):
            await own_retention.make_room()
        assert (await etcd.range(keys.journal)).kvs[0].key == keys.entry(2)


async def test_damage_to_a_snapshot_stops_truncation_there(etcd_one: EtcdCluster, keys: Keys) -> None:
    """A damaged snapshot does not count as one of the two verified ones, and is deleted."""
    async with session(etcd_one) as etcd, run_leader_after_inspection(etcd, keys) as seat:
        own_retention = retention_in_term(seat)
        names = []
        for number in range(3):
            await seat.add(f"x{number}")
            names.append(await own_retention.write_snapshot())
        key = keys.snapshot(names[1]) + "000001"
        chunk = await etcd.get(key)
        assert chunk is not None
        await etcd.put(key, chunk.value.replace(b'"sum":2', b'"sum":3'))
        seat.replica.snapshots.verified.clear()
        await own_retention.truncate_and_prune()
        assert (await etcd.range(keys.journal)).kvs[0].key == keys.entry(2)
        assert set(await seat.replica.snapshots.manifests()) == {names[0], names[2]}


async def test_a_deposed_leader_s_housekeeping_deletes_nothing(etcd_one: EtcdCluster, keys: Keys) -> None:
    """The retention of a deposed leader raises LeadershipLost and neither deletes nor writes anything."""
    async with session(etcd_one) as etcd, run_leader_after_inspection(etcd, keys) as seat:
        own_retention = retention_in_term(seat)
        for number in range(3):
            await seat.add(f"x{number}")
            await own_retention.write_snapshot()
        await take_over(etcd, keys, "m2")
        before = (await etcd.range(keys.journal)).kvs, (await etcd.range(keys.snapshots)).kvs
        for work in (own_retention.truncate_and_prune, own_retention.write_snapshot):
            with pytest.raises(LeadershipLost):
                await work()
        assert ((await etcd.range(keys.journal)).kvs, (await etcd.range(keys.snapshots)).kvs) == before


@pytest.mark.parametrize("entries", [3, 40])
async def test_a_takeover_that_finds_more_than_it_can_carry(etcd_one: EtcdCluster, keys: Keys, entries: int) -> None:
    """Entries that the takeover transaction could not return are read afterwards."""
    async with session(etcd_one) as etcd:
        async with run_leader(etcd, etcd, keys) as seat:
            for number in range(entries):
                await seat.add(f"x{number}")
            state = seat.replica.state
        won = await take_over(etcd, keys, "m2")
        assert won.tail.has_more is (entries > len(won.tail.kvs))
        replica = Replica(etcd, keys)
        await replica.apply_takeover(won)
        assert same(replica.state, state)


async def test_a_replica_goes_on_after_a_refusal(
    etcd_one: EtcdCluster, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replica whose credentials are refused reports it, and catches up once they are accepted."""
    async with session(etcd_one) as etcd:
        replica, catch_up = Replica(etcd, keys), Replica.catch_up
        refusals: list[str | None] = []

        async def refused_once(self: Replica) -> int:
            if self is not replica:  # the leader's
                return await catch_up(self)
            refusals.append(self.problem)
            if len(refusals) == 1:
                raise Denied("etcd refuses")
            return await catch_up(self)

        monkeypatch.setattr(Replica, "catch_up", refused_once)
        async with run_leader(etcd, etcd, keys) as seat:
            await seat.add("x1")
            following = asyncio.create_task(replica.follow())
            await eventually(lambda: replica.index == 1 and replica.problem is None, "the replica has caught up")
            following.cancel()
            await asyncio.wait([following])
        assert refusals[1] == "etcd refuses"
        assert replica.problem is None


class Interrupted(Etcd):
    """A session whose owner is cancelled at the n-th read of a range."""

    def __init__(self, cluster: EtcdCluster, at: int) -> None:
        super().__init__(EtcdSettings(endpoints=cluster.endpoints))
        self.left = at

    async def range(self, *arguments: Any, **more: Any) -> Range:
        self.left -= 1
        if self.left == 0:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)
        return await super().range(*arguments, **more)


@pytest.mark.parametrize("at", [1, 2, 3, 4, 5, 6])
async def test_a_standby_that_wins_while_it_catches_up(etcd_one: EtcdCluster, keys: Keys, at: int) -> None:
    """A leader whose catch-up was cancelled at any read has the complete state before it serves."""
    async with session(etcd_one) as etcd, Interrupted(etcd_one, at) as interrupted:
        async with run_leader(etcd, etcd, keys, settings=LeaderSettings(retention=_SMALL_SNAPSHOTS)) as seat:
            await _write_snapshots_and_truncate(etcd, keys, seat)
            await seat.add("last")
            state = seat.replica.state
        replica = Replica(interrupted, keys)
        task = asyncio.create_task(replica.catch_up())
        await asyncio.wait([task])
        won = await take_over(etcd, keys, "m2", next_index=replica.index + 1)
        await replica.apply_takeover(won)
        assert same(replica.state, state)


async def test_a_journal_that_ends_before_its_head_cannot_be_led(etcd_one: EtcdCluster, keys: Keys) -> None:
    """No masterd leads a journal that ends before `head`."""
    async with session(etcd_one) as etcd:
        async with run_leader(etcd, etcd, keys) as seat:
            for number in range(3):
                await seat.add(f"x{number}")
        await etcd.delete(keys.entry(2))
        won: TakeoverWon = await take_over(etcd, keys, "m2")
        with pytest.raises(Garbage):
            await Replica(etcd, keys).apply_takeover(won)


async def test_an_index_learnt_from_a_standby_is_not_ahead(etcd_one: EtcdCluster, keys: Keys) -> None:
    """A command runs even if its `after` is of a commit whose reply the leader has not yet received."""
    async with stage(etcd_one, keys, repeats_arrive=False) as s, run_leader(s.late, s.witness, keys) as seat:
        standby = Replica(s.witness, keys)
        await seat.add("x1")
        s.proxy.set(down=Mode.HOLD)
        first = asyncio.create_task(seat.add("x2"))

        async def ahead() -> bool:
            await standby.catch_up()
            return standby.index == 2

        await eventually(ahead, "the standby has it")
        assert seat.replica.index == 1
        request = CommandRequest("x3", "add", {"path": "sum"}, "t", standby.index)
        second = asyncio.create_task(seat.submit(request))
        s.proxy.forward()
        assert (await first).index == 2
        assert (await second)[0].index == 3


def test_an_image_of_nothing() -> None:
    """A snapshot of an empty state can be encoded and decoded."""
    image = Image.of(Replica(None, Keys("x")).state)  # type: ignore[arg-type]
    assert image.to_state().index == 0


@pytest.mark.parametrize("how", ["following", "winning"])
async def test_a_masterd_that_slept_through_a_restored_backup(etcd_one: EtcdCluster, keys: Keys, how: str) -> None:
    """A replica discards a state of another epoch, even if its indexes would fit."""
    async with session(etcd_one) as etcd:
        asleep = Replica(etcd, keys)
        async with run_leader(etcd, etcd, keys) as seat:
            for number in range(3):
                await seat.add(f"old-{number}")
            backup = {kv.key: kv.value for kv in (await etcd.range(keys.prefix)).kvs}
            await seat.add("lost")
            await asleep.catch_up()
        await etcd.delete(keys.prefix, prefix=True)
        for key, value in backup.items():
            if key != keys.leader:
                await etcd.put(key, Epoch(epoch=2).encode() if key == keys.epoch else value)
        async with run_leader(etcd, etcd, keys, "m2") as seat:
            await seat.add("new-1")
            if how == "following":
                await seat.add("new-2")
                await asleep.catch_up()
                assert same(asleep.state, seat.replica.state)
            state = seat.replica.state
        if how == "winning":
            assert asleep.index == state.index
            await asleep.apply_takeover(await take_over(etcd, keys, "m3", next_index=asleep.index + 1))
        assert same(asleep.state, state)
        assert "lost" not in asleep.state.ids


async def test_catching_up_leaves_others_their_turns(
    etcd_one: EtcdCluster, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other tasks run while a replica reads a long journal."""
    monkeypatch.setattr(replica_module, "TimeSlice", lambda: TimeSlice(0.0))
    seen: set[int] = set()

    async def look(replica: Replica) -> None:
        while True:
            seen.add(replica.index)
            await asyncio.sleep(0)

    async with session(etcd_one) as etcd, run_leader(etcd, etcd, keys) as seat:
        for number in range(30):
            await seat.add(f"x{number}")
        lagging = Replica(etcd, keys)
        looking = asyncio.create_task(look(lagging))
        await lagging.catch_up()
        looking.cancel()
        assert lagging.index == 30
        assert len(seen) > 15


async def test_what_it_took_to_catch_up_makes_no_snapshot_due(etcd_one: EtcdCluster, keys: Keys) -> None:
    """The entries that a new leader read while it caught up make no snapshot due."""
    retention = RetentionSettings(snapshot_every_commands=1_000, snapshot_every_bytes=1_000, snapshot_after_s=0.0)
    async with session(etcd_one) as etcd, run_leader_after_inspection(etcd, keys) as seat:
        for number in range(20):
            await seat.add(f"x{number}")
        await retention_in_term(seat).write_snapshot()
        await seat.add("beyond")
        replica = Replica(etcd, keys)
        await replica.catch_up()
        assert replica.bytes_applied > retention.snapshot_every_bytes
        own_retention = retention_in_term(seat, retention, replica)
        await own_retention.check()
        assert len(await replica.snapshots.manifests()) == 1
        for number in range(20):
            await seat.add(f"y{number}")
        await replica.catch_up()
        await own_retention.check()
        assert len(await replica.snapshots.manifests()) == 2
