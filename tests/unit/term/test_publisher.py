"""Views in chunks: what each chunk compares, what `applied` claims meanwhile, and what a new leader believes of it."""

from __future__ import annotations

from typing import Any

import pytest

from masterd.state_machine.specs import SpecDeriver
from masterd.state_machine.state import State, VersionedDocument
from masterd.state_machine.views import TxnBudget
from masterd.term.publisher import Publisher
from nodestore.errors import LeadershipLost
from nodestore.etcd.pb import etcd_pb2 as pb
from nodestore.schema.models import Applied, decode
from tests.support.fakes.first_term import KEYS, Term1, first_term
from tests.support.fakes.link import UNHEARD
from tests.support.toy_app import ToyApp

ONE_BY_ONE = TxnBudget(1, 10_000)
A, B, C = (KEYS.document(path) for path in "abc")


def _publisher(term: Term1) -> Publisher:
    publisher = Publisher(term.etcd, KEYS, term.fence)
    publisher.note_published(3, 0)
    return publisher


def _applied(term: Term1) -> Applied:
    raw = term.value(KEYS.applied)
    assert raw is not None
    return decode(Applied, raw, KEYS.applied)


async def test_until_the_last_chunk_the_views_count_as_incomplete() -> None:
    """A leader that takes over between two chunks compares all views, and truncates nothing that they lack."""
    async with first_term() as term:
        publisher, seen = _publisher(term), []

        def note() -> None:
            seen.append((_applied(term), publisher.complete_up_to))

        term.at(C, note)
        await publisher.write_views({A: b"1", B: b"1", C: b"1"}, 7, ONE_BY_ONE)
        ((applied, complete),) = seen
        assert (applied.index, applied.base, applied.through, complete) == (7, 3, B, 3)
        applied = _applied(term)
        assert (applied.index, applied.base, applied.through, publisher.complete_up_to) == (7, 7, None, 7)


async def test_a_late_copy_of_a_chunk_changes_nothing() -> None:
    """Not even in the same term, after a later commit has written the same view."""
    async with first_term() as term:
        publisher = _publisher(term)
        await publisher.write_views({A: b"1", B: b"1"}, 7, ONE_BY_ONE)
        copies: list[Any] = [pb.TxnRequest.FromString(request.SerializeToString()) for request in term.txns]
        await publisher.write_views({A: b"2"}, 8, ONE_BY_ONE)
        for copy in copies:
            assert not term.server.store.txn(copy).succeeded
        assert term.value(A) == b"2"


async def test_a_deposed_leader_writes_no_further_chunk() -> None:
    async with first_term() as term:
        term.at(B, term.end)
        with pytest.raises(LeadershipLost):
            await _publisher(term).write_views({A: b"1", B: b"1"}, 7, ONE_BY_ONE)
        assert (term.value(A), term.value(B)) == (b"1", None)


async def test_a_chunk_whose_reply_was_lost_is_written_once() -> None:
    """Its repeat finds that it has landed."""
    async with first_term() as term:
        term.at(A, lambda: None, UNHEARD)
        await _publisher(term).write_views({A: b"1", B: b"1"}, 7, ONE_BY_ONE)
        (kv,) = term.server.store.range(pb.RangeRequest(key=A.encode())).kvs
        assert (kv.value, kv.version, term.value(B)) == (b"1", 1, b"1")


@pytest.mark.parametrize(
    ("applied", "finished"),
    [
        (Applied(index=7, base=7, through=None, epoch=1), False),
        (Applied(index=7, base=3, through=A, epoch=1), True),
        (Applied(index=6, base=6, through=None, epoch=1), True),
        (Applied(index=7, base=7, through=None, epoch=0), True),
    ],
    ids=["complete", "half written", "of an earlier index", "of another epoch"],
)
async def test_a_new_leader_finishes_the_views_unless_they_are_complete(applied: Applied, finished: bool) -> None:
    """Complete: for this index and this epoch, up to the last key."""
    async with first_term() as term:
        term.put(KEYS.applied, applied.encode())
        state = State(index=7, documents={"c": VersionedDocument(7, {"x": 1})})
        publisher = Publisher(term.etcd, KEYS, term.fence)
        await publisher.finish_views(
            await term.etcd.get(KEYS.applied), state, SpecDeriver(ToyApp()), TxnBudget(100, 100_000)
        )
        assert (term.value(C) is not None) is finished
        assert publisher.complete_up_to == 7
