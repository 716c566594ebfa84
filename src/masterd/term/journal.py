"""Commits batches, one fenced transaction each, and determines the outcome of a transaction whose reply was lost.

A transaction is sent again until its outcome is known, so several copies of it may exist. A copy lands when etcd
executes it and its compares succeed. A copy that timed out may land at any later time. So if a later copy is refused,
that does not prove that nothing was committed.

The key `head` decides: if it carries the nonce of the commit, the commit landed. If the compares of one copy fail, no
copy can land after it, because all compares are of mod_revisions, and these only grow. Whether a copy landed before it
depends on whether `head` has moved and whether the term is still ours: see `_fate`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from nodestore.cluster.election import Fence
from nodestore.errors import (
    LeadershipLost,
    NodectlError,
    NoSpace,
    NoSpaceUnknown,
    OutcomeUnknown,
    Unavailable,
)
from nodestore.etcd.session import KV, Compare, Etcd, Op, TxnResult, cmp_mod, op_get, op_put
from nodestore.schema.keys import Keys
from nodestore.schema.models import Head, decode, nonce_of
from nodestore.support.backoff import Backoff
from nodestore.support.logs import RateLimitedLog

log = logging.getLogger(__name__)

_ATTEMPT_S, _ATTEMPT_MAX_S = 2.0, 8.0
"""Time limit of the first attempt, and of the later ones: each gets twice as long, as etcd may be overloaded."""
_RETRY_S, _RETRY_MAX_S = 0.05, 0.5
_HEDGE_BYTES = 128 << 10
"""With each so many bytes, copies to other members are sent later: they cost etcd as much as the first one."""
_FULL_RETRY_S = 0.5


class CommitFate(Enum):
    """What a failed compare proves about the transaction and all of its copies."""

    COMMITTED = "an earlier copy landed"
    NEVER = "no copy has landed or ever will"
    TERM_OVER = "no copy has landed or ever will, and the term is over"
    FOREIGN = "another program changed head in our term, and an earlier copy may have landed before that"
    UNKNOWN = "the term is over, and an earlier copy may have landed before it ended"


@dataclass(frozen=True, slots=True)
class Commit:
    """The content of one commit. head: the new index, with a nonce that identifies this commit."""

    head: Head
    ops: tuple[Op, ...] = ()
    compares: tuple[Compare, ...] = ()

    @classmethod
    def moving_to(cls, index: int, ops: Sequence[Op], compares: Sequence[Compare] = ()) -> Commit:
        return cls(Head(index=index, nonce=secrets.token_hex(8)), tuple(ops), tuple(compares))


class Journal:
    """Commits for one term, one at a time. Each commit compares the `head` that the previous one wrote."""

    def __init__(self, etcd: Etcd, keys: Keys, fence: Fence, head: KV | None) -> None:
        self._etcd, self._keys, self.fence = etcd, keys, fence
        self._head_revision = 0 if head is None else head.mod_revision
        self.index = 0 if head is None else decode(Head, head.value, keys.head).index
        self.open_since: float | None = None
        """Monotonic time at which the open commit began; None if no commit is open."""
        self._attempt_s = _ATTEMPT_S
        self._limited_log = RateLimitedLog(log, 10.0)

    async def commit(self, commit: Commit) -> int:
        """Commit, and return the revision of the commit. Retries until the outcome is known.

        LeadershipLost: the term is over, and nothing was committed.
        OutcomeUnknown: the term is over, and an earlier copy may have landed.
        TermBroken: an earlier copy may have landed or may land later. The caller must end the term, so that the fence
        stops that copy.
        Any other error, such as NoSpace: etcd refused the commit, nothing was committed, and the term goes on.

        If etcd refuses the commit after an attempt without a reply, an empty commit is sent, after which no copy can
        land. If etcd has no space after such an attempt, this waits for space as long as the term lasts. Cancellation
        leaves the outcome unknown.
        """
        self.open_since, self._attempt_s = time.monotonic(), _ATTEMPT_S
        try:
            return await self._commit(commit)
        finally:
            self.open_since = None

    async def _commit(self, commit: Commit) -> int:
        reply_lost, pauses = False, Backoff(_RETRY_S, _RETRY_MAX_S)
        while True:
            try:
                result = await self._send(commit)
            except NoSpaceUnknown as error:
                if (revision := await self._without_room(commit, error, reply_lost)) is not None:
                    return revision
            except OutcomeUnknown as error:
                reply_lost = True
                self._limited_log.log(
                    logging.WARNING,
                    f"commit of index {commit.head.index} got no reply, trying again: {error}",
                )
                self._attempt_s = min(2 * self._attempt_s, _ATTEMPT_MAX_S)
                await asyncio.sleep(pauses.next_s())
            except Unavailable as error:
                if not reply_lost:
                    raise
                self._limited_log.log(
                    logging.WARNING, f"commit of index {commit.head.index} still open: {error}", about=error.code
                )
                await asyncio.sleep(pauses.next_s())
            except NodectlError as error:
                if not reply_lost:
                    raise
                return await self._give_up(commit, error)
            else:
                if result.succeeded:
                    return self._advance(commit.head, result.revision)
                return self._settle(commit, result)

    async def _send(self, commit: Commit) -> TxnResult:
        compares = [
            *self.fence.compares(self._keys),
            cmp_mod(self._keys.head, self._head_revision),
            *commit.compares,
        ]
        then = [op_put(self._keys.head, commit.head.encode()), *commit.ops]
        orelse = [op_get(self._keys.leader), op_get(self._keys.head), op_get(self._keys.epoch)]
        patience = 1.0 + sum(op.ByteSize() for op in commit.ops) / _HEDGE_BYTES
        return await self._etcd.txn(
            compares, then, orelse, timeout_s=self._attempt_s, repeatable=True, hedge_patience=patience
        )

    async def _without_room(self, commit: Commit, error: NoSpaceUnknown, reply_lost: bool) -> int | None:
        """Read `head` after etcd reported that it is full, and return the revision if the commit has landed.

        etcd returns this error both for a write that it has applied and for one that it has refused. In either case the
        copy that got the error does not land later. Raises NoSpace if nothing landed. None: `head` could not be read,
        or an earlier copy without a reply (`reply_lost`) may land once there is space again.
        """
        try:
            keys_read = await self._etcd.txn(
                [], [op_get(self._keys.leader), op_get(self._keys.head), op_get(self._keys.epoch)]
            )
        except (Unavailable, OutcomeUnknown):
            await asyncio.sleep(_RETRY_S)
            return None
        leader, head, epoch = (keys_read.range(position).first for position in range(3))
        if self._fate(commit, leader, head, epoch) is not CommitFate.NEVER:
            return self._settle(commit, keys_read)
        if not reply_lost:
            raise NoSpace(str(error))
        line = f"commit of index {commit.head.index} stays open until there is room in etcd: {error}"
        self._limited_log.log(logging.WARNING, line)
        await asyncio.sleep(_FULL_RETRY_S)
        return None

    def _settle(self, commit: Commit, result: TxnResult) -> int:
        """Return the revision of the commit if it landed; otherwise raise the error that corresponds to its fate."""
        leader, head, epoch = (result.range(position).first for position in range(3))
        fate = self._fate(commit, leader, head, epoch)
        if fate is CommitFate.COMMITTED and head is not None:
            return self._advance(commit.head, head.mod_revision)
        if fate is CommitFate.TERM_OVER:
            raise LeadershipLost(f"term {self.fence.term} is over: the batch was not committed")
        if fate is CommitFate.UNKNOWN:
            raise OutcomeUnknown(f"term {self.fence.term} ended during the commit: the batch may have been committed")
        if fate is CommitFate.FOREIGN:
            raise TermBroken(f"{self._keys.head} was changed by another program: the batch may be committed or not")
        raise CompareFailed("a key that this commit compares has changed: the batch was not committed")

    def _fate(self, commit: Commit, leader: KV | None, head: KV | None, epoch: KV | None) -> CommitFate:
        """Return the fate of the commit. leader, head, epoch: these keys, read in one transaction.

        NEVER holds only if a compare of the commit has failed. Then it fails for every later copy as well, because all
        compares are of mod_revisions, which only grow.
        """
        if head is not None and nonce_of(Head, head) == commit.head.nonce:
            return CommitFate.COMMITTED
        unmoved = (0 if head is None else head.mod_revision) == self._head_revision
        if self.fence.holds(leader, epoch):
            return CommitFate.NEVER if unmoved else CommitFate.FOREIGN
        return CommitFate.TERM_OVER if unmoved else CommitFate.UNKNOWN

    async def _give_up(self, commit: Commit, cause: NodectlError) -> int:
        """Send an empty commit, so that no copy of `commit` can land later. Return the revision if one has landed.

        Called if one copy got no reply and etcd refused a later one, with the error `cause`. If the empty commit lands,
        it moves `head`; so no copy of `commit` has landed or can land, and `cause` is raised. If its compares fail,
        the keys show the fate of `commit`. If etcd refuses it too, only the end of the term can stop a late copy:
        TermBroken.
        """
        log.warning(
            "commit of index %d: etcd refused it after an attempt without a reply (%s); sending an empty commit",
            commit.head.index, cause,
        )  # fmt: skip
        empty = Commit(Head(index=self.index, nonce=secrets.token_hex(8)))
        while True:
            try:
                result = await self._send(empty)
            except (Unavailable, OutcomeUnknown) as error:
                self._limited_log.log(logging.WARNING, f"empty commit still open: {error}", about=error.code)
                await asyncio.sleep(_FULL_RETRY_S if isinstance(error, NoSpaceUnknown) else _RETRY_S)
                continue
            except NodectlError as error:
                raise TermBroken(
                    f"an open commit may have landed or may land later, and etcd refused the empty commit: {error}"
                ) from None
            if result.succeeded:
                self._advance(empty.head, result.revision)
                raise cause
            head = result.range(1).first
            if head is not None and nonce_of(Head, head) == empty.head.nonce:
                self._advance(empty.head, head.mod_revision)
                raise cause
            return self._settle(commit, result)

    def _advance(self, head: Head, revision: int) -> int:
        self._head_revision = revision
        self.index = head.index
        return revision


class TermBroken(OutcomeUnknown):
    """This term can no longer determine what is committed. The leader must give it up."""


class CompareFailed(NodectlError):
    """A compare that the caller added to the commit failed. Nothing was committed, and the term goes on."""

    code = "conflict"
    status = 409
