"""The election's transactions: a term is won once, and what it compares keeps everybody else out."""

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
from tests.conformance.ground import PATIENT_S, Ground
from tests.faults.network.proxy import Mode
from tests.support.waiting import eventually


async def run_for(
    etcd: Etcd,
    keys: Keys,
    name: str,
    seen: LeaderSeen,
    *,
    epoch: EpochSeen | None = None,
    nonce: str = "",
    next_: int = 1,
) -> tuple[TakeoverWon | TakeoverLost, int]:
    """One attempt to take over from what was seen, and the lease that it brought."""
    lease, _ = await etcd.grant(3600)
    me = new_leader_record(
        master=name, host=name, urls=(), nonce=nonce or secrets.token_hex(8), cause="first", why="test"
    )
    epoch = epoch or await ensure_epoch(etcd, keys)
    return await takeover(etcd, keys, me=me, lease=lease, seen=seen, epoch=epoch, next_index=next_), lease


async def seen_in(etcd: Etcd, keys: Keys) -> LeaderSeen:
    return parse_leader(await etcd.get(keys.leader))


async def fenced(etcd: Etcd, keys: Keys, fence: Fence) -> bool:
    """Whether a write under that term lands."""
    return (await etcd.txn(fence.compares(keys), [op_put(keys.state + "x", b"{}")])).succeeded


async def test_the_epoch_is_created_once(ground: Ground, keys: Keys) -> None:
    """As 1; whoever comes later finds it, with its revision."""
    async with ground.session() as etcd:
        found = await asyncio.gather(*(ensure_epoch(etcd, keys) for _ in range(3)))
        assert found[0].epoch == 1
        assert len(set(found)) == 1


async def test_a_takeover_brings_all_bearings(ground: Ground, keys: Keys) -> None:
    """Head, views' mark, configuration and the entries that are missing, seven at most; its revision is the term."""
    async with ground.session() as etcd:
        head = await etcd.put(keys.head, Head(index=12, nonce="n").encode())
        await etcd.put(keys.applied, Applied(index=12, base=12).encode())
        await etcd.put(keys.config_current, ConfigRecord(version=1, actor="a", time=0.0, inventory={}).encode())
        for index in range(1, 13):
            await etcd.put(keys.entry(index), b"{}")
        won, lease = await run_for(etcd, keys, "m1", LeaderSeen(), next_=4)
        assert isinstance(won, TakeoverWon)
        found = await seen_in(etcd, keys)
        assert (found.revision, found.lease) == (won.fence.term.revision, lease)
        assert found.record is not None
        assert found.record.nonce == won.fence.nonce
        assert [kv is not None for kv in (won.head, won.applied, won.config)] == [True] * 3
        assert won.head is not None
        assert won.head.mod_revision == head
        assert [kv.key for kv in won.tail.kvs] == [keys.entry(index) for index in range(4, 11)]
        assert won.tail.has_more
        assert await fenced(etcd, keys, won.fence)


async def test_of_those_who_saw_the_same_one_wins(ground: Ground, keys: Keys) -> None:
    """However many try at once; the others are told who was faster."""
    async with ground.session() as etcd:
        epoch = await ensure_epoch(etcd, keys)
        seen = await seen_in(etcd, keys)
        tried = await asyncio.gather(*(run_for(etcd, keys, f"m{n}", seen, epoch=epoch) for n in range(5)))
        outcomes = [outcome for outcome, _ in tried]
        won = [outcome for outcome in outcomes if isinstance(outcome, TakeoverWon)]
        assert len(won) == 1
        leader = (await seen_in(etcd, keys)).record
        assert leader is not None
        for lost in outcomes:
            assert isinstance(lost, TakeoverWon) or (lost.reason, lost.paused) == (f"{leader.id} was faster", False)
        assert len((await etcd.range(keys.terms)).kvs) == 1


async def test_a_takeover_ends_the_term_before_it(ground: Ground, keys: Keys) -> None:
    """At once, lease or no lease: its fenced writes fail, its resignation does nothing, its lease's end neither."""
    async with ground.session() as etcd:
        first, old_lease = await run_for(etcd, keys, "m1", LeaderSeen())
        assert isinstance(first, TakeoverWon)
        assert await fenced(etcd, keys, first.fence)
        second, _ = await run_for(etcd, keys, "m2", await seen_in(etcd, keys))
        assert isinstance(second, TakeoverWon)
        assert second.fence.term > first.fence.term
        assert not await fenced(etcd, keys, first.fence)
        assert not await resign(etcd, keys, first.fence, "too late")
        await etcd.revoke(old_lease)
        assert await fenced(etcd, keys, second.fence)
        found = (await seen_in(etcd, keys)).record
        assert found is not None
        assert found.id == "m2"


async def test_resigning_makes_room_and_says_why(ground: Ground, keys: Keys) -> None:
    """`leader` goes and the history says it, in one transaction; the next one wins by the absence."""
    async with ground.session() as etcd:
        first, _ = await run_for(etcd, keys, "m1", LeaderSeen())
        assert isinstance(first, TakeoverWon)
        assert await resign(etcd, keys, first.fence, "maintenance")
        assert await etcd.get(keys.leader) is None
        assert await resignation_reason(etcd, keys, first.fence.nonce) == "maintenance"
        assert not await resign(etcd, keys, first.fence, "again")
        assert not await fenced(etcd, keys, first.fence)
        second, _ = await run_for(etcd, keys, "m2", LeaderSeen())
        assert isinstance(second, TakeoverWon)
        assert second.fence.term > first.fence.term


