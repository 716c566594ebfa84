"""The compares of the election's transactions: each stops a write that must not land."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from nodestore.cluster.election import (
    LeaderSeen,
    TakeoverLost,
    confirm_takeover,
    ensure_epoch,
    new_leader_record,
    parse_leader,
    takeover,
)
from nodestore.etcd.session import cmp_mod, op_put
from nodestore.schema.models import Epoch, Paused
from tests.support.fakes.first_term import KEYS, Term1, first_term


@pytest.mark.parametrize("key", [KEYS.leader, KEYS.epoch])
async def test_a_fence_stops_after_either_key_was_written(key: str) -> None:
    """Another leader, or another epoch, even with the same value: the compare is of the revision."""
    async with first_term() as term:
        write = [op_put(KEYS.state + "x", b"{}")]
        assert (await term.etcd.txn(term.fence.compares(KEYS), write)).succeeded
        term.put(key, term.value(key) or b"")
        assert not (await term.etcd.txn(term.fence.compares(KEYS), write)).succeeded
        assert not term.fence.holds(await term.etcd.get(KEYS.leader), await term.etcd.get(KEYS.epoch))


def _another_leads(term: Term1) -> None:
    term.put(KEYS.leader, b'{"v":1}')


def _store_is_recovered(term: Term1) -> None:
    term.put(KEYS.epoch, Epoch(epoch=2).encode())


def _takeovers_are_paused(term: Term1) -> None:
    term.put(KEYS.paused, Paused(actor="a", time=1.0).encode())


def _leader_answers(term: Term1) -> None:
    term.put(KEYS.answer("m2"))


@pytest.mark.parametrize("change", [_another_leads, _store_is_recovered, _takeovers_are_paused, _leader_answers])
async def test_a_takeover_fails_after_what_it_saw_has_changed(change: Callable[[Term1], None]) -> None:
    """Each of these happens after the candidate decided, and before its transaction arrives."""
    async with first_term() as term:
        lease, _ = await term.etcd.grant(60)
        record = new_leader_record(master="m2", host="m2", urls=(), nonce="mine", cause="silent", why="test")
        seen = parse_leader(await term.etcd.get(KEYS.leader))
        epoch = await ensure_epoch(term.etcd, KEYS)
        change(term)
        before = term.value(KEYS.leader)
        outcome = await takeover(
            term.etcd, KEYS, me=record, lease=lease, seen=seen, epoch=epoch, next_index=1,
            compares=(cmp_mod(KEYS.answer("m2"), 0),),
        )  # fmt: skip
        assert isinstance(outcome, TakeoverLost)
        assert outcome.is_other_epoch is (change is _store_is_recovered)
        assert outcome.challenge_answered is (change is _leader_answers)
        assert term.value(KEYS.leader) == before
        assert term.keys(KEYS.terms) == []


@pytest.mark.parametrize("key", [KEYS.leader, KEYS.epoch])
async def test_a_term_that_has_ended_is_not_confirmed(key: str) -> None:
    """A takeover whose reply was lost is claimed only while its term lasts."""
    async with first_term() as term:
        record = new_leader_record(master="m2", host="m2", urls=(), nonce="mine", cause="first", why="test")
        seen = LeaderSeen(term.fence.term.revision, record, 5)
        epoch = await ensure_epoch(term.etcd, KEYS)
        term.put(key, Epoch(epoch=1).encode())
        assert isinstance(await confirm_takeover(term.etcd, KEYS, seen=seen, epoch=epoch, next_index=1), TakeoverLost)
