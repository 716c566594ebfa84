"""Passes the commands of the journal, and the events of this masterd's audit log, to one sink.

At least once: the progress is written after the sink has taken the records. These are the places where this process can
die, or the PC:

1. read the records -> (dies) -> nothing happened.
2. the sink takes them -> (dies) -> they are sent again after the start, and have the same positions.
3. `sync`, then the progress is written, every five seconds -> (dies before) -> as in 2.

So a receiver drops a record whose position `<epoch>.<index>` it has. Events of the audit log have no position, and are
sent at most once: the files of the audit log hold them.

A sink that hangs holds up its own thread and nothing else. The export waits in the journal, not in memory. What the
journal loses by truncation meanwhile is missing, and the export says how much. A switchover or takeover means nothing:
each masterd exports for itself from its replica, leading or not.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable

from masterd.api.audit_export.journal_source import Exportable, ExportBatch, JournalSource
from masterd.api.audit_export.progress import ExportProgress, ProgressFile
from masterd.api.audit_export.records import CommandPosition, ExportRecord
from masterd.api.audit_export.sink_thread import Call, SinkThread
from masterd.api.audit_export.sinks import Sink
from nodestore.errors import NodectlError, TimedOut
from nodestore.support.backoff import Backoff
from nodestore.support.logs import RateLimitedLog

log = logging.getLogger(__name__)

EVENTS_MAX = 1_000
"""How many events of the audit log wait in memory for a sink. Further ones are lost for this sink, and counted."""
_GATHER_S = 0.1
"""Pause after each batch, so that the commands of a moment are one."""
_IDLE_S = 1.0
_SAVE_EVERY_S = 5.0
_STALLED_S = 10.0
"""After this long, a call of the sink that does not return is reported."""
_MISSING_SHOWN_S = 86_400.0
_CLOSE_S = 1.0
_RETRY_S, _RETRY_MAX_S = 1.0, 30.0


class Exporter:
    """Exports to one sink. name: the sink, as --audit-export names it."""

    def __init__(
        self,
        name: str,
        sink: Sink,
        source: JournalSource,
        progress: ProgressFile,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._name, self._sink, self._source, self._file, self._clock = name, sink, source, progress, clock
        self._thread = SinkThread(f"export to {name}")
        self._events: deque[ExportRecord] = deque(maxlen=EVENTS_MAX)
        self._lost_events = 0
        self._progress = ExportProgress(sink=name)
        self._saved = self._progress
        self._saved_at = 0.0
        self._epoch = 0
        self._scanned = 0
        """The index up to which the journal of this epoch was read."""
        self._repeat_after: CommandPosition | None = None
        """The commands after this one are sent again; None: only new ones are sent."""
        self._has_written = True
        """Whether the sink may have taken something since the last commands were sent again."""
        self._failure: str | None = None
        self._limited_log = RateLimitedLog(log, 60.0)

    def add_event(self, record: ExportRecord) -> None:
        """Export an event of the audit log soon."""
        self._lost_events += len(self._events) == EVENTS_MAX
        self._events.append(record)

    @property
    def problem(self) -> str | None:
        """Why the sink takes nothing, or what is missing in it since a day ago; None if neither."""
        if self._failure is not None:
            waiting = max(0, self._source.index - self._scanned)
            lost = f", {self._lost_events} events of the audit log are lost for it" if self._lost_events else ""
            return f"the export to {self._name} takes nothing: {self._failure}; {waiting} commands wait for it{lost}"
        if self._progress.missing and self._clock() - self._progress.missing_at < _MISSING_SHOWN_S:
            return f"the export to {self._name} lacks {self._progress.missing} commands, which were truncated before"
        return None

    async def run(self) -> None:
        """Export until cancelled."""
        self._progress = self._saved = await asyncio.to_thread(self._file.load)
        self._repeat_last()
        pauses = Backoff(_RETRY_S, _RETRY_MAX_S)
        while True:
            try:
                await self._step()
                self._failure = None
                pauses.reset()
                await asyncio.sleep(_GATHER_S)
            except (OSError, NodectlError) as error:
                self._fail(getattr(error, "strerror", None) or str(error) or type(error).__name__)
                await asyncio.sleep(pauses.next_s())
            except Exception as error:  # an error of this program must not end masterd
                log.exception("the export to %s failed", self._name)
                self._fail(f"internal error, see this master's log: {error!r}")
                await asyncio.sleep(pauses.next_s())

    async def _step(self) -> None:
        """Export one batch, or wait a second for something to export."""
        await self._save_if_due()
        epoch = self._source.epoch
        if epoch is None:
            await asyncio.sleep(_IDLE_S)
            return
        if epoch != self._epoch:  # the store was restored, or this is the start
            self._epoch = epoch
            self._scanned = self._start()
        await self._write_events()
        batch = await self._source.read(self._scanned, self._progress.position, self._repeat_after)
        if batch.items:
            records = [item.record for item in batch.items]
            await self._call(lambda: self._sink.write(records))
        self._advance(batch)
        if not batch.items and batch.scanned >= self._source.index:
            with contextlib.suppress(TimedOut):
                await self._source.wait(self._scanned + 1, _IDLE_S)

    async def _write_events(self) -> None:
        events = list(self._events)
        if events:
            lost = self._lost_events
            await self._call(lambda: self._sink.write(events))
            for _ in range(len(events) - (self._lost_events - lost)):  # further ones may have replaced the oldest
                self._events.popleft()

    def _advance(self, batch: ExportBatch) -> None:
        """Note that the sink has taken this batch."""
        self._scanned = batch.scanned
        if not batch.items:
            return
        last = batch.items[-1].position
        if self._repeat_after is not None and last > self._repeat_after:
            self._repeat_after = last
        if self._progress.position is None or last > self._progress.position:
            self._progress = self._progress.at(last)
            self._repeat_after = None
        self._has_written = True
        if missing := sum(item.missing for item in batch.items):
            self._note_missing(missing, batch.items[0])

    def _note_missing(self, missing: int, first: Exportable) -> None:
        total = self._progress.missing + missing
        self._progress = self._progress.model_copy(update={"missing": total, "missing_at": self._clock()})
        log.error("%d commands after %s were truncated before their export to %s", missing, first.position, self._name)

    def _start(self) -> int:
        """The index after which the journal of the present epoch is read."""
        at = self._repeat_after or self._progress.position
        return 0 if at is None or at.epoch != self._epoch else at.index

    def _repeat_last(self) -> None:
        """Send the last commands again, if this kind of sink may have lost them: once, until it takes something."""
        at = self._progress.position
        if self._sink.repeats and at is not None and self._has_written:
            self._repeat_after = CommandPosition(at.epoch, max(0, at.index - self._sink.repeats))
            self._has_written = False

    def _fail(self, reason: str) -> None:
        self._failure = reason
        self._limited_log.log(logging.WARNING, f"the export to {self._name} takes nothing: {reason}", about=reason)
        self._repeat_last()
        self._scanned = self._start()

    async def _save_if_due(self) -> None:
        """Make durable what the sink has taken, then note in the file that it has."""
        now = time.monotonic()
        if self._progress == self._saved or now - self._saved_at < _SAVE_EVERY_S:
            return
        progress = self._progress

        def save() -> None:
            self._sink.sync()
            self._file.save(progress)

        await self._call(save)
        self._saved, self._saved_at = progress, now

    async def _call(self, call: Call) -> None:
        """Run a call in the sink's thread to its end, and report it if it takes long. Raises its OSError."""
        ended = self._thread.start(call)
        begun = time.monotonic()
        while not (await asyncio.wait({ended}, timeout=_STALLED_S))[0]:
            self._failure = f"it has not answered for {time.monotonic() - begun:.0f} s"
            self._limited_log.log(logging.WARNING, f"the export to {self._name} hangs", about="hangs")
        ended.result()

    async def close(self) -> None:
        """Note how far the export is, for at most a second. Call it after `run` was cancelled."""
        if not self._thread.is_busy:
            self._saved_at = -_SAVE_EVERY_S
            try:
                async with asyncio.timeout(_CLOSE_S):
                    await self._save_if_due()
            except (OSError, TimeoutError) as error:
                log.debug("the progress of the export to %s was not written: %s", self._name, error)
        self._thread.end()
