"""Retention: writes snapshots, truncates the journal, and deletes snapshots and histories that are no longer needed.

The journal is truncated no further than the older of the two newest snapshots that were read back and hash-checked,
and no further than the index up to which the views are complete. It keeps every entry whose command ids must still be
known, which are those above the floor, unless it exceeds its limit in bytes or etcd is short of space.

Only the leader writes and deletes snapshots, one at a time. So a snapshot without a manifest is one that a former
leader, or a failed attempt of this one, has left: it is deleted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from masterd.replication.images import Image
from masterd.replication.replica import Replica
from masterd.replication.state_coverage import find_gap
from masterd.term.history_pruning import HistoryPruning
from masterd.term.publisher import Publisher
from masterd.upkeep.store_budget import StoreBudget
from nodestore.cluster.election import Fence
from nodestore.errors import Conflict, Garbage, LeadershipLost, NodectlError, NoSpaceUnknown, TooLarge
from nodestore.etcd.session import Op, op_delete
from nodestore.schema.keys import prefix_end
from nodestore.schema.models import Manifest
from nodestore.support.logs import RateLimitedLog

log = logging.getLogger(__name__)

_SMALL_BYTES = 1 << 20
"""If the last snapshot is at most this large, `_journal_bytes_min` requires no growth of the journal."""
_FRAGMENTS_EVERY_S = 60.0
"""A late copy of a chunk may land after its snapshot was deleted, so fragments are looked for again and again."""


@dataclass(frozen=True, kw_only=True)
class RetentionSettings:
    """When a snapshot is due and how much of the journal is kept."""

    snapshot_every_commands: int = 5_000
    snapshot_every_bytes: int = 8 << 20
    journal_bytes_max: int = 48 << 20
    """The store's budget may set a lower limit, and so it may for `snapshot_every_bytes`."""
    check_every_s: float = 1.0
    snapshot_after_s: float = 3.0
    """Age of the term before which a due snapshot is not written: a term that ends early would leave it incomplete."""
    terms_max: int = 500
    config_versions_max: int = 200
    config_versions_min: int = 2
    """So many versions are kept even if they exceed `config_history_bytes_max` of the store's budget."""
    keep_ids: bool = True
    """False only in tests: truncate up to the snapshots, even if ids of those entries must still be known."""


def is_snapshot_due(settings: RetentionSettings, commands: int, journal_bytes: int, snapshot_bytes: int) -> bool:
    """Whether a snapshot is due.

    commands, journal_bytes: number and size of the commands since the last snapshot. snapshot_bytes: size of the last
    snapshot.
    """
    if journal_bytes < _journal_bytes_min(settings, snapshot_bytes):
        return False
    if commands >= settings.snapshot_every_commands:
        return True
    return commands > 0 and journal_bytes >= settings.snapshot_every_bytes


