"""The transactions of the election: a term is won once, and its compares exclude all others."""

from __future__ import annotations

import asyncio
import secrets

from nodestore.cluster.election import (
    EpochSeen,
    Fence,
    LeaderSeen,
    TakeoverLost,
    TakeoverWon,
    confirm_takeover,
    ensure_epoch,
    new_leader_record,
    parse_leader,
    resign,
    resignation_reason,
    takeover,
)
from nodestore.errors import OutcomeUnknown
from nodestore.etcd.session import Etcd, op_put
from nodestore.schema.keys import Keys
from nodestore.schema.models import Applied, ConfigRecord, Epoch, Head, Paused
from tests.conformance.stores import PATIENT_S, StoreUnderTest
from tests.faults.network.proxy import Mode
from tests.support.waiting import eventually


async def attempt_takeover(
    etcd: Etcd,
    keys: Keys,
    name: str,
    seen: LeaderSeen,
    *,
    epoch: EpochSeen | None = None,
    nonce: str = "",
    next_index: int = 1,
) -> tuple[TakeoverWon | TakeoverLost, int]:
    """One attempt to take over from `seen`; its result and its lease."""
    lease, _ = await etcd.grant(3600)
    me = new_leader_record(
        master=name, host=name, urls=(), nonce=nonce or secrets.token_hex(8), cause="first", why="test"
    )
    epoch = epoch or await ensure_epoch(etcd, keys)
    return await takeover(etcd, keys, me=me, lease=lease, seen=seen, epoch=epoch, next_index=next_index), lease


async def read_leader(etcd: Etcd, keys: Keys) -> LeaderSeen:
    return parse_leader(await etcd.get(keys.leader))


async def can_write(etcd: Etcd, keys: Keys, fence: Fence) -> bool:
    """Whether a write with this fence succeeds."""
    return (await etcd.txn(fence.compares(keys), [op_put(keys.state + "x", b"{}")])).succeeded


async def test_the_epoch_is_created_once(store: StoreUnderTest, keys: Keys) -> None:
    """Of several concurrent calls one creates epoch 1, and all return it with the same revision."""
    async with store.session() as etcd:
        epochs = await asyncio.gather(*(ensure_epoch(etcd, keys) for _ in range(3)))
        assert epochs[0].epoch == 1
        assert len(set(epochs)) == 1


async def test_a_takeover_brings_all_bearings(store: StoreUnderTest, keys: Keys) -> None:
    """A takeover returns head, `applied`, the configuration and up to seven entries; its revision is the term."""
    async with store.session() as etcd:
        await ensure_epoch(etcd, keys)
        head = await etcd.put(keys.head, Head(index=12, nonce="n").encode())
        await etcd.put(keys.applied, Applied(index=12, base=12).encode())
        await etcd.put(keys.config_current, ConfigRecord(version=1, actor="a", time=0.0, inventory={}).encode())
        for index in range(1, 13):
            await etcd.put(keys.entry(index), b"{}")
        won, lease = await attempt_takeover(etcd, keys, "m1", LeaderSeen(), next_index=4)
        assert isinstance(won, TakeoverWon)
        leader = await read_leader(etcd, keys)
        assert (leader.revision, leader.lease) == (won.fence.term.revision, lease)
        assert leader.record is not None
        assert leader.record.nonce == won.fence.nonce
        assert [kv is not None for kv in (won.head, won.applied, won.config)] == [True] * 3
        assert won.head is not None
        assert won.head.mod_revision == head
        assert [kv.key for kv in won.tail.kvs] == [keys.entry(index) for index in range(4, 11)]
        assert won.tail.has_more
        assert await can_write(etcd, keys, won.fence)


