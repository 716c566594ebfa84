"""Commits: one fenced transaction each, and how its outcome is found out when the reply is lost.

A transaction that timed out may land at any later time, and an error on its repeat decides nothing. It is decided by
`head`: it carries our nonce (committed), or it has moved without our nonce while the term is still ours, or can move
no more by this transaction because a compare that only grows has left it behind (never will be). See `_fate`.
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
from nodestore.support.logs import RateLimitedLog

log = logging.getLogger(__name__)

_ATTEMPT_S = 2.0
_RETRY_S = 0.05
_FULL_RETRY_S = 0.5


class CommitFate(Enum):
    """What a failed compare means for the transaction and for every copy of it."""

    COMMITTED = "an earlier copy landed"
    NEVER = "no copy has landed or ever will"
    TERM_OVER = "no copy has landed or ever will, and the term is over"
    FOREIGN = "head has moved under our own term, and not by us: somebody else writes it, perhaps over our commit"
    UNKNOWN = "the term is over, and an earlier copy may have landed before it ended"


@dataclass(frozen=True, slots=True)
class Commit:
    """What to commit. `head` names the index reached and, by its nonce, this commit."""

    head: Head
    ops: tuple[Op, ...] = ()
    compares: tuple[Compare, ...] = ()

    @classmethod
    def moving_to(cls, index: int, ops: Sequence[Op], compares: Sequence[Compare] = ()) -> Commit:
        return cls(Head(index=index, nonce=secrets.token_hex(8)), tuple(ops), tuple(compares))


class Journal:
    """The leader's only way to write: one commit at a time, each comparing the one before."""

    def __init__(self, etcd: Etcd, keys: Keys, fence: Fence, head: KV | None) -> None:
        self._etcd, self._keys, self.fence = etcd, keys, fence
        self._head_revision = 0 if head is None else head.mod_revision
        self.index = 0 if head is None else decode(Head, head.value, keys.head).index
        self.open_since: float | None = None
        """Since when a commit is under way, by the monotonic clock; None when none is."""
        self._limited_log = RateLimitedLog(log, 10.0)

    async def commit(self, commit: Commit) -> int:
        """Returns the revision of the commit. It never returns nor raises before the outcome is known, except:

        OutcomeUnknown: the term is over and an earlier copy may have landed. TermBroken: an earlier copy may have
        landed or may land yet, and the term must be given up, which ends that. LeadershipLost: the term is over and
        surely nothing landed. Any other error is etcd's definite refusal: nothing landed and the term goes on (NoSpace
        for one). A refusal *after* an open attempt decides nothing: where even an empty commit is refused for lack of
        space, this waits until there is some, for as long as the term lasts. Cancelling it leaves the outcome unknown.
        """
        self.open_since = time.monotonic()
        try:
            return await self._commit(commit)
        finally:
            self.open_since = None

    async def _commit(self, commit: Commit) -> int:
        sent = False
        while True:
            try:
                result = await self._send(commit)
            except NoSpaceUnknown as error:
                if (revision := await self._without_room(commit, error, sent)) is not None:
                    return revision
            except OutcomeUnknown as error:
                sent = True
                self._limited_log.log(logging.WARNING, f"commit of index {commit.head.index}: {error}; finding out")
            except Unavailable as error:
                if not sent:
                    raise
                self._limited_log.log(
                    logging.WARNING, f"commit of index {commit.head.index} still open: {error}", about=error.code
                )
                await asyncio.sleep(_RETRY_S)
            except NodectlError as error:
                if not sent:
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
        return await self._etcd.txn(compares, then, orelse, timeout_s=_ATTEMPT_S, repeatable=True)

    async def _without_room(self, commit: Commit, error: NoSpaceUnknown, sent: bool) -> int | None:
        """etcd is full: the copy that was answered so has landed, or never will, and a look at `head` tells. NoSpace:
        it has not. None: not known yet, or an earlier copy (`sent`) is open and may land once there is room again."""
        try:
            looked = await self._etcd.txn(
                [], [op_get(self._keys.leader), op_get(self._keys.head), op_get(self._keys.epoch)]
            )
        except (Unavailable, OutcomeUnknown):
            await asyncio.sleep(_RETRY_S)
            return None
        leader, head, epoch = (looked.range(position).first for position in range(3))
        if self._fate(commit, leader, head, epoch) is not CommitFate.NEVER:
            return self._settle(commit, looked)
        if not sent:
            raise NoSpace(str(error))
        line = f"commit of index {commit.head.index} stays open until there is room: {error}"
        self._limited_log.log(logging.WARNING, line)
        await asyncio.sleep(_FULL_RETRY_S)
        return None

    def _settle(self, commit: Commit, result: TxnResult) -> int:
        leader, head, epoch = (result.range(position).first for position in range(3))
        verdict = self._fate(commit, leader, head, epoch)
        if verdict is CommitFate.COMMITTED and head is not None:
            return self._advance(commit.head, head.mod_revision)
        if verdict is CommitFate.TERM_OVER:
            raise LeadershipLost(f"term {self.fence.term} is over: nothing of this was committed")
        if verdict is CommitFate.UNKNOWN:
            raise OutcomeUnknown(f"term {self.fence.term} ended while this was being committed: it may have been")
        if verdict is CommitFate.FOREIGN:
            raise TermBroken(f"{self._keys.head} was changed by somebody who does not lead: it may be committed or not")
        raise CompareFailed("something that this commit compares has changed: nothing of it was committed")

    def _fate(self, commit: Commit, leader: KV | None, head: KV | None, epoch: KV | None) -> CommitFate:
        """All compares are of mod_revisions, which only grow: one that fails now fails for every later copy too."""
        if head is not None and nonce_of(Head, head) == commit.head.nonce:
            return CommitFate.COMMITTED
        unmoved = (0 if head is None else head.mod_revision) == self._head_revision
        if self.fence.holds(leader, epoch):
            return CommitFate.NEVER if unmoved else CommitFate.FOREIGN
        return CommitFate.TERM_OVER if unmoved else CommitFate.UNKNOWN

    async def _give_up(self, commit: Commit, cause: NodectlError) -> int:
        """etcd refuses a copy of what may have landed: move `head` by an empty commit, so that no copy can any more.

        Either the empty commit lands, and the other never will; or its compare fails because the other has landed.
        When etcd refuses even the empty one, nothing but the end of the term can stop a late copy.
        """
        log.warning("commit of index %d refused (%s) after an open attempt: moving head on", commit.head.index, cause)
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
                    f"an attempt may have landed, or may yet; then etcd refused everything: {error}"
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
    """What is committed, or not, can no longer be told under this term: it must be given up."""


class CompareFailed(NodectlError):
    """A compare that the commit brought itself failed; nothing of it was committed and the term goes on."""

    code = "conflict"
    status = 409