def _journal_bytes_min(settings: RetentionSettings, snapshot_bytes: int) -> int:
    """Return how many bytes the journal must grow before the next snapshot: the size of the last one.

    Without this, snapshots would be the larger part of all writes under load: with 200,000 command ids, each snapshot
    has 20 MB. Returns 0 if the last snapshot was small, and never more than a third of `journal_bytes_max`.
    """
    if snapshot_bytes <= _SMALL_BYTES:
        return 0
    return min(snapshot_bytes, settings.journal_bytes_max // 3)


class JournalRetention:
    """Keeps the store bounded for one term. A failed attempt is logged and repeated at the next check."""

    def __init__(
        self,
        fence: Fence,
        replica: Replica,
        publisher: Publisher,
        settings: RetentionSettings,
        wall_clock: Callable[[], float],
        *,
        budget: StoreBudget | None = None,
    ) -> None:
        self._fence, self.replica, self._publisher = fence, replica, publisher
        self._wall_clock, self._budget = wall_clock, budget or StoreBudget()
        self._settings = replace(
            settings,
            journal_bytes_max=min(settings.journal_bytes_max, self._budget.journal_bytes_max),
            snapshot_every_bytes=min(settings.snapshot_every_bytes, self._budget.snapshot_every_bytes_max),
        )
        self._snapshots = replica.snapshots
        self._snapshots.forget_named()
        self._last_index: int | None = None
        self._is_first_check_done = False
        self._started_at = time.monotonic()
        self.pinned: set[str] = set()
        """Snapshots that an entry being committed will name. They must not be deleted."""
        self._snapshot_lock = asyncio.Lock()
        """Held while snapshots are written or deleted, so that an unfinished snapshot is not deleted as a fragment."""
        self._histories = HistoryPruning(
            replica, self._delete, terms_max=settings.terms_max, configs_max=settings.config_versions_max,
            configs_min=settings.config_versions_min, config_bytes_max=self._budget.config_history_bytes_max,
        )  # fmt: skip
        self._look_for_fragments_at = 0.0
        """Monotonic time from which on fragments are looked for. An attempt that fails sets it to 0."""
        self._requested_snapshots = 0
        self._bytes_at_snapshot = 0
        self._snapshot_bytes = 0
        self._truncated_index = 0
        self._limited_log = RateLimitedLog(log)

    async def run(self) -> None:
        """Check periodically until cancelled. Raises LeadershipLost when the term is over."""
        while True:
            try:
                await self.check()
            except LeadershipLost:
                raise
            except NodectlError as error:
                self._limited_log.log(logging.WARNING, f"retention: {error}; trying again at the next check")
            await asyncio.sleep(self._settings.check_every_s)

    async def check(self) -> None:
        """If a snapshot is due, write it and truncate the journal.

        The first successful call in a term also prunes the histories and deletes incomplete snapshots.
        """
        if not self._is_first_check_done:
            await self._histories.prune_terms()
            await self._inspect_snapshots()
            self._is_first_check_done = True
        await self._histories.prune_configs_if_due()
        if time.monotonic() >= self._look_for_fragments_at:
            async with self._snapshot_lock:
                await self._delete_fragments()
        due = self._requested_snapshots > 0 or self._is_snapshot_due()
        if due and time.monotonic() - self._started_at >= self._settings.snapshot_after_s:
            await self.write_snapshot()
            self._requested_snapshots = max(0, self._requested_snapshots - 1)
            await self.truncate_and_prune()

    def request_snapshots(self) -> None:
        """Make two snapshots due, which replace the two newest ones. Call this when the state became much smaller."""
        self._requested_snapshots = 2

    async def _inspect_snapshots(self) -> None:
        """Delete incomplete snapshots, and find the newest complete one, since which the journal's growth is counted.

        Without the deletion, leaders that follow one another quickly would fill etcd with one fragment each.
        """
        async with self._snapshot_lock:
            manifests = await self._delete_fragments()
        await self._forget_truncated_entries()
        if self._last_index is None:  # else a snapshot was requested and written before the first check
            newest = next((manifest for manifest in manifests.values() if manifest.has_ids), None)
            self._last_index, self._snapshot_bytes = (newest.index, newest.size_bytes) if newest else (0, 0)
            beyond = sum(size for last, size in self.replica.entry_sizes if last > self._last_index)
            self._bytes_at_snapshot = self.replica.bytes_applied - beyond  # entries up to that snapshot do not count

    async def _forget_truncated_entries(self) -> None:
        """Drop the sizes of entries that former leaders truncated: a standby does not see that.

        Otherwise the journal would seem too large, and would be truncated further than its ids allow.
        """
        keys, sizes = self.replica.keys, self.replica.entry_sizes
        found = await self.replica.etcd.range(keys.journal, end=prefix_end(keys.journal), limit=1, keys_only=True)
        with contextlib.suppress(IndexError, ValueError):  # an empty journal; a key that names no entry
            oldest = keys.entry_index(found.kvs[0].key)
            while sizes and sizes[0][0] < oldest:
                self.replica.sizes_known_after = max(self.replica.sizes_known_after, sizes.popleft()[0])

    def _is_snapshot_due(self) -> bool:
        commands = self.replica.state.index - (self._last_index or 0)
        journal_bytes = self.replica.bytes_applied - self._bytes_at_snapshot
        return is_snapshot_due(self._settings, commands, journal_bytes, self._snapshot_bytes)

    async def cover_state(self) -> str | None:
        """Write a snapshot if snapshots and journal in etcd do not hold the state; return what was missing, else None.

        Only another program can have deleted or changed it. The state in memory is complete, so nothing is lost.
        """
        async with self._snapshot_lock:  # truncation and the deletion of snapshots wait
            missing = await find_gap(self.replica)
        if missing is not None:
            log.error("%s: writing a snapshot of the state in memory", missing)
            await self.write_snapshot()
        return missing

    def take_lost_names(self) -> list[str]:
        """The named snapshots that `cover_state` has found missing and that no operator of this term deleted, once."""
        return self._snapshots.take_lost_named()

    async def write_snapshot(self) -> str:
        """Write a snapshot of the current state; return its full name. Raises LeadershipLost if the term has ended."""
        async with self._snapshot_lock:
            image, bytes_applied = Image.of(self.replica.state), self.replica.bytes_applied
            written = await self._write(image)
        self._last_index, self._bytes_at_snapshot = image.index, bytes_applied
        self._snapshot_bytes = self._snapshots.written_bytes
        log.info("wrote and checked the snapshot of index %d (%d documents)", image.index, len(image.documents))
        return written

    async def write_named(self, name: str) -> Manifest:
        """Write the documents of the current state as a snapshot with this name; return its manifest.

        Conflict if the name is taken or there are too many named snapshots; TooLarge if they take too many bytes.
        """
        # What makes a name unique: nothing but this method, under this lock, writes named snapshots in this term, and
        # the fence stops those of earlier terms. If the manifest of an earlier attempt may still land, that is settled
        # first: its chunks are deleted in a transaction that fails if the manifest exists. Without them it never lands.
        async with self._snapshot_lock:
            manifests = await self._delete_fragments()
            named = [manifest.name for manifest in manifests.values() if manifest.name is not None]
            if name in named or name in manifests:
                raise Conflict(f"a snapshot named {name!r} exists already: delete it first, or choose another name")
            if len(named) >= self._budget.named_max:
                raise Conflict(f"there are {len(named)} named snapshots, which is the limit: delete one first")
            image = Image.of(self.replica.state).without_ids()
            self._check_kept_bytes(manifests, image)
            written = await self._write(image, name)
            return (await self._snapshots.manifests())[written]

    async def write_pinned(self, image: Image) -> str:
        """Write an image that a journal entry will restore, and pin it; return its full name.

        TooLarge if the snapshots that are kept would take too many bytes.
        """
        async with self._snapshot_lock:
            image = image.without_ids()
            self._check_kept_bytes(await self._snapshots.manifests(), image)
            written = await self._write(image)
            self.pinned.add(written)
        return written

    def _check_kept_bytes(self, manifests: Mapping[str, Manifest], image: Image) -> None:
        kept = sum(
            manifest.size_bytes
            for name, manifest in manifests.items()
            if manifest.name is not None or self.is_needed(name)
        )
        if kept + image.documents_bytes > self._budget.kept_bytes_max:
            raise TooLarge(
                f"snapshots that are kept take {kept} bytes, this one would take {image.documents_bytes} more, and the "
                f"limit is {self._budget.kept_bytes_max}, an eighth of etcd's quota: delete named snapshots (nodectl "
                "snapshot list); one that a restore used is deleted once the journal is truncated"
            )

    async def _write(self, image: Image, name: str | None = None) -> str:
        """Write a snapshot. If that fails or is cancelled, what was written of it is deleted at the next check."""
        look_at, self._look_for_fragments_at = self._look_for_fragments_at, 0.0
        written = await self._snapshots.write(self._fence, image, self._wall_clock(), name)
        self._look_for_fragments_at = look_at
        return written

    async def _delete_fragments(self) -> dict[str, Manifest]:
        """Delete incomplete snapshots; return the manifests of all complete ones. The lock must be held."""
        for name in await self._snapshots.fragments():
            await self._snapshots.delete_fragment(self._fence, name)
            log.info("deleted the incomplete snapshot %s", name)
        self._look_for_fragments_at = time.monotonic() + _FRAGMENTS_EVERY_S
        return await self._snapshots.manifests()

    @property
    def journal_bytes(self) -> int:
        """Size of the retained entries, as far as this process has read or written them."""
        return sum(size for _, size in self.replica.entry_sizes)

    @property
    def bytes_seen(self) -> int:
        return self.replica.bytes_applied

    def subscribe(self, grew: Callable[[], None]) -> Callable[[], None]:
        return self.replica.subscribe(lambda _: grew())

    async def make_room(self) -> None:
        """Free space in etcd by truncating the journal early. Each call truncates further than the previous one.

        First truncates up to the existing snapshots, because a new snapshot needs space itself and cannot be written
        under the NOSPACE alarm.
        """
        await self._histories.prune_configs()
        await self.truncate_and_prune(space_is_short=True)
        try:
            await self.write_snapshot()
        except NoSpaceUnknown as error:
            log.info("could not write a snapshot, so the journal is truncated no further: %s", error)
            return
        await self.truncate_and_prune(space_is_short=True)

    async def truncate_and_prune(self, *, space_is_short: bool = False) -> None:
        """Truncate the journal as far as allowed, then delete the snapshots that are no longer needed.

        space_is_short: truncate entries even if their command ids must still be known; the snapshots hold the ids too.
        """
        async with self._snapshot_lock:
            manifests = await self._delete_fragments()
            checked = await self._two_verified(manifests)
            if len(checked) < 2:
                return
            await self._truncate(manifests[checked[1]].index, space_is_short)
            await self._delete_snapshots(manifests, set(checked))

    async def _two_verified(self, manifests: dict[str, Manifest]) -> list[str]:
        checked: list[str] = []
        for name, manifest in manifests.items():
            if len(checked) == 2:
                break
            if not manifest.has_ids:
                continue
            try:
                if name not in self._snapshots.verified:
                    await self._snapshots.verify(name, manifest)
            except Garbage as error:
                log.warning("ignoring a damaged snapshot: %s", error)
                continue
            checked.append(name)
        return checked

    async def _truncate(self, snapshot_index: int, space_is_short: bool) -> None:
        state, sizes = self.replica.state, self.replica.entry_sizes
        too_big = space_is_short or self.journal_bytes > self._settings.journal_bytes_max
        up_to = min(snapshot_index, self._publisher.complete_up_to)
        if self._settings.keep_ids and not too_big:
            up_to = min(up_to, state.floor)
        if up_to <= self._truncated_index:
            return
        await self._delete_entries(up_to)
        self._truncated_index = up_to
        self.replica.sizes_known_after = max(self.replica.sizes_known_after, up_to)
        while sizes and sizes[0][0] <= up_to:
            sizes.popleft()
        for index in [index for index in state.restores if index <= up_to]:
            del state.restores[index]
        log.info("truncated the journal up to index %d", up_to)

    async def _delete_entries(self, up_to: int) -> None:
        keys = self.replica.keys
        await self._delete(op_delete(keys.journal, end=keys.entry(up_to + 1).encode()))

    async def _delete(self, *ops: Op) -> None:
        """Delete in a fenced transaction. Idempotent: a late copy deletes the same keys, which are never reused."""
        replica = self.replica
        result = await replica.etcd.txn(self._fence.compares(replica.keys), ops, timeout_s=10.0, repeatable=True)
        if not result.succeeded:
            raise LeadershipLost(f"term {self._fence.term} is over")

    async def _delete_snapshots(self, manifests: dict[str, Manifest], keep: set[str]) -> None:
        keep |= {name for name, manifest in manifests.items() if manifest.name is not None}
        superfluous = [name for name in manifests if name not in keep]
        for name in [*superfluous, *await self._snapshots.unreadable(manifests)]:
            await self._delete_snapshot(name)

    async def _delete_snapshot(self, name: str) -> None:
        if await self._snapshots.delete(self._fence, name, self.is_needed):
            log.info("deleted snapshot %s", name)

    def is_needed(self, snapshot: str) -> bool:
        """Whether a retained entry restores this snapshot, or an entry being committed may."""
        return snapshot in self.pinned or snapshot in self.replica.state.restores.values()