async def test_of_those_who_saw_the_same_one_wins(store: StoreUnderTest, keys: Keys) -> None:
    """Of several concurrent takeovers one wins, and the others are told the winner."""
    async with store.session() as etcd:
        epoch = await ensure_epoch(etcd, keys)
        seen = await read_leader(etcd, keys)
        tried = await asyncio.gather(*(attempt_takeover(etcd, keys, f"m{n}", seen, epoch=epoch) for n in range(5)))
        outcomes = [outcome for outcome, _ in tried]
        won = [outcome for outcome in outcomes if isinstance(outcome, TakeoverWon)]
        assert len(won) == 1
        leader = (await read_leader(etcd, keys)).record
        assert leader is not None
        for lost in outcomes:
            assert isinstance(lost, TakeoverWon) or (lost.reason, lost.paused) == (
                f"{leader.id} became the leader first",
                False,
            )
        assert len((await etcd.range(keys.terms)).kvs) == 1


async def test_a_takeover_ends_the_term_before_it(store: StoreUnderTest, keys: Keys) -> None:
    """After a takeover the old term's fenced writes, its resignation and the end of its lease have no effect."""
    async with store.session() as etcd:
        first, old_lease = await attempt_takeover(etcd, keys, "m1", LeaderSeen())
        assert isinstance(first, TakeoverWon)
        assert await can_write(etcd, keys, first.fence)
        second, _ = await attempt_takeover(etcd, keys, "m2", await read_leader(etcd, keys))
        assert isinstance(second, TakeoverWon)
        assert second.fence.term > first.fence.term
        assert not await can_write(etcd, keys, first.fence)
        assert not await resign(etcd, keys, first.fence, "too late")
        await etcd.revoke(old_lease)
        assert await can_write(etcd, keys, second.fence)
        leader = (await read_leader(etcd, keys)).record
        assert leader is not None
        assert leader.id == "m2"


async def test_resigning_makes_room_and_says_why(store: StoreUnderTest, keys: Keys) -> None:
    """A resignation deletes `leader` and records its reason, so that the next takeover wins."""
    async with store.session() as etcd:
        first, _ = await attempt_takeover(etcd, keys, "m1", LeaderSeen())
        assert isinstance(first, TakeoverWon)
        assert await resign(etcd, keys, first.fence, "maintenance")
        assert await etcd.get(keys.leader) is None
        assert await resignation_reason(etcd, keys, first.fence.nonce) == "maintenance"
        assert not await resign(etcd, keys, first.fence, "again")
        assert not await can_write(etcd, keys, first.fence)
        second, _ = await attempt_takeover(etcd, keys, "m2", LeaderSeen())
        assert isinstance(second, TakeoverWon)
        assert second.fence.term > first.fence.term


async def test_pause_and_another_epoch_stop_a_takeover(store: StoreUnderTest, keys: Keys) -> None:
    """A takeover fails under a pause or in another epoch, and its result says why."""
    async with store.session() as etcd:
        epoch = await ensure_epoch(etcd, keys)
        await etcd.put(keys.paused, Paused(actor="a", time=0.0).encode())
        paused, _ = await attempt_takeover(etcd, keys, "m1", LeaderSeen())
        assert isinstance(paused, TakeoverLost)
        assert paused.paused
        await etcd.delete(keys.paused)
        await etcd.put(keys.epoch, Epoch(epoch=2).encode())
        changed, _ = await attempt_takeover(etcd, keys, "m1", LeaderSeen(), epoch=epoch)
        assert isinstance(changed, TakeoverLost)
        assert "epoch" in changed.reason
        won, _ = await attempt_takeover(etcd, keys, "m1", LeaderSeen())
        assert isinstance(won, TakeoverWon)
        assert won.fence.term.epoch == 2
        await etcd.put(keys.epoch, Epoch(epoch=3).encode())
        assert not await can_write(etcd, keys, won.fence)


