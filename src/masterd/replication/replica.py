"""The replica: the state in memory. It follows the journal in etcd, so that a takeover need not load the state."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import aclosing

from masterd.replication.recent_entries import RecentEntries
from masterd.replication.snapshots import Snapshots
from masterd.state_machine.state import JournalGap, State
from nodestore.cluster.election import TakeoverWon
from nodestore.cluster.store_identity import StoreIdentity
from nodestore.errors import Compacted, Garbage, NodectlError, NotFound, OutcomeUnknown, TimedOut, Unavailable
from nodestore.etcd.session import KV, Etcd, Range
from nodestore.etcd.watch import follow, list_at
from nodestore.schema.entry_codec import decode_entry
from nodestore.schema.keys import Keys, prefix_end
from nodestore.schema.models import Applied, Epoch, Head, decode, decode_or_none
from nodestore.schema.records import JournalEntry
from nodestore.support.backoff import Backoff
from nodestore.support.jsonio import Document
from nodestore.support.logs import RateLimitedLog
from nodestore.support.time_slices import TimeSlice

log = logging.getLogger(__name__)

_PAGE_ENTRIES = 32
_RETRY_S = 0.2
_PROBLEM_RETRY_S, _PROBLEM_RETRY_MAX_S = 1.0, 10.0
_SIZES_MAX = 100_000
NOT_READ = "the journal has not been read yet"
"""The problem of a replica that has just been created."""
PROGRESS_S = 1.0
SILENCE_S = 3.0


class ElapsedTime:
    """The last committed time plus what has elapsed since then by the monotonic clock."""

    def __init__(self) -> None:
        self._time = 0.0
        self._at: float | None = None

    def observe(self, time: float, at: float, *, live: bool) -> None:
        """Note that a commit with this time was seen at the monotonic time `at`. See `Replica.apply` for `live`."""
        known = self.now(at)
        if live or (known is not None and time < self._time):  # the latter after a `time.reset`
            self._time, self._at = time, at
        elif known is not None:
            self._time, self._at = max(time, known), at

    def now(self, at: float) -> float | None:
        """The time at the monotonic time `at`; None while it is unknown when the last commit was made."""
        return None if self._at is None else self._time + at - self._at


class UnusableEntry(Garbage):
    """A committed journal entry cannot be decoded or applied."""


class Replica:
    """Holds the state. On a standby it follows the journal; on the leader, the committer applies its own commits."""

    def __init__(self, etcd: Etcd, keys: Keys, store: StoreIdentity | None = None, nonce: str = "") -> None:
        """store: nothing is read while etcd is another store than this one. nonce: that of this process."""
        self.etcd, self.keys = etcd, keys
        self._store, self._nonce = store, nonce
        self.snapshots = Snapshots(etcd, keys)
        self.state = State()
        self._epoch: int | None = None
        self.up_to_date_at = 0.0
        """Time, by the monotonic clock, up to which the state is known to be complete."""
        self._announced = (0, 0)
        """Revision of a term, and the highest index that its leader has announced in a heartbeat."""
        self.problem: str | None = NOT_READ
        """Why the state cannot be brought up to date; None if it can."""
        self.stuck: str | None = None
        """Why the state cannot go beyond an entry of the journal; None if no entry is in the way. While it is set, this
        masterd cannot lead."""
        self._is_head_readable = True
        self._unusable: dict[int, str] = {}
        """Journal keys after the state's index that cannot be applied, by the index in their name: the reasons."""
        self.outage: str | None = None
        """Why etcd cannot be read now; None if it can."""
        self.elapsed_time = ElapsedTime()
        """The last committed time, and what has elapsed since its commit."""
        self.entry_sizes: deque[tuple[int, int]] = deque(maxlen=_SIZES_MAX)
        """Last index and size in bytes of each applied entry, oldest first. Truncation is decided from them."""
        self.sizes_known_after = 0
        """`entry_sizes` holds every entry after this index. It lacks earlier ones, which a snapshot contained."""
        self._recent = RecentEntries()
        self._limited_log = RateLimitedLog(log, math.inf, repeats=logging.DEBUG)
        self.bytes_applied = 0
        """Bytes of all entries that this process has applied. Their growth makes a snapshot due."""
        self._grew = asyncio.Condition()
        self._listeners: list[Callable[[JournalEntry], None]] = []

    @property
    def index(self) -> int:
        return self.state.index

    @property
    def epoch(self) -> int | None:
        """The epoch of the store that the state comes from; None while it is unknown.

        The same index may identify another command in another epoch.
        """
        return self._epoch

    @property
    def age_s(self) -> float:
        """Seconds since the state was last known to be complete. Of no meaning before `has_read`."""
        return time.monotonic() - self.up_to_date_at

    @property
    def has_read(self) -> bool:
        """Whether the state was complete at some time since this program started."""
        return self.up_to_date_at > 0

    def raise_if_unread(self) -> None:
        """Raise Unavailable if the journal has never been read to its end: the state is empty, or of long ago."""
        if not self.has_read:
            reading = f"it is reading it, and is at index {self.index}" if self.index else self.problem or self.outage
            raise Unavailable(f"this masterd has not read the journal yet: {self.outage or reading}")

    def subscribe(self, callback: Callable[[JournalEntry], None]) -> Callable[[], None]:
        """Call `callback` with each applied entry; return a function that unsubscribes it."""
        self._listeners.append(callback)
        return lambda: self._listeners.remove(callback)

    def note_leader_index(self, term: int, index: int) -> None:
        """Record that the leader of this term has announced `index` in a heartbeat.

        The member that serves our watch may lag, and answers at regular intervals all the same. Its answers do not
        show that our state is complete while the leader has announced a later index.
        """
        if term >= self._announced[0]:
            self._announced = term, index

    def _note_complete(self, at: float) -> None:
        """Record that the state is complete as of `at`, unless the leader has announced a later index."""
        if self.state.index >= self._announced[1]:
            self.up_to_date_at = max(self.up_to_date_at, at)

    async def wait_for(self, index: int, timeout_s: float) -> None:
        """Wait until the state has reached `index`. TimedOut after `timeout_s` seconds."""
        if self.state.index >= index:
            return
        try:
            async with asyncio.timeout(timeout_s), self._grew:
                await self._grew.wait_for(lambda: self.state.index >= index)
        except TimeoutError:
            raise TimedOut(
                f"this masterd is at index {self.state.index}; index {index} was not reached within {timeout_s:g} s"
            ) from None

    async def follow(self) -> None:
        """Apply the journal as it grows, until cancelled.

        Outages, compactions, truncations, garbage, refusals of etcd and errors of this program are retried.
        """
        pauses = Backoff(_PROBLEM_RETRY_S, _PROBLEM_RETRY_MAX_S)
        while True:
            try:
                if self._store is not None:
                    self._store.raise_if_other()
                revision = await self.catch_up()
                pauses.reset()
                await self._follow_from(revision + 1)
            except (Unavailable, OutcomeUnknown, Compacted) as error:
                self.outage = str(error)
                log.info("reading the journal again: %s", error)
            except NodectlError as error:
                self._report_problem(error)
                await asyncio.sleep(pauses.next_s())
            except Exception as error:  # an error of this program: a replica that silently stops would be worse
                log.exception("the replica failed at index %d", self.state.index)
                self._report_problem(NodectlError(f"internal error, see this master's log: {error!r}"))
                await asyncio.sleep(pauses.next_s())
            await asyncio.sleep(_RETRY_S)

    def _report_problem(self, error: NodectlError) -> None:
        self.problem = str(error)
        line = f"the replica cannot go beyond index {self.state.index}: {error}"
        self._limited_log.log(logging.ERROR, line, about=self.problem)

    async def check_store(self) -> None:
        """Raise Garbage if `epoch`, the journal or `head` prevents this masterd from leading. Changes nothing."""
        if self.stuck is not None:  # `follow` clears it once the entry can be applied, or a snapshot covers it
            raise Garbage(self.stuck)
        listing = await self._list_new_entries()
        await self._wait_for_heir(await self._read_epoch(listing.revision), listing.revision)
        end = max([self.state.index, *self._indexes(listing.kvs)])
        await self._check_head(listing.revision, end)
        self._check_applied(await self.etcd.get(self.keys.applied, revision=listing.revision), end)

    async def catch_up(self) -> int:
        """Apply the rest of the journal; return the revision up to which the state is complete.

        Garbage if the journal has a gap that no snapshot covers.
        """
        for attempt in (1, 2, 3):
            try:
                return await self._apply_all()
            except Garbage as gap:
                self.stuck = str(gap) if isinstance(gap, UnusableEntry) else None
                if attempt == 3:
                    raise
                log.debug("%s; reading a snapshot", gap)
                # One without command ids is only the last resort: with it, repeats are refused, not answered.
                image = await self.snapshots.read_newest(self.state.index + 1, with_ids=attempt == 1)
                image = image or await self.snapshots.read_newest(self.state.index + 1)
                if image is None:
                    raise
                self._begin_from(image.to_state())
                log.info("loaded the snapshot of index %d", image.index)
        raise AssertionError("unreachable")

    def _begin_from(self, state: State) -> None:
        """Replace the state by one that was not made by applying entries."""
        self.state = state
        self.entry_sizes.clear()
        self.sizes_known_after = state.index

    async def apply_takeover(self, won: TakeoverWon) -> None:
        """Apply the entries that a takeover read, up to the head that it read. Garbage if that is not possible.

        The state may be beyond `head`, or `head` absent or unreadable, if another program touched it. The leader then
        writes it again. Every commit writes its entry and `head` in one transaction, so every applied entry is
        committed.
        """
        if self._epoch != won.fence.term.epoch:
            record = await self._read_epoch(0)
            await self._wait_for_heir(record, 0)
            self._enter_epoch(record)
        head = decode_or_none(Head, won.head)
        try:
            await self._apply_new(won.tail.kvs)
        except Garbage as error:
            log.info("%s", error)  # catch_up() below reads the journal again, or raises the exact error
        if head is None or self.state.index != head.index:
            await self.catch_up()
        self._check_applied(won.applied, self.state.index)
        self.up_to_date_at = time.monotonic()
        self.problem = None

    async def _wait_for_heir(self, record: Epoch | None, revision: int) -> None:
        """Raise Garbage if the epoch begins with the state of another masterd, which has not led in it yet.

        Until then this replica keeps its own state: if the heir ends first, another heir can be chosen.
        """
        if record is None or record.heir in ("", self._nonce) or record.epoch == self._epoch:
            return
        if decode_or_none(Head, await self.etcd.get(self.keys.head, revision=revision)) is None:
            raise Garbage(
                f"epoch {record.epoch} begins with the state in the memory of the masterd with nonce {record.heir}: it "
                "leads first. If it has ended, run `nodectl recover` again"
            )

    def _check_applied(self, kv: KV | None, end: int) -> None:
        """Raise Garbage if the views are beyond index `end`: then `head` was touched, and the journal's end is lost."""
        applied = decode_or_none(Applied, kv)
        if applied is not None and applied.epoch == self._epoch and applied.index > end:
            raise Garbage(self._describe_gap(applied.index))

    def _describe_gap(self, index: int) -> str:
        return (
            f"the journal has a gap: it ends at {self.state.index}, but index {index} was committed. A masterd that "
            f"holds index {index} in memory can still lead: restart no masterd. Without one, restore a backup"
        )

    async def apply(self, entry: JournalEntry, raw: bytes, *, live: bool = True) -> None:
        """Apply a committed entry, call the subscribers, and wake those that wait for its index.

        raw: the entry as it is in the journal.
        live: whether it was committed just now; False if it was read at an unknown time after that.
        """
        self.state.apply(entry, await self._images(entry))
        self.elapsed_time.observe(self.state.time, time.monotonic(), live=live)
        if self._unusable:
            self._unusable = {index: why for index, why in self._unusable.items() if index > entry.last}
        if self._epoch is None:  # the store was still empty when it was read
            self._epoch = entry.epoch
        if len(self.entry_sizes) == _SIZES_MAX:
            self.sizes_known_after = self.entry_sizes[0][0]
        self.entry_sizes.append((entry.last, len(raw)))
        self.bytes_applied += len(raw)
        self._recent.add(entry, raw)
        for callback in tuple(self._listeners):
            callback(entry)
        async with self._grew:
            self._grew.notify_all()

    def recent_after(self, index: int, entries_max: int = 1_000) -> list[JournalEntry] | None:
        """The oldest entries after `index`, from memory; None if memory lacks one up to the state's index.

        Memory lacks old entries, which were dropped, and entries that were skipped because a snapshot was loaded.
        """
        return self._recent.between(index, self.index, entries_max)

    async def _apply_all(self) -> int:
        begun = time.monotonic()  # applying may take long: the state is complete as of the listing, not as of the end
        listing = await self._list_new_entries()
        epoch = await self._read_epoch(listing.revision)
        await self._wait_for_heir(epoch, listing.revision)
        if self._enter_epoch(epoch):
            return await self._apply_all()
        self._unusable.clear()
        await self._apply_new(listing.kvs)
        await self._check_head(listing.revision, self.state.index)
        self.up_to_date_at = max(self.up_to_date_at, begun)
        self.problem, self.outage, self.stuck = None, None, None
        self._limited_log.reset()
        return listing.revision

    async def _list_new_entries(self) -> Range:
        start, end = self.keys.entry(self.state.index + 1), prefix_end(self.keys.journal)
        return await list_at(self.etcd, start, end=end, page=_PAGE_ENTRIES)

    async def _read_epoch(self, revision: int) -> Epoch | None:
        kv = await self.etcd.get(self.keys.epoch, revision=revision)
        try:
            return None if kv is None else decode(Epoch, kv.value, self.keys.epoch)
        except Garbage as error:
            known = "" if self._epoch is None else f': set it to {{"v":1,"epoch":{self._epoch}}}'
            raise Garbage(f"{error}; nothing can be committed until the key is repaired{known}") from None

    async def _check_head(self, revision: int, end: int) -> None:
        """Raise Garbage if `head` is beyond `end`, the last index of the journal.

        If `head` is absent, unreadable or lower, another program touched it, and the leader writes it again.
        """
        head = decode_or_none(Head, await self.etcd.get(self.keys.head, revision=revision))
        self._is_head_readable = head is not None
        # Without `head`, an unusable entry or a snapshot may show how far the journal went.
        shown = [] if head is not None else [*self._unusable, *await self.snapshots.indexes(revision)]
        committed = head.index if head is not None else max([0, *shown])
        if end < committed:
            self._raise_if_unusable(committed)
            raise Garbage(self._describe_gap(committed))

    def _indexes(self, kvs: Iterable[KV]) -> Iterator[int]:
        """The last indexes of the readable entries among these."""
        for kv in kvs:
            with contextlib.suppress(ValueError, Garbage):
                yield min(self.keys.entry_index(kv.key), decode_entry(kv.value, kv.key).last)

    def _enter_epoch(self, record: Epoch | None) -> bool:
        """Set the epoch. Discards the state if it belongs to a lower epoch; returns whether it was discarded.

        If a backup is restored while this masterd runs, the epoch grows. The heir of the epoch keeps its state.
        Garbage if the key is absent (None) or lower than the known one: no operation of nodectl does that, so the state
        is kept.
        """
        epoch = None if record is None else record.epoch
        if self._epoch is not None and (epoch is None or epoch < self._epoch):
            found = "is missing" if epoch is None else f"is {epoch}"
            raise Garbage(
                f"{self.keys.epoch} {found}, but this masterd holds the state of index {self.index} in epoch "
                f"{self._epoch}. It keeps that state: restart no masterd, and run `nodectl recover`"
            )
        if record is None or epoch is None:
            return False
        if record.heir and record.heir == self._nonce:
            if self._epoch != epoch:
                log.warning("epoch %d begins with the state of index %d, which is in memory", epoch, self.index)
            self._epoch = epoch
            return False
        stale = self._epoch not in (None, epoch) and self.state.index > 0
        if stale:
            log.warning(
                "the store is in epoch %d: discarding the state of index %d, epoch %s", epoch, self.index, self._epoch
            )
            self._begin_from(State())
            self._recent.clear()
            self.snapshots.verified.clear()
            self._announced = 0, 0
        self._epoch = epoch
        return stale

    async def _follow_from(self, revision: int) -> None:
        stream = follow(
            self.etcd,
            self.keys.journal,
            end=prefix_end(self.keys.journal),
            revision=revision,
            progress_s=PROGRESS_S,
            silence_s=SILENCE_S,
        )
        async with aclosing(stream):
            async for changes in stream:
                received = time.monotonic()
                await self._apply_new(
                    (
                        KV(event.key, event.value, event.create_revision, event.mod_revision, 1, event.lease)
                        for event in changes.events
                        if event.value is not None
                    ),
                    live=True,
                )
                if any(event.value is None for event in changes.events):
                    self._unusable = {}  # the deleted key may be one of these; if not, the next entry shows a gap
                if self._unusable:
                    await self._check_unusable()
                self._note_complete(received)

    async def _check_unusable(self) -> None:
        """Raise Garbage if a journal key that cannot be applied has been committed: only `head` shows that."""
        head = decode_or_none(Head, await self.etcd.get(self.keys.head))
        self._is_head_readable = head is not None
        if head is not None:
            self._raise_if_unusable(head.index)

    def _raise_if_unusable(self, head: int) -> None:
        """Raise Garbage if the state cannot reach `head` because of a journal key that cannot be applied."""
        if self.state.index < head and self._unusable:
            raise UnusableEntry(self._unusable[min(self._unusable)])

    @property
    def stray_entry(self) -> str | None:
        """Why a journal key after the state's index cannot be applied, although it is not committed; None without one.

        It prevents nothing: the next commit either replaces the key or goes past it. Without `head`, it is not known
        whether the key is a commit.
        """
        if self.stuck is not None or not self._unusable or not self._is_head_readable:
            return None
        index = min(self._unusable)
        return f"{self.keys.entry(index)} is no commit, because head is below it; delete this key"

    async def _apply_new(self, kvs: Iterable[KV], *, live: bool = False) -> None:
        """Apply the entries that are new among these. A key that cannot be applied is noted in `_unusable`.

        Such a key is not skipped: an entry after it is applied only if it directly follows the state, which shows that
        the unusable key is not a part of the journal. Otherwise this raises Garbage with the reason.
        """
        time_slice = TimeSlice()  # an hour's journal takes seconds to apply
        for kv in kvs:
            await time_slice.yield_if_used_up()
            try:
                last = self.keys.entry_index(kv.key)
            except ValueError as error:
                log.warning("skipping a journal key: %s", error)
                continue
            if last <= self.state.index:
                continue
            try:
                await self.apply(decode_entry(kv.value, kv.key), kv.value, live=live)
            except JournalGap:
                self._raise_if_unusable(last)
                raise
            except Garbage as error:
                self._note_unusable(last, kv.key, error)

    def _note_unusable(self, index: int, key: str, error: Garbage) -> None:
        why = str(error).removeprefix(f"{key}: ")
        self._unusable[index] = (
            f"{key} cannot be applied: {why}; if a newer masterd wrote it, start that version here; otherwise see "
            '"An entry that cannot be applied" in docs/recovery.md'
        )
        log.warning("%s", self._unusable[index])

    async def _images(self, entry: JournalEntry) -> dict[str, dict[str, Document]]:
        names = {record.restore for record in entry.commands if record.restore is not None}
        try:
            return {name: await self.snapshots.read_documents(name) for name in names}
        except NotFound as error:
            raise Garbage(f"it restores a snapshot that is gone: {error}") from None
