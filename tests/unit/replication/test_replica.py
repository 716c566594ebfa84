"""What a replica holds after a takeover, and when the store's epoch changes."""

from __future__ import annotations

import pytest

from masterd.replication.images import Image
from masterd.replication.replica import Replica
from masterd.state_machine.remembered import RememberedResult
from masterd.state_machine.state import State
from nodestore.cluster.election import Fence, TakeoverWon
from nodestore.errors import Garbage
from nodestore.etcd.pb import etcd_pb2 as pb
from nodestore.etcd.session import Range
from nodestore.schema.models import CommandRecord, Entry, Epoch, Head, Term
from tests.support.fakes.first_term import KEYS, Term1, first_term

NOTHING = Range(1, (), False, 0)


def _commit(term: Term1, first: int, last: int, epoch: int = 1) -> None:
    """Write entries of one command each, and head, as a leader does."""
    for index in range(first, last + 1):
        command = CommandRecord(index=index, id=f"{epoch}-{index}", actor="a", time=1.0, name="n", args={})
        entry = Entry(epoch=epoch, term=1, nonce="n", commands=(command,), floor=0)
        term.put(KEYS.entry(index), entry.encode())
    term.put(KEYS.head, Head(index=last, nonce="n").encode())


async def _won(term: Term1, epoch: int = 1) -> TakeoverWon:
    """A takeover that has read `head`, but not the entries."""
    fence = Fence(Term(epoch, 9), 1, "nonce")
    return TakeoverWon(fence, await term.etcd.get(KEYS.head), None, None, NOTHING)


async def test_a_winner_reads_what_its_takeover_did_not_bring() -> None:
    """Up to the head that the takeover has read."""
    async with first_term() as term:
        _commit(term, 1, 9)
        await term.replica.apply_takeover(await _won(term))
        assert (term.replica.index, len(term.replica.state.ids)) == (9, 9)


async def test_a_winner_without_all_entries_up_to_head_does_not_lead() -> None:
    async with first_term() as term:
        _commit(term, 1, 9)
        won = await _won(term)
        term.server.store.delete(pb.DeleteRangeRequest(key=KEYS.entry(9).encode()))
        with pytest.raises(Garbage):
            await term.replica.apply_takeover(won)


async def test_a_replica_forgets_everything_when_the_epoch_grows() -> None:
    """The same index is another command there. So a frozen masterd that wakes keeps nothing of the former store."""
    async with first_term() as term:
        _commit(term, 1, 9)
        await term.replica.catch_up()
        term.delete(KEYS.journal)
        term.put(KEYS.epoch, Epoch(epoch=2).encode())
        _commit(term, 1, 4, epoch=2)
        await term.replica.apply_takeover(await _won(term, epoch=2))
        assert (term.replica.index, term.replica.epoch) == (4, 2)
        assert list(term.replica.state.ids) == [f"2-{index}" for index in range(1, 5)]


async def test_a_snapshot_with_ids_comes_first() -> None:
    """One without ids is loaded only if no other helps: with it, all repeats are refused."""
    async with first_term() as term:
        state = State(index=5, ids={"c-5": RememberedResult(5, 1.0, None)})
        await term.replica.snapshots.write(term.fence, Image.of(state), 0.0)
        await term.replica.snapshots.write(term.fence, Image.of(State(index=6)).without_ids(), 0.0, "named")
        _commit(term, 6, 6)
        await term.replica.catch_up()
        assert (term.replica.index, term.replica.state.floor) == (6, 0)
        assert set(term.replica.state.ids) == {"c-5", "1-6"}
        late = Replica(term.etcd, KEYS)
        term.delete(KEYS.snapshots + f"{5:016d}")
        await late.catch_up()
        assert (late.index, late.state.floor, late.state.ids) == (6, 6, {})
