"""Commits to a full etcd: its words are the same for a write that it has applied and for one that it has refused."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, cast

import pytest

from masterd.term import journal as journal_module
from masterd.term.journal import Commit, Journal, TermBroken
from nodestore.errors import LeadershipLost, NodectlError, NoSpace, NoSpaceUnknown, OutcomeUnknown
from nodestore.etcd.session import KV, Compare, Etcd, Op, TxnResult
from nodestore.schema.models import Head, decode
from tests.unit.term.test_journal_outcomes import (
    DONE,
    DOWN,
    EPOCH_OURS,
    FENCE,
    KEYS,
    MOVED,
    OLD,
    OPEN,
    OTHER,
    OURS,
    REFUSED,
    UNMOVED,
    found,
    head,
)

FULL = NoSpaceUnknown("full")
LANDED = object()
"""Head as the commit that was sent first has moved it."""
Look = tuple[KV, KV | object] | NodectlError


class Full:
    """etcd: what it says to each attempt, and what each look at `head` shows."""

    def __init__(self, said: Sequence[NodectlError | TxnResult], looks: Sequence[Look]) -> None:
        self.said, self.looks = list(said), list(looks)
        self.sent: list[Head] = []

    async def txn(self, compares: Sequence[Compare], then: Sequence[Op], *_: Any, **__: Any) -> TxnResult:
        if then[0].HasField("request_range"):
            return self._look()
        self.sent.append(decode(Head, then[0].request_put.value, "head"))
        said = self.said.pop(0)
        if isinstance(said, NodectlError):
            raise said
        return said

    def _look(self) -> TxnResult:
        look = self.looks.pop(0)
        if isinstance(look, NodectlError):
            raise look
        leader, moved = look
        now = head(80, self.sent[0].nonce) if moved is LANDED else cast(KV, moved)
        return TxnResult(True, 90, found(leader, now, EPOCH_OURS))


@pytest.mark.parametrize(
    ("case", "said", "looks", "expected", "head_revision"),
    [
        ("refused", [FULL], [(OURS, UNMOVED)], NoSpace, OLD),
        ("it was the one that filled it", [FULL], [(OURS, LANDED)], None, 80),
        ("the look fails, then refused", [FULL, FULL], [DOWN, (OURS, UNMOVED)], NoSpace, OLD),
        ("no answer, then full, then room", [OPEN, FULL, FULL, DONE], [(OURS, UNMOVED)] * 2, None, 95),
        ("no answer, then full, but it had landed", [OPEN, FULL, FULL], [(OURS, UNMOVED), (OURS, LANDED)], None, 80),
        ("full, and the term is over", [FULL], [(OTHER, UNMOVED)], LeadershipLost, OLD),
        ("no answer, full, the term is over, head moved", [OPEN, FULL], [(OTHER, MOVED)], OutcomeUnknown, OLD),
        ("somebody else moved head", [FULL], [(OURS, MOVED)], TermBroken, OLD),
        ("no answer, then refused, and no room to give up", [OPEN, REFUSED, FULL, FULL, DONE], [], type(REFUSED), 95),
    ],
)
async def test_a_commit_without_room(
    monkeypatch: pytest.MonkeyPatch,
    case: str,
    said: list[NodectlError | TxnResult],
    looks: list[Look],
    expected: type[NodectlError] | None,
    head_revision: int,
) -> None:
    """A look at `head` decides it; only an earlier copy that is still open makes it wait for room."""
    monkeypatch.setattr(journal_module, "_RETRY_S", 0.0)
    monkeypatch.setattr(journal_module, "_FULL_RETRY_S", 0.0)
    etcd = Full(said, looks)
    journal = Journal(cast(Etcd, etcd), KEYS, FENCE, UNMOVED)
    error: NodectlError | None = None
    try:
        await journal.commit(Commit.moving_to(5, []))
    except NodectlError as raised:
        error = raised
    assert type(error) is (expected or type(None)), case
    assert (etcd.said, etcd.looks) == ([], [])
    assert journal.index == (5 if expected is None else 4)
    assert journal._head_revision == head_revision


async def test_waiting_for_room_is_said_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """It may take hours."""
    monkeypatch.setattr(journal_module, "_FULL_RETRY_S", 0.0)
    etcd = Full([OPEN, *[FULL] * 500, DONE], [(OURS, UNMOVED)] * 500)
    with caplog.at_level(logging.DEBUG):
        await Journal(cast(Etcd, etcd), KEYS, FENCE, UNMOVED).commit(Commit.moving_to(5, []))
    assert len([record for record in caplog.records if "until there is room" in record.getMessage()]) == 1
