"""The election: takeover, resignation, creation of the epoch. Each is one transaction, and none depends on a clock.

A takeover overwrites `leader`, even if the old leader's lease is alive, and attaches it to the new leader's lease. Then
every fenced write of the deposed leader fails, and the expiry of its lease does not delete `leader`. So a wrong
suspicion costs a needless takeover, never data.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from nodestore.errors import Garbage, NodectlError, Unavailable
from nodestore.etcd.session import (
    KV,
    Compare,
    Etcd,
    Op,
    Range,
    TxnResult,
    cmp_create,
    cmp_mod,
    op_delete,
    op_get,
    op_put,
    op_range,
)
from nodestore.etcd.types import cmp_empty_range
from nodestore.schema.keys import Keys, prefix_end
from nodestore.schema.models import Epoch, LeaderRecord, Paused, Term, TermRecord, decode

_RESIGN_TRIES = 5
_REASON_TIMEOUT_S = 0.2
TAIL_ENTRIES_MAX = 7
"""The maximum number of journal entries that a takeover reads. Further ones are read after it, in the new term.

It is so low that even the largest entries (8 MiB by the shipped settings of etcd) fit into one answer.
"""


@dataclass(frozen=True, slots=True)
class EpochSeen:
    """The store's epoch as observed, and the mod_revision of its key, which fences compare."""

    epoch: int
    revision: int


@dataclass(frozen=True, slots=True)
class Fence:
    """The compares that every write of a leader carries: `leader` and `epoch` are as when it won its term."""

    term: Term
    epoch_revision: int
    nonce: str

    def compares(self, keys: Keys) -> list[Compare]:
        return [cmp_mod(keys.leader, self.term.revision), cmp_mod(keys.epoch, self.epoch_revision)]

    def holds(self, leader: KV | None, epoch: KV | None) -> bool:
        """Whether `compares` would succeed on these two keys, which were read in one transaction."""
        return (leader is not None and leader.mod_revision == self.term.revision) and (
            epoch is not None and epoch.mod_revision == self.epoch_revision
        )


@dataclass(frozen=True, slots=True)
class TakeoverWon:
    """The term that was won, and the keys that its leader needs, read in the same transaction.

    If the reply of that transaction was lost, the keys were read by `confirm_takeover`.
    """

    fence: Fence
    head: KV | None
    applied: KV | None
    config: KV | None
    tail: Range
    cluster_id: str = ""
    """The id of the etcd cluster that answered."""


@dataclass(frozen=True, slots=True)
class TakeoverLost:
    """A takeover that did not happen, or whose term had ended before it was confirmed.

    `leader`: the key as it is now. `paused`: whether a readable pause prevented it. `garbage_revision`: mod_revision of
    the key `paused`, if that is unreadable. The next takeover ignores the key if it is given this revision.
    `challenge_answered`: the leader answered a challenge, as the failure of the caller's own compares shows.
    `is_other_epoch`: the epoch is not the one that the takeover compared.
    """

    leader: KV | None
    paused: bool
    reason: str
    garbage_revision: int = 0
    challenge_answered: bool = False
    is_other_epoch: bool = False


@dataclass(frozen=True, slots=True)
class LeaderSeen:
    """`leader` as last observed, which a takeover compares. `record` is None if the key is absent or unreadable."""

    revision: int = 0
    record: LeaderRecord | None = None
    lease: int = 0
    garbage: str | None = None

    @property
    def is_vacant(self) -> bool:
        """Whether no candidate leads: the key is absent, unreadable, or attached to no lease."""
        return self.record is None or self.lease == 0


def parse_leader(kv: KV | None) -> LeaderSeen:
    """Read the `leader` key. Never raises Garbage: an unreadable key can be taken over."""
    if kv is None:
        return LeaderSeen()
    try:
        record = decode(LeaderRecord, kv.value, kv.key)
    except Garbage as error:
        return LeaderSeen(kv.mod_revision, None, kv.lease, str(error))
    return LeaderSeen(kv.mod_revision, record, kv.lease)


