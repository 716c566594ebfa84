"""What a failed compare proves about a commit, in every case, and which error `Journal.commit` raises for it."""

from __future__ import annotations

from typing import Any, cast

import pytest

from masterd.term import journal as journal_module
from masterd.term.journal import Commit, CommitFate, CompareFailed, Journal, TermBroken
from nodestore.errors import Denied, Garbage, LeadershipLost, NodectlError, OutcomeUnknown, Unavailable
from nodestore.etcd.session import KV, Etcd, TxnResult
from nodestore.schema.models import Head
from tests.support.commit_cases import (
    ABSENT,
    DONE,
    DOWN,
    EPOCH_OTHER,
    EPOCH_OURS,
    FENCE,
    KEYS,
    LANDED,
    MOVED,
    OLD,
    OPEN,
    OTHER,
    OURS,
    REFUSED,
    UNMOVED,
    Reply,
    ScriptedEtcd,
    entry,
    failed,
    head,
    kv,
)

GARBAGE = kv(KEYS.head, 72, b"not json")
GARBAGE_BEFORE = kv(KEYS.head, OLD, b"not json")

FATES: dict[type[NodectlError] | None, CommitFate] = {
    None: CommitFate.COMMITTED,
    CompareFailed: CommitFate.NEVER,
    LeadershipLost: CommitFate.TERM_OVER,
    TermBroken: CommitFate.FOREIGN,
    OutcomeUnknown: CommitFate.UNKNOWN,
}
"""What each end of `Journal.commit` reports; None: it returned after one attempt."""


@pytest.mark.parametrize(
    ("leader", "epoch", "found", "expected"),
    [
        # An earlier copy landed: head has our nonce, whichever term leads now.
        (OURS, EPOCH_OURS, LANDED, CommitFate.COMMITTED),
        (OTHER, EPOCH_OURS, LANDED, CommitFate.COMMITTED),
        (ABSENT, EPOCH_OURS, LANDED, CommitFate.COMMITTED),
        (OURS, EPOCH_OTHER, LANDED, CommitFate.COMMITTED),
        (ABSENT, None, LANDED, CommitFate.COMMITTED),
        # The term is ours and head is where it was: only a compare of the commit's own can have failed.
        (OURS, EPOCH_OURS, UNMOVED, CommitFate.NEVER),
        (OURS, EPOCH_OURS, GARBAGE_BEFORE, CommitFate.NEVER),
        # The term is ours and another program moved head: the commit is sent again.
        (OURS, EPOCH_OURS, MOVED, CommitFate.OVERWRITTEN),
        (OURS, EPOCH_OURS, GARBAGE, CommitFate.OVERWRITTEN),
        (OURS, EPOCH_OURS, None, CommitFate.OVERWRITTEN),
        # The term is over and head is where it was: nothing landed before, and nothing can any more.
        (OTHER, EPOCH_OURS, UNMOVED, CommitFate.TERM_OVER),
        (ABSENT, EPOCH_OURS, UNMOVED, CommitFate.TERM_OVER),
        (OURS, EPOCH_OTHER, UNMOVED, CommitFate.TERM_OVER),
        (OURS, None, UNMOVED, CommitFate.TERM_OVER),
        # The term is over and head moved: our commit may be below those of later terms.
        (OTHER, EPOCH_OURS, MOVED, CommitFate.UNKNOWN),
        (ABSENT, EPOCH_OURS, MOVED, CommitFate.UNKNOWN),
        (OTHER, EPOCH_OTHER, MOVED, CommitFate.UNKNOWN),
        (OTHER, EPOCH_OURS, GARBAGE, CommitFate.UNKNOWN),
        (OTHER, EPOCH_OURS, None, CommitFate.UNKNOWN),
    ],
)
async def test_the_fate_of_a_commit(
    leader: KV | None, epoch: KV | None, found: KV | None, expected: CommitFate
) -> None:
    """It is decided by one linearizable read of `leader`, `head` and `epoch`."""
    assert await fate(UNMOVED, leader, found, epoch) is expected


@pytest.mark.parametrize(
    ("leader", "found", "expected"),
    [
        (OURS, None, CommitFate.NEVER),
        (OTHER, None, CommitFate.TERM_OVER),
        (OURS, LANDED, CommitFate.COMMITTED),
        (OURS, MOVED, CommitFate.OVERWRITTEN),
        (OTHER, MOVED, CommitFate.UNKNOWN),
    ],
)
async def test_the_fate_of_the_first_commit_of_a_store(
    leader: KV | None, found: KV | None, expected: CommitFate
) -> None:
    """If there was no `head` before, an absent one has not moved."""
    assert await fate(None, leader, found, EPOCH_OURS) is expected


async def fate(before: KV | None, leader: KV | None, found: KV | None, epoch: KV | None) -> CommitFate:
    """The fate that the journal reports if a commit with the nonce "mine" fails and reads these keys."""
    etcd = ScriptedEtcd(failed(leader, found, epoch), DONE)
    journal = Journal(cast(Etcd, etcd), KEYS, FENCE, before)
    raised: type[NodectlError] | None = None
    try:
        await journal.commit(Commit(Head(index=5, nonce="mine")))
    except NodectlError as error:
        raised = type(error)
    return CommitFate.OVERWRITTEN if len(etcd.sent) == 2 else FATES[raised]


