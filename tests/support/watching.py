"""An observer of a prefix in etcd, for tests of sessions under faults."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

from nodestore.etcd.session import Etcd
from nodestore.etcd.watch import Changes, Event, Listing, mirror
from tests.support.waiting import eventually


class Observer:
    """Mirrors a prefix and records every item."""

    def __init__(self, etcd: Etcd, prefix: str) -> None:
        self._etcd, self._prefix = etcd, prefix
        self.listings: list[Listing] = []
        self.events: list[Event] = []
        self.progress = 0
        self.state: dict[str, bytes] = {}

    async def run(self) -> None:
        async with aclosing(mirror(self._etcd, self._prefix, progress_s=0.3, silence_s=1.0)) as stream:
            async for item in stream:
                self._note(item)

    def _note(self, item: Listing | Changes) -> None:
        if isinstance(item, Listing):
            self.listings.append(item)
            self.state = {kv.key: kv.value for kv in item.kvs}
            return
        self.progress += not item.events
        for event in item.events:
            self.events.append(event)
            if event.value is None:
                self.state.pop(event.key, None)
            else:
                self.state[event.key] = event.value


@asynccontextmanager
async def observer(etcd: Etcd, prefix: str) -> AsyncIterator[Observer]:
    """Run an observer, and yield it once it has received its listing."""
    watcher = Observer(etcd, prefix)
    task = asyncio.create_task(watcher.run())
    try:
        await eventually(lambda: bool(watcher.listings) or task.done(), "a listing")
        yield watcher
    finally:
        task.cancel()
        await asyncio.wait((task,))
    if not task.cancelled():
        task.result()