async def ensure_epoch(etcd: Etcd, keys: Keys, *, may_begin: bool = True) -> EpochSeen:
    """The store's epoch; a new store gets epoch 1, unless `may_begin` is False.

    A store that holds a journal, snapshots or `head` is not new: its epoch was deleted, and is not begun again, because
    programs may have seen a higher one. Garbage if there is no epoch, or if the key is unreadable: then nothing can be
    committed.
    """
    found = await etcd.get(keys.epoch)
    if found is None and not may_begin:
        raise Garbage(_no_epoch(keys))
    if found is None:
        result = await etcd.txn(
            [
                cmp_create(keys.epoch, 0),
                cmp_create(keys.head, 0),
                *(cmp_empty_range(prefix, prefix_end(prefix)) for prefix in (keys.journal, keys.snapshots)),
            ],
            [op_put(keys.epoch, Epoch(epoch=1).encode())],
            [op_get(keys.epoch)],
            repeatable=True,
        )
        if result.succeeded:
            return EpochSeen(1, result.revision)
        found = result.range(0).first
        if found is None:
            raise Garbage(_no_epoch(keys))
    return EpochSeen(decode(Epoch, found.value, keys.epoch).epoch, found.mod_revision)


def _no_epoch(keys: Keys) -> str:
    return (
        f"{keys.epoch} is missing, but the store is not new: keys were deleted. Nothing can be committed until "
        "`nodectl recover` begins a new epoch; restart no masterd before"
    )


async def takeover(
    etcd: Etcd,
    keys: Keys,
    *,
    me: LeaderRecord,
    lease: int,
    seen: LeaderSeen,
    epoch: EpochSeen,
    next_index: int,
    timeout_s: float = 2.0,
    compares: Sequence[Compare] = (),
    paused: int = 0,
) -> TakeoverWon | TakeoverLost:
    """Try to become the leader, in one transaction. It fails if `leader` has changed since it was observed as `seen`.

    `compares`: further conditions, such as that the leader has not answered a challenge. `paused`: mod_revision of an
    unreadable `paused` that is ignored.

    OutcomeUnknown: the takeover may still take effect. A caller that later observes its own nonce in `leader` must call
    `confirm_takeover` or `resign`.
    """
    # The reply may be lost, so the transaction is sent repeatedly. At most one copy takes effect: each compares that
    # `leader` has the observed revision, and that `terms/<nonce>` is absent. Without the second compare, a late copy
    # could take effect after the term of the first copy was resigned, because `leader` is then absent again.
    record = TermRecord(
        id=me.id,
        host=me.host,
        nonce=me.nonce,
        epoch=epoch.epoch,
        since=me.since,
        cause=me.cause,
        why=me.why,
        taken_from=seen.record.id if seen.record else None,
        taken_term=seen.revision or None,
    )
    result = await etcd.txn_hedged(
        [
            cmp_mod(keys.leader, seen.revision),
            cmp_mod(keys.epoch, epoch.revision),
            cmp_mod(keys.paused, paused),
            cmp_create(keys.term(me.nonce), 0),
            *compares,
        ],
        [
            op_put(keys.leader, me.encode(), lease=lease),
            op_put(keys.term(me.nonce), record.encode()),
            *_catch_up_reads(keys, next_index),
        ],
        [op_get(keys.leader), op_get(keys.paused), op_get(keys.epoch)],
        timeout_s=timeout_s,
    )
    if result.succeeded:
        return _parse_won(result, 2, Fence(Term(epoch.epoch, result.revision), epoch.revision, me.nonce))
    leader = result.range(0).first
    found = parse_leader(leader)
    if found.record is not None and found.record.nonce == me.nonce:
        return await confirm_takeover(etcd, keys, seen=found, epoch=epoch, next_index=next_index)
    pause = result.range(1).first
    if pause is not None and pause.mod_revision != paused:
        return _lost_to_pause(leader, pause)
    now = result.range(2).first
    if now is None or now.mod_revision != epoch.revision:
        return TakeoverLost(leader, False, "the store's epoch has changed", is_other_epoch=True)
    if found.revision == seen.revision:
        why = f"{found.record.id if found.record else 'the leader'} has answered the challenge"
        return TakeoverLost(leader, False, why, challenge_answered=True)
    if found.record is None:
        return TakeoverLost(leader, False, "the key `leader` changed before the takeover")
    return TakeoverLost(leader, False, f"{found.record.id} became the leader first")


