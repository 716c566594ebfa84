"""Commits batches, one fenced transaction each, and determines the outcome of a transaction whose reply was lost.

A transaction is sent again until its outcome is known, so several copies of it may exist. A copy lands when etcd
executes it and its compares succeed. A copy that timed out may land at any later time. So if a later copy is refused,
that does not prove that nothing was committed.

The key `head` decides: if it carries the nonce of the commit, the commit landed. If the compares of one copy fail, no
copy can land after it, because all compares are of mod_revisions, and these only grow. Whether a copy landed before it
depends on whether `head` has moved and whether the term is still ours: see `_fate`.

If another program deleted or changed `head` within the term, the entry `journal/<index>` decides: if it carries the
nonce of the commit, the commit landed. If it is absent, the same commit is sent again and compares `head` as it is now.
All copies hold the same entry, so a copy that lands for the second time, after another program deleted the traces of
the first, changes nothing. An absent `head` may become absent a second time, so a commit that compares an absent `head`
also compares that its entry is absent: no copy that arrives late overwrites an entry or moves `head` back.
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
from nodestore.schema.models import Entry, Head, decode, decode_or_none, nonce_of
from nodestore.support.backoff import Backoff
from nodestore.support.logs import RateLimitedLog

log = logging.getLogger(__name__)

_ATTEMPT_S, _ATTEMPT_MAX_S = 2.0, 8.0
"""Time limit of the first attempt, and of the later ones: each gets twice as long, as etcd may be overloaded."""
_RETRY_S, _RETRY_MAX_S = 0.05, 0.5
_HEDGE_BYTES = 128 << 10
"""The larger a commit, in this unit, the later its copies are sent: they cost etcd as much as the first one."""
_FULL_RETRY_S = 0.5
_OVERWRITTEN_MAX = 5
"""How often one commit is sent again because another program changed `head`, before the term is given up."""


class CommitFate(Enum):
    """What a failed compare proves about the transaction and all of its copies."""

    COMMITTED = "an earlier copy landed"
    NEVER = "no copy has landed or ever will"
    TERM_OVER = "no copy has landed or ever will, and the term is over"
    OVERWRITTEN = "another program changed head in our term, and there is no entry of this index: send it again"
    FOREIGN = "another program changed head in our term, and an entry of this index exists that is not ours"
    UNKNOWN = "the term is over, and an earlier copy may have landed before it ended"


@dataclass(frozen=True, slots=True)
class Commit:
    """The content of one commit. head: the new index, with a nonce that identifies this commit. size_bytes: of `ops`.

    An empty commit, which writes no entry, only moves `head`. The nonce of an entry must be that of its commit.
    """

    head: Head
    ops: tuple[Op, ...] = ()
    compares: tuple[Compare, ...] = ()
    writes_entry: bool = False
    size_bytes: int = 0

    @classmethod
    def moving_to(
        cls, index: int, ops: Sequence[Op], compares: Sequence[Compare] = (), nonce: str | None = None
    ) -> Commit:
        """A commit that writes an entry and moves `head` to `index`. nonce: that of the entry; by default a new one."""
        head = Head(index=index, nonce=nonce or secrets.token_hex(8))
        return cls(head, tuple(ops), tuple(compares), True, sum(op.ByteSize() for op in ops))


@dataclass(frozen=True, slots=True)
class _Evidence:
    """The keys that decide the fate of a commit, read in one transaction. entry: None if the commit writes none."""

    leader: KV | None
    head: KV | None
    epoch: KV | None
    entry: KV | None

    @classmethod
    def of(cls, result: TxnResult) -> _Evidence:
        found = [result.range(position).first for position in range(len(result.results))]
        return cls(*found, *([None] * (4 - len(found))))


class Journal:
    """Commits for one term, one at a time. Each commit compares the `head` that the previous one wrote."""

    def __init__(self, etcd: Etcd, keys: Keys, fence: Fence, head: KV | None, index: int | None = None) -> None:
        """head: the key as the takeover read it. index: the last committed index; None: the one that `head` holds.

        Garbage if `index` is None and `head` is unreadable.
        """
        self._etcd, self._keys, self.fence = etcd, keys, fence
        self._fence_compares = fence.compares(keys)
        self._fate_reads = [op_get(keys.leader), op_get(keys.head), op_get(keys.epoch)]
        self._head_revision = 0 if head is None else head.mod_revision
        if index is None:
            index = 0 if head is None else decode(Head, head.value, keys.head).index
        self.index = index
        self.overwritten_count = 0
        """How often another program deleted or changed `head` before a commit of this term."""
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

    @property
    def head_revision(self) -> int:
        """The mod_revision of `head` that the next commit compares; 0 if `head` must be absent."""
        return self._head_revision

    def is_head(self, kv: KV | None) -> bool:
        """Whether this value of `head` holds the last committed index."""
        found = decode_or_none(Head, kv)
        return found is not None and found.index == self.index

    async def rewrite_head(self) -> None:
        """Write `head` with the last committed index, if another program deleted or changed it. Raises as `commit`.

        The caller ensures that the store holds everything up to that index: other masterds rely on it.
        """
        head = (await self._etcd.txn([], [op_get(self._keys.head)])).range(0).first
        revision = 0 if head is None else head.mod_revision
        if revision != self._head_revision or not self.is_head(head):
            self._head_revision = revision
            await self.commit(Commit(Head(index=self.index, nonce=secrets.token_hex(8))))

    async def _commit(self, commit: Commit) -> int:
        reply_lost, overwritten, pauses = False, 0, Backoff(_RETRY_S, _RETRY_MAX_S)
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
                evidence, overwritten = _Evidence.of(result), overwritten + 1
                if self._fate(commit, evidence) is not CommitFate.OVERWRITTEN or overwritten > _OVERWRITTEN_MAX:
                    return self._settle(commit, evidence)
                self._compare_present_head(evidence.head)

    def _compare_present_head(self, head: KV | None) -> None:
        """Compare `head` as another program left it. No copy of a commit that compared another revision can land."""
        self._limited_log.log(
            logging.ERROR,
            f"{self._keys.head} was {'deleted' if head is None else 'changed'} by another program; the leader writes "
            "it again, and nothing is lost",
        )
        self.overwritten_count += 1
        self._head_revision = 0 if head is None else head.mod_revision

    async def _send(self, commit: Commit, *, given_up: Commit | None = None) -> TxnResult:
        """Send a commit. If its compares fail, the result has the keys that decide its fate, or that of `given_up`."""
        compares = [
            *self._fence_compares,
            cmp_mod(self._keys.head, self._head_revision),
            *commit.compares,
        ]
        if commit.writes_entry and self._head_revision == 0:
            compares.append(cmp_mod(self._keys.entry(commit.head.index), 0))
        then = [op_put(self._keys.head, commit.head.encode()), *commit.ops]
        orelse = self._reads(given_up or commit)
        patience = 1.0 + commit.size_bytes / _HEDGE_BYTES
        return await self._etcd.txn(
            compares, then, orelse, timeout_s=self._attempt_s, repeatable=True, hedge_patience=patience
        )

    def _reads(self, commit: Commit) -> list[Op]:
        """The reads of `_Evidence`, in its order."""
        entry = [op_get(self._keys.entry(commit.head.index))] if commit.writes_entry else []
        return [*self._fate_reads, *entry]

    async def _without_room(self, commit: Commit, error: NoSpaceUnknown, reply_lost: bool) -> int | None:
        """Read `head` after etcd reported that it is full, and return the revision if the commit has landed.

        etcd returns this error both for a write that it has applied and for one that it has refused. In either case the
        copy that got the error does not land later. Raises NoSpace if nothing landed. None: `head` could not be read,
        or an earlier copy without a reply (`reply_lost`) may land once there is space again.
        """
        try:
            evidence = _Evidence.of(await self._etcd.txn([], self._reads(commit)))
        except (Unavailable, OutcomeUnknown):
            await asyncio.sleep(_RETRY_S)
            return None
        if self._fate(commit, evidence) is not CommitFate.NEVER:
            return self._settle(commit, evidence)
        if not reply_lost:
            raise NoSpace(str(error))
        line = f"commit of index {commit.head.index} stays open until there is room in etcd: {error}"
        self._limited_log.log(logging.WARNING, line)
        await asyncio.sleep(_FULL_RETRY_S)
        return None

    def _settle(self, commit: Commit, evidence: _Evidence) -> int:
        """Return the revision of the commit if it landed; otherwise raise the error that corresponds to its fate."""
        fate = self._fate(commit, evidence)
        if fate is CommitFate.COMMITTED:
            self._advance(commit.head, 0 if evidence.head is None else evidence.head.mod_revision)
            landed = evidence.entry or evidence.head
            return 0 if landed is None else landed.mod_revision
        if fate is CommitFate.TERM_OVER:
            raise LeadershipLost(f"term {self.fence.term} is over: the batch was not committed")
        if fate is CommitFate.UNKNOWN:
            raise OutcomeUnknown(f"term {self.fence.term} ended during the commit: the batch may have been committed")
        if fate in (CommitFate.FOREIGN, CommitFate.OVERWRITTEN):
            raise TermBroken(f"{self._keys.head} was changed by another program: the batch may be committed or not")
        raise CompareFailed("a key that this commit compares has changed: the batch was not committed")

    def _fate(self, commit: Commit, evidence: _Evidence) -> CommitFate:
        """Return the fate of the commit.

        NEVER holds only if a compare of the commit has failed. Then it fails for every later copy as well, because all
        compares are of mod_revisions, which only grow.
        """
        head, entry = evidence.head, evidence.entry
        if commit.head.nonce in (nonce_of(Head, head), nonce_of(Entry, entry)):
            return CommitFate.COMMITTED
        unmoved = (0 if head is None else head.mod_revision) == self._head_revision
        if self.fence.holds(evidence.leader, evidence.epoch):
            if unmoved:
                return CommitFate.NEVER
            return CommitFate.OVERWRITTEN if entry is None else CommitFate.FOREIGN
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
                result = await self._send(empty, given_up=commit)
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
            return self._settle(commit, _Evidence.of(result))

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
