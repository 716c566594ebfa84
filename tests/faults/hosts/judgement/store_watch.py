"""What masters and nodes write, as etcd shows it: written down through watches that are no master's, without a hole.

masterd compacts etcd's history at its newest revision, and a watch that is just then away from its member has lost what
it had not seen yet. So there are two, by different members, and what either has is written down: by revision, in
order, once. What both have lost is written down as a hole, and no run with a hole is called right.
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
"""For the other watch to bring what this one has lost."""
_AGAIN_S = 0.2
_CAUGHT_UP_S = 30.0


class Union:
    """What several watches have shown, once and in the order of the store. Each must show all from where it began."""

    def __init__(
        self,
        put: Callable[[KV], None],
        hole: Callable[[int, int], None],
        deleted: Callable[[str, int], None] = lambda key, revision: None,
    ) -> None:
        """hole: the first and the last revision of which nothing is known. deleted: a key, and the revision."""
        self._put, self._hole, self._deleted = put, hole, deleted
        self.done = 0
        """Everything is written down up to this revision, or marked as a hole."""
        self.seen_to = 0
        """There was nothing else up to this one."""

    def take(self, changes: Changes) -> None:
        """Of one watch; a revision's changes come together."""
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
        """No watch can bring any more what there was up to that revision."""
        if up_to > self.done:
            self._hole(self.done + 1, up_to)
            self.done = up_to


class StoreWatch:
    """The watches at work. `check` now and then: one that has ended tells nobody."""

    def __init__(self, sessions: Sequence[Etcd], keys: Keys, record: Recorder, wait_s: float = _WAIT_S) -> None:
        """wait_s: how long a watch that has lost something waits for the other to bring it."""
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
        """AssertionError when a watch has ended."""
        for task in self._tasks:
            if task.done():
                why = "it was cancelled" if task.cancelled() else repr(task.exception())
                raise AssertionError(f"the harness's own {task.get_name()} has ended: {why}")

    async def caught_up(self, etcd: Etcd) -> None:
        """Until what is in the store now is written down. AssertionError when that does not come about."""
        newest = (await etcd.range(self._keys.head, limit=1)).revision

        def done() -> bool:
            self.check()
            return self.union.seen_to >= newest

        await eventually(done, f"the harness's own watch has come to revision {newest}", timeout_s=_CAUGHT_UP_S)

    async def close(self) -> None:
        """Raises nothing: what ended a watch is `check`'s to tell."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _note_hole(record: Recorder, first: int, last: int) -> None:
    record.seen("watch", "hole", first=first, last=last)


def holes(events: Iterable[Event]) -> list[str]:
    """What the watch has lost, as what is wrong with a run: nothing can be said of it."""
    return [
        f"the harness's own watch has lost revisions {event.fields['first']} to {event.fields['last']}, so this run "
        "proves nothing, and what is found besides may come of that"
        for event in seen(events, "hole")
    ]


@contextlib.asynccontextmanager
async def watching(keys: Keys, endpoints: Sequence[str], record: Recorder) -> AsyncIterator[StoreWatch]:
    """Two, each with a session of its own that begins at another member."""
    turned = [*endpoints[1:], *endpoints[:1]]
    async with Etcd(EtcdSettings(tuple(endpoints))) as one, Etcd(EtcdSettings(tuple(turned))) as other:
        watch = StoreWatch((one, other), keys, record)
        try:
            yield watch
        finally:
            await watch.close()