async def test_a_term_whose_reply_was_lost_is_claimed(store: StoreUnderTest, keys: Keys) -> None:
    """A term whose reply was lost is confirmed with the current head and journal, until it is over."""
    async with store.session() as etcd:
        won, _ = await attempt_takeover(etcd, keys, "m1", LeaderSeen(), nonce="mine")
        assert isinstance(won, TakeoverWon)
        await etcd.put(keys.head, Head(index=1, nonce="n").encode())
        await etcd.put(keys.entry(1), b"{}")
        seen, epoch = await read_leader(etcd, keys), await ensure_epoch(etcd, keys)
        again = await confirm_takeover(etcd, keys, seen=seen, epoch=epoch, next_index=1)
        assert isinstance(again, TakeoverWon)
        assert again.fence == won.fence
        assert again.head is not None
        assert len(again.tail.kvs) == 1
        await resign(etcd, keys, won.fence, "test")
        assert isinstance(await confirm_takeover(etcd, keys, seen=seen, epoch=epoch, next_index=1), TakeoverLost)


async def test_a_repeated_takeover_finds_that_it_has_won(store: StoreUnderTest, keys: Keys) -> None:
    """A takeover whose first reply is lost recognises its own nonce in `leader` and wins."""
    async with store.link(repeats_arrive=True, call_timeout_s=PATIENT_S) as link, store.session() as witness:
        await ensure_epoch(witness, keys)
        lease, _ = await link.etcd.grant(3600)
        me = new_leader_record(master="m1", host="h", urls=(), nonce="mine", cause="first", why="test")
        epoch = await ensure_epoch(link.etcd, keys)
        link.set(down=Mode.DROP)
        won = await takeover(link.etcd, keys, me=me, lease=lease, seen=LeaderSeen(), epoch=epoch, next_index=1)
        assert isinstance(won, TakeoverWon)
        leader = await witness.get(keys.leader)
        assert leader is not None
        assert (leader.version, leader.mod_revision) == (1, won.fence.term.revision)


async def test_a_late_copy_does_not_bring_a_resigned_term_back(store: StoreUnderTest, keys: Keys) -> None:
    """A late copy of a takeover fails after the resignation, because `terms/<nonce>` exists."""
    async with store.link(repeats_arrive=True, call_timeout_s=PATIENT_S) as link, store.session() as witness:
        epoch = await ensure_epoch(witness, keys)
        lease, _ = await witness.grant(3600)
        me = new_leader_record(master="m1", host="h", urls=(), nonce="mine", cause="first", why="test")
        link.set(up=Mode.HOLD)
        won = await takeover(link.etcd, keys, me=me, lease=lease, seen=LeaderSeen(), epoch=epoch, next_index=1)
        assert isinstance(won, TakeoverWon)
        assert await resign(witness, keys, won.fence, "test")
        link.forward()
        marker = await revision_after_held(link.etcd, witness, keys)
        assert await witness.get(keys.leader, revision=marker) is None


async def test_a_late_takeover_meets_another_leader(store: StoreUnderTest, keys: Keys) -> None:
    """A takeover that arrives after another masterd has taken over changes nothing."""
    async with store.link() as link, store.session() as witness:
        epoch = await ensure_epoch(witness, keys)
        lease, _ = await witness.grant(3600)
        me = new_leader_record(master="late", host="h", urls=(), nonce="late", cause="first", why="test")
        link.set(up=Mode.HOLD)
        task = asyncio.create_task(
            takeover(link.etcd, keys, me=me, lease=lease, seen=LeaderSeen(), epoch=epoch, next_index=1)
        )
        await link.wait_held(up=True)
        won, _ = await attempt_takeover(witness, keys, "m2", LeaderSeen())
        assert isinstance(won, TakeoverWon)
        await asyncio.wait((task,))
        assert isinstance(task.exception(), OutcomeUnknown)
        link.forward()
        marker = await revision_after_held(link.etcd, witness, keys)
        leader = await witness.get(keys.leader, revision=marker)
        assert leader is not None
        assert leader.mod_revision == won.fence.term.revision
        assert await witness.get(keys.term("late")) is None


async def revision_after_held(late: Etcd, witness: Etcd, keys: Keys) -> int:
    """A revision after all held requests were processed: this put is sent after them over the same link."""

    async def marked() -> bool:
        try:
            await late.put(keys.paused, b"marker")
        except OutcomeUnknown:
            return False
        return True

    await eventually(marked, "the link delivers again")
    marker = await witness.get(keys.paused)
    assert marker is not None
    return marker.mod_revision