@pytest.mark.parametrize("found", [None, MOVED, GARBAGE], ids=["deleted", "changed", "garbled"])
@pytest.mark.parametrize("leader", [OURS, OTHER], ids=["in our term", "after it"])
async def test_the_entry_decides_if_another_program_touched_head(leader: KV, found: KV | None) -> None:
    """The entry carries the nonce of the commit, so the commit landed; the next one compares `head` as it is now."""
    etcd = ScriptedEtcd(failed(leader, found, entry=entry(70, "mine")))
    journal = Journal(cast(Etcd, etcd), KEYS, FENCE, UNMOVED)
    assert await journal.commit(Commit.moving_to(5, [], nonce="mine")) == 70
    assert await next_compared_head(journal, etcd) == (0 if found is None else found.mod_revision)


@pytest.mark.parametrize("found", [None, MOVED, GARBAGE], ids=["deleted", "changed", "garbled"])
async def test_a_commit_whose_head_was_touched_is_sent_again(found: KV | None) -> None:
    """No copy has landed. The same commit is sent again, with the same nonce, and compares `head` as it is now."""
    etcd = ScriptedEtcd(failed(OURS, found), DONE)
    journal = Journal(cast(Etcd, etcd), KEYS, FENCE, UNMOVED)
    await journal.commit(Commit.moving_to(5, [], nonce="mine"))
    assert etcd.head_compared == [OLD, 0 if found is None else found.mod_revision]
    assert {sent.nonce for sent in etcd.sent} == {"mine"}
    assert etcd.entry_compared == [None, 0 if found is None else None], "no late copy may write an entry over"


async def test_an_entry_of_another_program_ends_the_term() -> None:
    """Within our term no other program may write one, so it is not known what is committed."""
    etcd = ScriptedEtcd(failed(OURS, MOVED, entry=entry(70, "theirs")))
    with pytest.raises(TermBroken):
        await Journal(cast(Etcd, etcd), KEYS, FENCE, UNMOVED).commit(Commit.moving_to(5, [], nonce="mine"))


def test_two_commits_never_share_a_nonce() -> None:
    """Or one would be taken for the other."""
    assert len({Commit.moving_to(1, []).head.nonce for _ in range(100)}) == 100


def test_a_journal_does_not_begin_on_garbage() -> None:
    """Its index would be a guess."""
    with pytest.raises(Garbage):
        Journal(cast(Any, None), KEYS, FENCE, GARBAGE)


# --- the end of a commit, by etcd's reply to each attempt ------------------------------------------------------------


def with_our_own_nonce(sent: list[Head]) -> TxnResult:
    """The attempt before, an empty commit, has landed."""
    return failed(OURS, head(80, sent[-1].nonce))


def with_the_first_nonce(sent: list[Head]) -> TxnResult:
    return failed(OURS, head(80, sent[0].nonce))


@pytest.mark.parametrize(
    ("case", "replies", "expected", "head_revision"),
    [
        ("committed", [DONE], None, 95),
        ("surely not sent", [DOWN], Unavailable, OLD),
        ("refused at once", [REFUSED], Denied, OLD),
        ("no answer, then committed", [OPEN, DOWN, OPEN, DONE], None, 95),
        ("no answer, but it had landed", [OPEN, with_the_first_nonce], None, 80),
        ("no answer, the term is over", [OPEN, failed(OTHER, UNMOVED)], LeadershipLost, OLD),
        ("no answer, the term is over and head moved", [OPEN, failed(OTHER, MOVED)], OutcomeUnknown, OLD),
        ("its own compare fails", [failed(OURS, UNMOVED)], CompareFailed, OLD),
        ("an entry that is not ours", [failed(OURS, MOVED, entry=entry(71, "theirs"))], TermBroken, OLD),
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
    replies: list[Reply],
    expected: type[NodectlError] | None,
    head_revision: int,
) -> None:
    """The error says exactly what is known. An empty commit keeps the index and has its own nonce."""
    monkeypatch.setattr(journal_module, "_RETRY_S", 0.0)
    etcd = ScriptedEtcd(*replies)
    journal = Journal(cast(Etcd, etcd), KEYS, FENCE, UNMOVED)
    error: NodectlError | None = None
    try:
        await journal.commit(Commit.moving_to(5, []))
    except NodectlError as raised:
        error = raised
    assert type(error) is (expected or type(None)), case
    assert not etcd.replies, "every attempt was made"
    assert set(etcd.head_compared) == {OLD}, "every attempt excludes every other"
    assert {sent.index for sent in etcd.sent} <= {4, 5}
    assert len({sent.nonce for sent in etcd.sent}) == len({sent.index for sent in etcd.sent})
    assert journal.index == (5 if expected is None else 4)
    assert await next_compared_head(journal, etcd) == head_revision


async def next_compared_head(journal: Journal, etcd: ScriptedEtcd) -> int:
    """The revision of `head` that the next commit compares."""
    etcd.replies.append(DONE)
    await journal.commit(Commit.moving_to(9, []))
    return etcd.head_compared[-1]
