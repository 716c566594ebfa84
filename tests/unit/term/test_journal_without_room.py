"""Commits to a full etcd, which reports the same error for a write that it applied and for one that it refused."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, cast

import pytest

from masterd.term import journal as journal_module
from masterd.term.journal import Commit, Journal, TermBroken
from nodestore.errors import LeadershipLost, NodectlError, NoSpace, NoSpaceUnknown, OutcomeUnknown
from nodestore.etcd.session import KV, Compare, Etcd, Op, TxnResult
from tests.support.commit_cases import (
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
    ScriptedEtcd,
    head,
    ranges,
)

FULL = NoSpaceUnknown("full")
LANDED = object()
"""`head` as the first commit has written it."""
Read = tuple[KV, KV | object] | NodectlError


class FullEtcd(ScriptedEtcd):
    """Gives these replies to the commits, and shows these values when `leader`, `head` and `epoch` are read."""

    def __init__(self, replies: Sequence[NodectlError | TxnResult], reads: Sequence[Read]) -> None:
        super().__init__(*replies)
        self.reads = list(reads)

    async def txn(
        self, compares: Sequence[Compare], then: Sequence[Op], orelse: Sequence[Op] = (), **options: Any
    ) -> TxnResult:
        if then[0].HasField("request_range"):
            return self._read()
        return await super().txn(compares, then, orelse, **options)

    def _read(self) -> TxnResult:
        read = self.reads.pop(0)
        if isinstance(read, NodectlError):
            raise read
        leader, shown = read
        head_now = head(80, self.sent[0].nonce) if shown is LANDED else cast(KV, shown)
        return TxnResult(True, 90, ranges(leader, head_now, EPOCH_OURS))


@pytest.mark.parametrize(
    ("case", "replies", "reads", "expected", "head_revision"),
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
    replies: list[NodectlError | TxnResult],
    reads: list[Read],
    expected: type[NodectlError] | None,
    head_revision: int,
) -> None:
    """A read of `head` decides; the commit waits for space only if an earlier copy got no reply."""
    monkeypatch.setattr(journal_module, "_RETRY_S", 0.0)
    monkeypatch.setattr(journal_module, "_FULL_RETRY_S", 0.0)
    etcd = FullEtcd(replies, reads)
    journal = Journal(cast(Etcd, etcd), KEYS, FENCE, UNMOVED)
    error: NodectlError | None = None
    try:
        await journal.commit(Commit.moving_to(5, []))
    except NodectlError as raised:
        error = raised
    assert type(error) is (expected or type(None)), case
    assert (etcd.replies, etcd.reads) == ([], [])
    assert journal.index == (5 if expected is None else 4)
    etcd.replies.append(DONE)
    await journal.commit(Commit.moving_to(9, []))
    assert etcd.head_compared[-1] == head_revision, "what the next commit compares"


async def test_waiting_for_room_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The wait may take hours, so it is logged once."""
    monkeypatch.setattr(journal_module, "_FULL_RETRY_S", 0.0)
    etcd = FullEtcd([OPEN, *[FULL] * 500, DONE], [(OURS, UNMOVED)] * 500)
    with caplog.at_level(logging.DEBUG):
        await Journal(cast(Etcd, etcd), KEYS, FENCE, UNMOVED).commit(Commit.moving_to(5, []))
    assert len([record for record in caplog.records if "until there is room" in record.getMessage()]) == 1
