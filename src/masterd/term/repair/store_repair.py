"""Writes again from memory what another program deleted or changed in etcd, and says what it was.

A task of the leader looks for it, every 10 s. What does not affect commits it writes at once. `head` and the views are
written by the task that commits, between two commits, because each commit writes them too. A deleted desired state is
noticed at once, because its node would stop what it runs.

Nothing here decides what is committed. Every write is fenced. A late copy lands only if the keys that it compares are
unchanged. If it leaves an outdated value nevertheless, the next check finds it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NoReturn

from masterd.replication.cluster_view import ClusterView
from masterd.replication.replica import Replica
from masterd.state_machine.views import ViewChanges, view_keys, view_of
from masterd.term.committer import Committer, LeaderSettings
from masterd.term.publisher import equal_but_for_term
from masterd.term.retention import JournalRetention
from nodestore.cluster.election import Fence
from nodestore.errors import LeadershipLost, NodectlError
from nodestore.etcd.session import KV, Etcd, cmp_mod, op_get, op_put
from nodestore.schema.keys import Keys, prefix_end
from nodestore.support.logs import RateLimitedLog
from nodestore.support.time_slices import TimeSlice

log = logging.getLogger(__name__)

_FIRST_CHECK_S = 5.0
_CHECK_EVERY_S = 10.0
_PAGE_KEYS = 100
_REPAIR_MAX = 64
"""Largest number of suspected views that are read between two commits."""
_NAMED_MAX = 3
_REPORTS_MAX = 8
_REPORT_S = 3_600.0
"""How long a repair is shown as a problem of the cluster: its cause, another program that deletes keys, may go on."""


class StoreRepair:
    """Repairs the store in one term. wake: wakes the task that commits."""

    def __init__(
        self,
        etcd: Etcd,
        keys: Keys,
        fence: Fence,
        *,
        replica: Replica,
        cluster_view: ClusterView,
        retention: JournalRetention,
        committer: Committer,
        settings: LeaderSettings,
        wake: Callable[[], None],
    ) -> None:
        self._etcd, self._keys, self._fence = etcd, keys, fence
        self._replica, self._cluster_view = replica, cluster_view
        self._retention, self._committer, self._settings = retention, committer, settings
        self._wake = wake
        self._suspects: dict[str, None] = {}
        self._is_head_suspect = False
        self._overwritten_count = 0
        self._views_checked = 0
        """Revision up to which every view was compared with the state."""
        self._reports: deque[tuple[float, str]] = deque(maxlen=_REPORTS_MAX)
        self._limited_log = RateLimitedLog(log)

    @property
    def reports(self) -> list[str]:
        """What was repaired within the last hour, oldest first."""
        since = time.monotonic() - _REPORT_S
        return list(dict.fromkeys(text for at, text in self._reports if at >= since))

    async def run(self) -> NoReturn:
        """Check until cancelled. Raises LeadershipLost when the term is over. A failed check is logged and repeated."""
        unsubscribe = self._cluster_view.subscribe_deleted_desired(self._on_desired_deleted)
        try:
            await asyncio.sleep(_FIRST_CHECK_S)
            while True:
                try:
                    await self.check()
                except LeadershipLost:
                    raise
                except NodectlError as error:
                    self._limited_log.log(logging.WARNING, f"cannot check what etcd holds, trying again: {error}")
                await asyncio.sleep(_CHECK_EVERY_S)
        finally:
            unsubscribe()

    async def begin_term(self, head: KV | None) -> None:
        """Make the store hold the state up to `head` before the term serves. head: the key as the takeover read it.

        The snapshot comes before `head`: no other masterd may find a `head` that it cannot reach.
        """
        journal = self._committer.journal
        if self._replica.index == 0 or journal.is_head(head):
            return
        self._report(await self._retention.cover_state())
        self._report_head()
        await journal.rewrite_head()

    # --- the check ---

    async def check(self) -> None:
        """Look for missing and changed keys once. Raises LeadershipLost if the term is over."""
        journal = self._committer.journal
        expected = journal.head_revision
        result = await self._etcd.txn(
            self._fence.compares(self._keys),
            [op_get(self._keys.head), op_get(self._keys.config_current), op_get(self._keys.applied)],
            [op_get(self._keys.leader)],
        )
        if not result.succeeded:
            raise LeadershipLost(f"term {self._fence.term} is over")
        head, config, applied = (result.range(position).first for position in range(3))
        self._report(await self._retention.cover_state())
        for name in self._retention.take_lost_names():
            self._report(f"snapshot {name!r} was deleted or damaged by another program, and cannot be written again")
        is_right = head is not None and head.mod_revision == expected and journal.is_head(head)
        if not is_right and self._is_quiet_at(expected) and self._replica.index > 0:
            self._is_head_suspect = True
        if journal.overwritten_count > self._overwritten_count:
            self._report_head()
        self._overwritten_count = journal.overwritten_count
        if config is None:
            await self._write_config()
        if applied is None and self._replica.index > 0:
            self._suspects[self._keys.applied] = None
        await self._compare_views()
        if self.is_due:
            self._wake()

    def _is_quiet_at(self, head_revision: int) -> bool:
        """Whether `head` is where it was, and no commit is open that may have moved it."""
        journal = self._committer.journal
        return journal.open_since is None and journal.head_revision == head_revision

    async def _write_config(self) -> None:
        """Write `config/current` again, with the configuration in force. It is then adopted once more."""
        adopted = self._replica.state.adopted
        if adopted is None:
            return
        key, value = self._keys.config_current, adopted.record.encode()
        puts = [op_put(key, value), op_put(self._keys.config_version(adopted.record.version), value)]
        result = await self._etcd.txn([*self._fence.compares(self._keys), cmp_mod(key, 0)], puts)
        if result.succeeded:
            self._report(f"{key} was deleted by another program: it holds version {adopted.record.version} again")

    async def _compare_views(self) -> None:
        """Suspect views that are missing, that should not exist, or that were changed and differ from the state."""
        keys, state = self._keys, self._replica.state
        if self._committer.publisher.complete_up_to != state.index:
            return  # they are being written
        wanted, seen, checked = view_keys(keys, state), set[str](), 0
        time_slice = TimeSlice()
        for prefix in (keys.state, keys.desired, keys.actions):
            begin, end = prefix.encode(), prefix_end(prefix)
            while begin < end:
                page = await self._etcd.range(begin, end=end, limit=_PAGE_KEYS, keys_only=True, timeout_s=5.0)
                checked = checked or page.revision
                seen.update(kv.key for kv in page.kvs)
                if any(kv.mod_revision > self._views_checked for kv in page.kvs):
                    await self._compare_values(begin, end)
                if not page.has_more:
                    break
                begin = page.next_start
                await time_slice.yield_if_used_up()
        self._suspects.update(dict.fromkeys(sorted(wanted ^ seen)))
        self._views_checked = checked

    async def _compare_values(self, begin: bytes, end: bytes) -> None:
        page = await self._etcd.range(begin, end=end, limit=_PAGE_KEYS, timeout_s=5.0)
        for kv in page.kvs:
            if kv.mod_revision > self._views_checked and not self._is_right(kv.key, kv.value):
                self._suspects[kv.key] = None

    def _on_desired_deleted(self, node: str) -> None:
        """A desired state was deleted: suspect it, if the node must have one.

        This leader may have deleted it itself: then `repair` finds that it is right.
        """
        if node in self._replica.state.specs:
            self._suspects[self._keys.desired_of(node)] = None
            self._wake()

    # --- the repair, between two commits ---

    @property
    def is_due(self) -> bool:
        """Whether `repair` has something to do."""
        return self._is_head_suspect or bool(self._suspects)

    async def repair(self) -> None:
        """Repair `head` and the suspected views. Called by the task that commits, while no commit is open.

        Raises LeadershipLost and OutcomeUnknown, which end the term. After another error the next check tries again.
        """
        try:
            if self._is_head_suspect:
                self._is_head_suspect = False
                await self._repair_head()
            await self._repair_views()
        except NodectlError as error:
            if isinstance(error, LeadershipLost) or error.code == "outcome_unknown":
                raise
            self._suspects.clear()
            self._limited_log.log(logging.WARNING, f"cannot write keys again, trying again: {error}")

    async def _repair_head(self) -> None:
        before = self._committer.journal.head_revision
        await self._committer.journal.rewrite_head()
        if self._committer.journal.head_revision != before:
            self._report_head()

    async def _repair_views(self) -> None:
        suspects = list(self._suspects)[:_REPAIR_MAX]
        for key in suspects:
            del self._suspects[key]
        changes = await self._wrong_views(suspects)
        if not changes and self._keys.applied not in suspects:
            return
        await self._committer.publisher.write_views(changes, self._replica.index, self._settings.txn_budget(0))
        # Views that etcd refuses as too large are still missing. `Publisher.problem` reports them.
        written = sorted(changes.keys() - self._committer.publisher.oversized.keys())
        if changes and not written:
            return
        named = written or [self._keys.applied]
        more = f" and {len(named) - _NAMED_MAX} more views" if len(named) > _NAMED_MAX else ""
        self._report(f"{', '.join(named[:_NAMED_MAX])}{more} deleted or changed by another program: written again")

    async def _wrong_views(self, suspects: Sequence[str]) -> ViewChanges:
        changes: ViewChanges = {}
        for key in suspects:
            if key == self._keys.applied:
                continue
            found = await self._etcd.get(key)
            value = None if found is None else found.value
            if not self._is_right(key, value):
                changes[key] = self._wanted(key)
        return changes

    def _wanted(self, key: str) -> bytes | None:
        return view_of(self._keys, self._fence.term, self._replica.state, self._committer.spec_deriver, key)

    def _is_right(self, key: str, value: bytes | None) -> bool:
        """Whether the view agrees with the state.

        Also True if the recorded spec of its node cannot be derived now, and if etcd refuses the view as too large.
        """
        if key in self._committer.publisher.oversized:
            return True
        if key.startswith(self._keys.desired):
            node = key.removeprefix(self._keys.desired)
            mark = self._replica.state.specs.get(node)
            deriver = self._committer.spec_deriver
            if node in deriver.failed or (mark is not None and deriver[node].hash != mark.hash):
                return True
        wanted = self._wanted(key)
        if wanted == value or wanted is None or value is None:
            return wanted == value
        return not key.startswith(self._keys.state) and equal_but_for_term(value, wanted, or_marks=True)

    def _report_head(self) -> None:
        self._report(f"{self._keys.head} was deleted or changed by another program: written again")

    def _report(self, text: str | None) -> None:
        if text is not None:
            self._reports.append((time.monotonic(), text))
            log.error("%s", text)
