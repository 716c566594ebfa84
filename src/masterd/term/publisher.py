"""Writes the views: within the commit if they fit, otherwise in chunks that each compare and put `applied`."""

from __future__ import annotations

import asyncio
import logging

from masterd.state_machine.specs import SpecDeriver
from masterd.state_machine.state import State
from masterd.state_machine.views import TxnBudget, ViewChanges, all_views, chunks, difference, fits, kept_orders
from nodestore.cluster.election import Fence
from nodestore.errors import Garbage, LeadershipLost, NoSpaceUnknown, OutcomeUnknown, TooLarge, Unavailable
from nodestore.etcd.session import KV, Etcd, Op, cmp_mod, op_delete, op_get, op_put
from nodestore.etcd.watch import list_at
from nodestore.schema.keys import Keys, prefix_end
from nodestore.schema.models import Applied, decode
from nodestore.support.jsonio import loads
from nodestore.support.logs import RateLimitedLog

log = logging.getLogger(__name__)

_RETRY_S = 0.1
_FULL_RETRY_S = 0.5


class Publisher:
    """Writes the views of one term. The key `applied` records the progress, and each write compares it."""

    def __init__(self, etcd: Etcd, keys: Keys, fence: Fence) -> None:
        self._etcd, self._keys, self._fence = etcd, keys, fence
        self._limited_log = RateLimitedLog(log)
        self._revision = 0
        self.oversized: dict[str, int] = {}
        """Sizes in bytes of the views that etcd refuses as too large. They are left out; others are still written."""
        self.complete_up_to = 0
        """Index up to which all views are complete. Truncation goes no further."""

    async def finish_views(
        self, applied_kv: KV | None, state: State, spec_deriver: SpecDeriver, budget: TxnBudget
    ) -> None:
        """Complete the views at the start of a term. In a new epoch, rewrite all desired states and actions of nodes.

        If `applied` says that the views are complete, they are not read. Otherwise every view is compared with the
        state. So the views become correct after any number of crashes, and after the restore of a backup.
        """
        applied = None
        if applied_kv is not None:
            self._revision = applied_kv.mod_revision
            try:
                applied = decode(Applied, applied_kv.value, applied_kv.key)
            except Garbage as error:
                log.warning("comparing every view with the state, because `applied` is unreadable: %s", error)
        epoch = self._fence.term.epoch
        if applied is not None and applied.through is None and (applied.index, applied.epoch) == (state.index, epoch):
            self.complete_up_to = state.index
            return
        if applied is None and state.index == 0:
            return
        wanted = all_views(self._keys, self._fence.term, state, spec_deriver)
        found = await self._fetch_views()
        wanted.update(kept_orders(self._keys, self._fence.term, state, spec_deriver, found))
        changes = difference(wanted, self._accept_earlier_terms(found, wanted))
        log.info("writing %d changes to complete the %d views of index %d", len(changes), len(wanted), state.index)
        self.complete_up_to = applied.base if applied else 0
        await self.write_views(changes, state.index, budget)

    def inline_ops(self, changes: ViewChanges, index: int, budget: TxnBudget) -> list[Op]:
        """Return the operations that write the views within the commit of `index`; empty if they do not fit."""
        if not fits(changes, budget):
            return []
        return [*self._ops(changes), self._put_applied(index, index, None)]

    def note_published(self, index: int, revision: int) -> None:
        """Record that a commit that contained the views has landed."""
        self._revision, self.complete_up_to = revision, index

    async def write_views(self, changes: ViewChanges, index: int, budget: TxnBudget) -> None:
        """Write these changes in key order, in chunks. Then the views are complete up to `index`.

        Raises LeadershipLost if deposed.
        """
        parts = list(chunks(changes, budget)) or [{}]
        base = self.complete_up_to
        for number, part in enumerate(parts, start=1):
            last = number == len(parts)
            through = None if last else max(part)
            await self._put_part(part, index, index if last else base, through)
        self.complete_up_to = index

    async def _put_part(self, part: ViewChanges, index: int, base: int, through: str | None) -> None:
        """Write one chunk. If etcd refuses it as too large, write its views one by one, and leave out the ones that are
        still refused: one view that cannot be written must not keep a leader from serving."""
        progress = self._put_applied(index, base, through)
        try:
            await self._put_chunk([*self._ops(part), progress], progress.request_put.value)
        except TooLarge as error:
            if len(part) > 1:
                await self._put_singly(part, index, base, through)
                return
            ((key, value),) = part.items() or [("", None)]
            if value is None:
                raise
            self.oversized[key] = len(value)
            self._limited_log.log(logging.ERROR, f"{key} is left out, {len(value)} bytes: {error}", about=key)
            # An outdated document would mislead its readers, so it is deleted. An outdated desired state stays.
            absent: ViewChanges = {key: None} if key.startswith(self._keys.state) else {}
            await self._put_chunk([*self._ops(absent), progress], progress.request_put.value)
        else:
            for key in part:
                self.oversized.pop(key, None)

    async def _put_singly(self, part: ViewChanges, index: int, base: int, through: str | None) -> None:
        """Write a chunk view by view. `applied` goes along, and gets `base` and `through` with the last one."""
        names = sorted(part)
        for key in names:
            last = key == names[-1]
            await self._put_part(
                {key: part[key]}, index, base if last else self.complete_up_to, through if last else key
            )

    @property
    def problem(self) -> str | None:
        """Which views are left out because they are too large; None without any."""
        if not self.oversized:
            return None
        key, size = next(iter(self.oversized.items()))
        more = f" and {len(self.oversized) - 1} more" if len(self.oversized) > 1 else ""
        return (
            f"{key}{more}: the view has {size} bytes, which etcd refuses as too large, so it is left out; "
            "make its document smaller, or raise --max-request-bytes of etcd"
        )

    async def _put_chunk(self, ops: list[Op], new_applied: bytes) -> None:
        compares = [*self._fence.compares(self._keys), cmp_mod(self._keys.applied, self._revision)]
        orelse = [op_get(self._keys.applied), op_get(self._keys.leader), op_get(self._keys.epoch)]
        while True:
            try:
                result = await self._etcd.txn(compares, ops, orelse, repeatable=True)
            except (Unavailable, OutcomeUnknown) as error:
                self._limited_log.log(logging.WARNING, f"could not write views; retrying: {error}", about=error.code)
                await asyncio.sleep(_FULL_RETRY_S if isinstance(error, NoSpaceUnknown) else _RETRY_S)
                continue
            if result.succeeded:
                self._revision = result.revision
                return
            applied, leader, epoch = (result.range(position).first for position in range(3))
            if not self._fence.holds(leader, epoch):
                raise LeadershipLost(f"term {self._fence.term} ended while views were being written")
            if applied is not None and applied.value == new_applied and applied.mod_revision > self._revision:
                self._revision = applied.mod_revision  # an earlier copy of this chunk has landed
                return
            log.warning("%s was changed by another program; writing it again", self._keys.applied)
            self._revision = 0 if applied is None else applied.mod_revision
            compares[-1] = cmp_mod(self._keys.applied, self._revision)

    def _put_applied(self, index: int, base: int, through: str | None) -> Op:
        applied = Applied(index=index, base=base, through=through, epoch=self._fence.term.epoch)
        return op_put(self._keys.applied, applied.encode())

    def _ops(self, changes: ViewChanges) -> list[Op]:
        return [op_delete(key) if value is None else op_put(key, value) for key, value in changes.items()]

    async def _fetch_views(self) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for prefix in (self._keys.state, self._keys.desired, self._keys.actions):
            listing = await list_at(self._etcd, prefix, end=prefix_end(prefix), page=500)
            found.update((kv.key, kv.value) for kv in listing.kvs)
        return found

    def _accept_earlier_terms(self, found: dict[str, bytes], wanted: dict[str, bytes]) -> dict[str, bytes]:
        """Return `found`, with the wanted value for each desired state or action that differs only in its term.

        So such a view is not rewritten: it stays valid in the later terms of its epoch.
        """
        accepted = dict(found)
        prefixes = (self._keys.desired, self._keys.actions)
        for key, raw in found.items():
            if key in wanted and key.startswith(prefixes) and equal_but_for_term(raw, wanted[key]):
                accepted[key] = wanted[key]
        return accepted


def equal_but_for_term(found: bytes, wanted: bytes, *, or_marks: bool = False) -> bool:
    """Whether two desired states or two lists of actions are equal apart from their terms.

    or_marks: and apart from the marks of secret fields. Masterds of two releases write other marks: one must not
    mistake those of the other for what another program wrote.
    """
    try:
        old, new = loads(found), loads(wanted)
    except Garbage:
        return False
    if not isinstance(old, dict):
        return False
    left_out = {"term": None, "secret_fields": None} if or_marks else {"term": None}
    return {**old, **left_out} == {**new, **left_out} and "term" in old
