"""Records everything that masters and nodes write to etcd, through watches of the harness, without a gap.

masterd compacts etcd's history at its newest revision, so a watch that is disconnected at that moment loses the
revisions it has not seen. Therefore there are two watches, through different members, and the union of both is
recorded: by revision, in order, once. What both have lost is recorded as a hole, and a run with a hole fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing

from nodestore.errors import Compacted
from nodestore.etcd.session import KV, Etcd, EtcdSettings
from nodestore.etcd.watch import Changes, follow
from nodestore.schema.keys import Keys, prefix_end
from tests.faults.checkers.history import Event, Recorder, seen
from tests.faults.checkers.watched import WatchRecorder
from tests.support.waiting import eventually

_WAIT_S = 15.0
"""How long a watch waits for the other one to deliver what it has lost."""
_AGAIN_S = 0.2
_CAUGHT_UP_S = 30.0


class Union:
    """The union of several watches: each change once, by revision. Each watch must be complete from its begin on."""

    def __init__(
        self,
        put: Callable[[KV], None],
        hole: Callable[[int, int], None],
        deleted: Callable[[str, int], None] = lambda key, revision: None,
    ) -> None:
        """hole: called with the first and last lost revision. deleted: called with a key and the revision."""
        self._put, self._hole, self._deleted = put, hole, deleted
        self.done = 0
        """Up to this revision everything is recorded, or marked as a hole."""
        self.seen_to = 0
        """Up to this revision there were no other changes."""

    def take(self, changes: Changes) -> None:
        """Add changes of one watch, which delivers all changes of a revision together."""
        for event in changes.events:
            if event.mod_revision <= self.done:
                continue
            if event.value is None:
                self._deleted(event.key, event.mod_revision)
            else:
                self._put(KV(event.key, event.value, event.create_revision, event.mod_revision, 1, event.lease))
        if changes.events:
            self.done = max(self.done, changes.events[-1].mod_revision)
        self.seen_to = max(self.seen_to, changes.revision)

    def lost(self, up_to: int) -> None:
        """Mark the revisions up to `up_to` as lost by all watches."""
        if up_to > self.done:
            self._hole(self.done + 1, up_to)
            self.done = up_to


class StoreWatch:
    """The running watches. Call `check` regularly: a watch that has ended does not report it."""

    def __init__(self, sessions: Sequence[Etcd], keys: Keys, record: Recorder, wait_s: float = _WAIT_S) -> None:
        """wait_s: how long a watch that has lost revisions waits for the other one to deliver them, in seconds."""
        self._keys, self._wait_s = keys, wait_s
        watched = WatchRecorder(record.seen, keys)
        self.union = Union(watched.put, lambda *ends: _note_hole(record, *ends), watched.deleted)
        self._tasks = [
            asyncio.create_task(self._watch(session), name=f"watch {number} of the store")
            for number, session in enumerate(sessions, start=1)
        ]

    async def _watch(self, session: Etcd) -> None:
        gone_since: float | None = None
        while True:
            begin = self.union.done + 1
            try:
                stream = follow(session, self._keys.prefix, end=prefix_end(self._keys.prefix), revision=begin)
                async with aclosing(stream):
                    async for changes in stream:
                        gone_since = None
                        self.union.take(changes)
            except Compacted as gone:
                gone_since = gone_since or time.monotonic()
                if self.union.done < gone.revision and time.monotonic() - gone_since >= self._wait_s:
                    self.union.lost(gone.revision)
            await asyncio.sleep(_AGAIN_S)

    def check(self) -> None:
        """Raise AssertionError if a watch has ended."""
        for task in self._tasks:
            if task.done():
                why = "it was cancelled" if task.cancelled() else repr(task.exception())
                raise AssertionError(f"the harness's own {task.get_name()} has ended: {why}")

    async def caught_up(self, etcd: Etcd) -> None:
        """Wait until the current content of the store is recorded. Raises AssertionError after 30 s."""
        newest = (await etcd.range(self._keys.head, limit=1)).revision

        def done() -> bool:
            self.check()
            return self.union.seen_to >= newest

        await eventually(done, f"the harness's own watch has come to revision {newest}", timeout_s=_CAUGHT_UP_S)

    async def close(self) -> None:
        """End the watches. Raises nothing: `check` reports the error of a watch."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _note_hole(record: Recorder, first: int, last: int) -> None:
    record.seen("watch", "hole", first=first, last=last)


def holes(events: Iterable[Event]) -> list[str]:
    """Return the holes as findings: a run with a hole proves nothing."""
    return [
        f"the harness's own watch has lost revisions {event.fields['first']} to {event.fields['last']}, so this run "
        "proves nothing, and what is found besides may come of that"
        for event in seen(events, "hole")
    ]


@contextlib.asynccontextmanager
async def watching(keys: Keys, endpoints: Sequence[str], record: Recorder) -> AsyncIterator[StoreWatch]:
    """Run two watches, each with its own session, which begin at different members."""
    turned = [*endpoints[1:], *endpoints[:1]]
    async with (
        Etcd(EtcdSettings(endpoints=tuple(endpoints))) as one,
        Etcd(EtcdSettings(endpoints=tuple(turned))) as other,
    ):
        watch = StoreWatch((one, other), keys, record)
        try:
            yield watch
        finally:
            await watch.close()
