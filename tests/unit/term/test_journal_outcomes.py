"""What a failed compare says about a commit: every case, and that no verdict promises too much."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from masterd.term import journal as journal_module
from masterd.term.journal import Commit, CommitFate, CompareFailed, Journal, TermBroken
from nodestore.cluster.election import Fence
from nodestore.errors import Denied, Garbage, LeadershipLost, NodectlError, OutcomeUnknown, Unavailable
from nodestore.etcd.session import KV, Compare, Etcd, Op, Range, TxnResult
from nodestore.schema.keys import Keys
from nodestore.schema.models import Head, Term, decode

KEYS = Keys("test")
TERM, EPOCH, OLD = 50, 3, 60
FENCE = Fence(Term(1, TERM), EPOCH, "nonce")


def kv(key: str, revision: int, value: bytes = b"{}") -> KV:
    return KV(key, value, 1, revision, 1, 0)


def head(revision: int, nonce: str, index: int = 4) -> KV:
    return kv(KEYS.head, revision, Head(index=index, nonce=nonce).encode())


OURS, ABSENT, OTHER = kv(KEYS.leader, TERM), None, kv(KEYS.leader, TERM + 20)
EPOCH_OURS, EPOCH_OTHER = kv(KEYS.epoch, EPOCH), kv(KEYS.epoch, EPOCH + 90)
UNMOVED, LANDED, MOVED = head(OLD, "before"), head(70, "mine", 5), head(71, "theirs", 6)
GARBAGE = kv(KEYS.head, 72, b"not json")
GARBAGE_BEFORE = kv(KEYS.head, OLD, b"not json")


@pytest.mark.parametrize(
    ("leader", "epoch", "found", "expected"),
    [
        # An earlier copy landed: head carries our nonce, whoever leads now.
        (OURS, EPOCH_OURS, LANDED, CommitFate.COMMITTED),
        (OTHER, EPOCH_OURS, LANDED, CommitFate.COMMITTED),
        (ABSENT, EPOCH_OURS, LANDED, CommitFate.COMMITTED),
        (OURS, EPOCH_OTHER, LANDED, CommitFate.COMMITTED),
        (ABSENT, None, LANDED, CommitFate.COMMITTED),
        # The term is ours and head is where it was: only a compare of the commit's own can have failed.
        (OURS, EPOCH_OURS, UNMOVED, CommitFate.NEVER),
        (OURS, EPOCH_OURS, GARBAGE_BEFORE, CommitFate.NEVER),
        # The term is ours and head moved without our nonce: nobody else may do that.
        (OURS, EPOCH_OURS, MOVED, CommitFate.FOREIGN),
        (OURS, EPOCH_OURS, GARBAGE, CommitFate.FOREIGN),
        (OURS, EPOCH_OURS, None, CommitFate.FOREIGN),
        # The term is over and head is where it was: nothing landed before, and nothing can any more.
        (OTHER, EPOCH_OURS, UNMOVED, CommitFate.TERM_OVER),
        (ABSENT, EPOCH_OURS, UNMOVED, CommitFate.TERM_OVER),
        (OURS, EPOCH_OTHER, UNMOVED, CommitFate.TERM_OVER),
        (OURS, None, UNMOVED, CommitFate.TERM_OVER),
        # The term is over and head moved: ours may be beneath what others committed.
        (OTHER, EPOCH_OURS, MOVED, CommitFate.UNKNOWN),
        (ABSENT, EPOCH_OURS, MOVED, CommitFate.UNKNOWN),
        (OTHER, EPOCH_OTHER, MOVED, CommitFate.UNKNOWN),
        (OTHER, EPOCH_OURS, GARBAGE, CommitFate.UNKNOWN),
        (OTHER, EPOCH_OURS, None, CommitFate.UNKNOWN),
    ],
)
def test_the_verdict(leader: KV | None, epoch: KV | None, found: KV | None, expected: CommitFate) -> None:
    """By one linearizable look at `leader`, `head` and `epoch`."""
    assert verdict(UNMOVED, leader, found, epoch) is expected


@pytest.mark.parametrize(
    ("leader", "found", "expected"),
    [
        (OURS, None, CommitFate.NEVER),
        (OTHER, None, CommitFate.TERM_OVER),
        (OURS, LANDED, CommitFate.COMMITTED),
        (OURS, MOVED, CommitFate.FOREIGN),
        (OTHER, MOVED, CommitFate.UNKNOWN),
    ],
)
def test_the_verdict_on_the_first_commit_of_a_store(leader: KV | None, found: KV | None, expected: CommitFate) -> None:
    """Where there was no head, an absent one has not moved."""
    assert verdict(None, leader, found, EPOCH_OURS) is expected


def verdict(before: KV | None, leader: KV | None, found: KV | None, epoch: KV | None) -> CommitFate:
    journal = Journal(cast(Etcd, None), KEYS, FENCE, before if before is not GARBAGE_BEFORE else None)
    commit = Commit(Head(index=5, nonce="mine"))
    return journal._fate(commit, leader, found, epoch)


def test_two_commits_never_share_a_nonce() -> None:
    """Or one would be taken for the other."""
    assert len({Commit.moving_to(1, []).head.nonce for _ in range(100)}) == 100


def test_a_journal_does_not_begin_on_garbage() -> None:
    """Its index would be a guess."""
    with pytest.raises(Garbage):
        Journal(cast(Any, None), KEYS, FENCE, GARBAGE)


# --- what comes of a commit, by what etcd says to each attempt ------------------------------------------------------


def found(*kvs: KV | None) -> tuple[Range, ...]:
    return tuple(Range(90, () if kv is None else (kv,), False, 0 if kv is None else 1) for kv in kvs)


def failed(leader: KV | None, head_now: KV | None) -> TxnResult:
    return TxnResult(False, 90, found(leader, head_now, EPOCH_OURS))


def with_our_own_nonce(sent: list[Head]) -> TxnResult:
    """The attempt before, an empty commit, has landed."""
    return failed(OURS, head(80, sent[-1].nonce))


def with_the_first_nonce(sent: list[Head]) -> TxnResult:
    return failed(OURS, head(80, sent[0].nonce))


DONE = TxnResult(True, 95, ())
Said = NodectlError | TxnResult | Callable[[list[Head]], TxnResult]


class Scripted:
    """etcd, as far as a journal knows it: what it says to each attempt, one after another."""

    def __init__(self, *said: Said) -> None:
        self._said = list(said)
        self.sent: list[Head] = []
        self.head_compared: list[int] = []

    async def txn(self, compares: Sequence[Compare], then: Sequence[Op], orelse: Sequence[Op], **_: Any) -> TxnResult:
        put = then[0].request_put
        assert put.key == KEYS.head.encode()
        self.sent.append(decode(Head, put.value, "head"))
        self.head_compared.append(next(item.mod_revision for item in compares if item.key == KEYS.head.encode()))
        said = self._said.pop(0)
        if isinstance(said, NodectlError):
            raise said
        return said if isinstance(said, TxnResult) else said(self.sent)


OPEN, DOWN, REFUSED = OutcomeUnknown("no answer"), Unavailable("nobody there"), Denied("no permission")


@pytest.mark.parametrize(
    ("case", "said", "expected", "head_revision"),
    [
        ("committed", [DONE], None, 95),
        ("surely not sent", [DOWN], Unavailable, OLD),
        ("refused at once", [REFUSED], Denied, OLD),
        ("no answer, then committed", [OPEN, DOWN, OPEN, DONE], None, 95),
        ("no answer, but it had landed", [OPEN, with_the_first_nonce], None, 80),
        ("no answer, the term is over", [OPEN, failed(OTHER, UNMOVED)], LeadershipLost, OLD),
        ("no answer, the term is over and head moved", [OPEN, failed(OTHER, MOVED)], OutcomeUnknown, OLD),
        ("its own compare fails", [failed(OURS, UNMOVED)], CompareFailed, OLD),
        ("somebody else moved head", [failed(OURS, MOVED)], TermBroken, OLD),
        ("given up", [OPEN, REFUSED, DONE], Denied, 95),
        ("given up, with difficulty", [OPEN, REFUSED, DOWN, OPEN, DONE], Denied, 95),
        ("given up by a copy", [OPEN, REFUSED, OPEN, with_our_own_nonce], Denied, 80),
        ("refused after it had landed", [OPEN, REFUSED, with_the_first_nonce], None, 80),
        ("given up, but the term is over", [OPEN, REFUSED, failed(OTHER, UNMOVED)], LeadershipLost, OLD),
        ("given up, the term is over, head moved", [OPEN, REFUSED, failed(OTHER, MOVED)], OutcomeUnknown, OLD),
        ("cannot even be given up", [OPEN, REFUSED, REFUSED], TermBroken, OLD),
        ("cannot even be given up, later", [OPEN, REFUSED, OPEN, REFUSED], TermBroken, OLD),
    ],
)
async def test_what_comes_of_a_commit(
    monkeypatch: pytest.MonkeyPatch,
    case: str,
    said: list[Said],
    expected: type[NodectlError] | None,
    head_revision: int,
) -> None:
    """The error says exactly what is known; an empty commit keeps the index and has a nonce of its own."""
    monkeypatch.setattr(journal_module, "_RETRY_S", 0.0)
    etcd = Scripted(*said)
    journal = Journal(cast(Etcd, etcd), KEYS, FENCE, UNMOVED)
    error: NodectlError | None = None
    try:
        await journal.commit(Commit.moving_to(5, []))
    except NodectlError as raised:
        error = raised
    assert type(error) is (expected or type(None)), case
    assert not etcd._said, "every attempt was made"
    assert set(etcd.head_compared) == {OLD}, "every attempt excludes every other"
    assert {sent.index for sent in etcd.sent} <= {4, 5}
    assert len({sent.nonce for sent in etcd.sent}) == len({sent.index for sent in etcd.sent})
    assert journal.index == (5 if expected is None else 4)
    assert journal._head_revision == head_revision