async def test_pause_and_another_epoch_stop_a_takeover(ground: Ground, keys: Keys) -> None:
    """Both are compared in the transaction itself, and named in the answer."""
    async with ground.session() as etcd:
        epoch = await ensure_epoch(etcd, keys)
        await etcd.put(keys.paused, Paused(actor="a", time=0.0).encode())
        paused, _ = await run_for(etcd, keys, "m1", LeaderSeen())
        assert isinstance(paused, TakeoverLost)
        assert paused.paused
        await etcd.delete(keys.paused)
        await etcd.put(keys.epoch, Epoch(epoch=2).encode())
        changed, _ = await run_for(etcd, keys, "m1", LeaderSeen(), epoch=epoch)
        assert isinstance(changed, TakeoverLost)
        assert "epoch" in changed.reason
        won, _ = await run_for(etcd, keys, "m1", LeaderSeen())
        assert isinstance(won, TakeoverWon)
        assert won.fence.term.epoch == 2
        await etcd.put(keys.epoch, Epoch(epoch=3).encode())
        assert not await fenced(etcd, keys, won.fence)


async def test_a_term_whose_reply_was_lost_is_claimed(ground: Ground, keys: Keys) -> None:
    """With head and journal as they are then; once it is over there is nothing to claim."""
    async with ground.session() as etcd:
        won, _ = await run_for(etcd, keys, "m1", LeaderSeen(), nonce="mine")
        assert isinstance(won, TakeoverWon)
        await etcd.put(keys.head, Head(index=1, nonce="n").encode())
        await etcd.put(keys.entry(1), b"{}")
        seen, epoch = await seen_in(etcd, keys), await ensure_epoch(etcd, keys)
        again = await confirm_takeover(etcd, keys, seen=seen, epoch=epoch, next_index=1)
        assert isinstance(again, TakeoverWon)
        assert again.fence == won.fence
        assert again.head is not None
        assert len(again.tail.kvs) == 1
        await resign(etcd, keys, won.fence, "test")
        assert isinstance(await confirm_takeover(etcd, keys, seen=seen, epoch=epoch, next_index=1), TakeoverLost)


async def test_a_repeated_takeover_finds_that_it_has_won(ground: Ground, keys: Keys) -> None:
    """The first copy's reply is lost, the second copy's compares fail, and its own nonce is in `leader`."""
    async with ground.way(repeats_arrive=True, call_timeout_s=PATIENT_S) as way, ground.session() as witness:
        await ensure_epoch(witness, keys)
        lease, _ = await way.etcd.grant(3600)
        me = new_leader_record(master="m1", host="h", urls=(), nonce="mine", cause="first", why="test")
        epoch = await ensure_epoch(way.etcd, keys)
        way.set(down=Mode.DROP)
        won = await takeover(way.etcd, keys, me=me, lease=lease, seen=LeaderSeen(), epoch=epoch, next_index=1)
        assert isinstance(won, TakeoverWon)
        found = await witness.get(keys.leader)
        assert found is not None
        assert (found.version, found.mod_revision) == (1, won.fence.term.revision)


async def test_a_late_copy_does_not_bring_a_resigned_term_back(ground: Ground, keys: Keys) -> None:
    """`leader` is absent again, as the copy had seen it: that its `terms/<nonce>` is there stops it."""
    async with ground.way(repeats_arrive=True, call_timeout_s=PATIENT_S) as way, ground.session() as witness:
        epoch = await ensure_epoch(witness, keys)
        lease, _ = await witness.grant(3600)
        me = new_leader_record(master="m1", host="h", urls=(), nonce="mine", cause="first", why="test")
        way.set(up=Mode.HOLD)
        won = await takeover(way.etcd, keys, me=me, lease=lease, seen=LeaderSeen(), epoch=epoch, next_index=1)
        assert isinstance(won, TakeoverWon)
        assert await resign(witness, keys, won.fence, "test")
        way.forward()
        marker = await behind(way.etcd, witness, keys)
        assert await witness.get(keys.leader, revision=marker) is None


async def test_a_late_takeover_meets_another_leader(ground: Ground, keys: Keys) -> None:
    """Its sender had given it up as unknown; somebody else led meanwhile; it changes nothing."""
    async with ground.way() as way, ground.session() as witness:
        epoch = await ensure_epoch(witness, keys)
        lease, _ = await witness.grant(3600)
        me = new_leader_record(master="late", host="h", urls=(), nonce="late", cause="first", why="test")
        way.set(up=Mode.HOLD)
        task = asyncio.create_task(
            takeover(way.etcd, keys, me=me, lease=lease, seen=LeaderSeen(), epoch=epoch, next_index=1)
        )
        await way.wait_held(up=True)
        won, _ = await run_for(witness, keys, "m2", LeaderSeen())
        assert isinstance(won, TakeoverWon)
        await asyncio.wait((task,))
        assert isinstance(task.exception(), OutcomeUnknown)
        way.forward()
        marker = await behind(way.etcd, witness, keys)
        found = await witness.get(keys.leader, revision=marker)
        assert found is not None
        assert found.mod_revision == won.fence.term.revision
        assert await witness.get(keys.term("late")) is None


async def behind(late: Etcd, witness: Etcd, keys: Keys) -> int:
    """A revision by which all that was held on the way has been decided: what is sent after it comes after it."""

    async def marked() -> bool:
        try:
            await late.put(keys.paused, b"marker")
        except OutcomeUnknown:
            return False
        return True

    await eventually(marked, "the way carries again")
    found = await witness.get(keys.paused)
    assert found is not None
    return found.mod_revision