def _lost_to_pause(leader: KV | None, pause: KV) -> TakeoverLost:
    try:
        decode(Paused, pause.value, pause.key)
    except Garbage as error:
        return TakeoverLost(leader, False, f"the pause is unreadable: {error}", pause.mod_revision)
    return TakeoverLost(leader, True, "takeovers are paused")


async def confirm_takeover(
    etcd: Etcd, keys: Keys, *, seen: LeaderSeen, epoch: EpochSeen, next_index: int
) -> TakeoverWon | TakeoverLost:
    """Confirm a takeover whose reply was lost. `seen` holds the caller's nonce, so its revision is the term's.

    Reads head and journal in one fenced transaction, so that the term still lasts when they are read. ValueError if
    `seen` has no record.
    """
    if seen.record is None:
        raise ValueError("`leader` names no leader, so there is no term to confirm")
    fence = Fence(Term(epoch.epoch, seen.revision), epoch.revision, seen.record.nonce)
    result = await etcd.txn(fence.compares(keys), _catch_up_reads(keys, next_index), [op_get(keys.leader)])
    if result.succeeded:
        return _parse_won(result, 0, fence)
    return TakeoverLost(result.range(0).first, False, "the term had ended before it was confirmed")


async def resign(etcd: Etcd, keys: Keys, fence: Fence, why: str) -> bool:
    """End the term and record `why` in its TermRecord. False if another takeover had ended it before.

    Unavailable if the record changes during each of five attempts.
    """
    for _ in range(_RESIGN_TRIES):
        found = await etcd.get(keys.term(fence.nonce))
        compares, then = [cmp_mod(keys.leader, fence.term.revision)], [op_delete(keys.leader)]
        with suppress(Garbage):  # an unreadable record must not prevent the resignation
            if found is not None:
                record = decode(TermRecord, found.value, found.key).model_copy(update={"ended": why})
                compares.append(cmp_mod(found.key, found.mod_revision))
                then.append(op_put(found.key, record.encode()))
        result = await etcd.txn(compares, then, [op_get(keys.leader)], repeatable=True)
        if result.succeeded or parse_leader(result.range(0).first).revision != fence.term.revision:
            return result.succeeded
        # The leader itself wrote the record meanwhile, which it does once in a term: try again.
    raise Unavailable(
        f"{keys.term(fence.nonce)} changed during each of {_RESIGN_TRIES} attempts to resign: another program writes "
        "it; stop that program"
    )


async def resignation_reason(etcd: Etcd, keys: Keys, nonce: str) -> str | None:
    """Why the leader with this nonce resigned. None if it did not, or if etcd does not answer within 0.2 s.

    The time limit is short because a takeover waits for this.
    """
    try:
        found = await etcd.get(keys.term(nonce), timeout_s=_REASON_TIMEOUT_S)
        return None if found is None else decode(TermRecord, found.value, found.key).ended
    except NodectlError:
        return None


def _catch_up_reads(keys: Keys, next_index: int) -> list[Op]:
    return [
        op_get(keys.head),
        op_get(keys.applied),
        op_get(keys.config_current),
        op_range(keys.entry(next_index), prefix_end(keys.journal), limit=TAIL_ENTRIES_MAX),
    ]


def _parse_won(result: TxnResult, skip: int, fence: Fence) -> TakeoverWon:
    return TakeoverWon(
        fence,
        head=result.range(skip).first,
        applied=result.range(skip + 1).first,
        config=result.range(skip + 2).first,
        tail=result.range(skip + 3),
        cluster_id=result.cluster_id,
    )


def new_leader_record(
    *, master: str, host: str, urls: tuple[str, ...], nonce: str, cause: str, why: str, streak: int = 0
) -> LeaderRecord:
    """The record that a candidate writes to `leader` in its takeover."""
    return LeaderRecord.model_validate(
        {
            "id": master,
            "host": host,
            "urls": urls,
            "nonce": nonce,
            "since": time.time(),
            "cause": cause,
            "why": why,
            "streak": streak,
        }
    )
