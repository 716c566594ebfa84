"""What this masterd sees in etcd beside the journal: who leads, who could, what is configured, how the nodes are.

Kept by watches, each key decoded once. Garbage in a key is reported under `problems` and otherwise passed over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import aclosing
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from nodestore.election import LeaderSeen, leader_seen
from nodestore.errors import Garbage
from nodestore.etcd import KV, Etcd
from nodestore.keys import Keys
from nodestore.models import Acted, Alive, Answer, Candidate, Challenge, ConfigRecord, Epoch, Paused, Status, decode
from nodestore.watch import Listing, mirror

log = logging.getLogger(__name__)

M = TypeVar("M", bound=BaseModel)


class Mirrored(Generic[M]):
    """The keys under one prefix, decoded, by the rest of their name."""

    def __init__(self, prefix: str, model: type[M], problems: dict[str, str], changed: Callable[[], None]) -> None:
        self._prefix, self._model, self._problems, self._changed = prefix, model, problems, changed
        self.items: dict[str, M] = {}
        self._listeners: list[Callable[[str], None]] = []

    def listen(self, callback: Callable[[str], None]) -> Callable[[], None]:
        """Call back with the name of each item that may have changed; returns how to stop that."""
        self._listeners.append(callback)
        return lambda: self._listeners.remove(callback)

    def _tell(self, names: Iterable[str]) -> None:
        for callback in self._listeners:
            for name in names:
                callback(name)

    def replace(self, kvs: tuple[KV, ...]) -> None:
        before = set(self.items)
        self.items.clear()
        for key in [key for key in self._problems if key.startswith(self._prefix)]:
            del self._problems[key]
        for kv in kvs:
            self._put(kv.key, kv.value)
        self._tell(sorted(before | set(self.items)))
        self._changed()

    def change(self, key: str, value: bytes | None) -> None:
        self._problems.pop(key, None)
        if value is None:
            self.items.pop(key.removeprefix(self._prefix), None)
        else:
            self._put(key, value)
        self._tell([key.removeprefix(self._prefix)])
        self._changed()

    def _put(self, key: str, value: bytes) -> None:
        name = key.removeprefix(self._prefix)
        try:
            self.items[name] = decode(self._model, value, key)
        except Garbage as error:
            self.items.pop(name, None)
            self._problems[key] = str(error)
            log.warning("passing over a key: %s", error)


class Board:
    """All of it. `subscribe` a callback to hear that something changed; it then looks for itself."""

    def __init__(self, etcd: Etcd, keys: Keys) -> None:
        self._etcd, self._keys = etcd, keys
        self.problems: dict[str, str] = {}
        self.leader = LeaderSeen()
        self.last_leader = LeaderSeen()
        """The last readable one: whom a vacant `leader` is taken over from."""
        self.leader_known = asyncio.Event()
        self._leader_seen_at = 0
        self.config: KV | None = None
        self._subscribers: list[Callable[[], None]] = []
        self.version = 0
        self.candidates = Mirrored(keys.candidates, Candidate, self.problems, self._changed)
        self.status = Mirrored(keys.status, Status, self.problems, self._changed)
        self.alive = Mirrored(keys.alive, Alive, self.problems, self._changed)
        self.acted = Mirrored(keys.acted, Acted, self.problems, self._changed)
        self.challenges = Mirrored(keys.challenges, Challenge, self.problems, self._changed)
        self.answers = Mirrored(keys.answers, Answer, self.problems, self._changed)
        self._paused = Mirrored(keys.paused, Paused, self.problems, self._changed)
        self._epoch = Mirrored(keys.epoch, Epoch, self.problems, self._changed)

    @property
    def paused(self) -> Paused | None:
        return self._paused.items.get("")

    @property
    def epoch(self) -> int | None:
        """The store's incarnation; None while it is unknown or unreadable."""
        found = self._epoch.items.get("")
        return None if found is None else found.epoch

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back at every change; returns how to stop that."""
        self._subscribers.append(callback)
        return lambda: self._subscribers.remove(callback)

    def tell(self) -> None:
        """Something changed that those who subscribed look at too: this masterd's own role."""
        self._changed()

    def _changed(self) -> None:
        self.version += 1
        for callback in tuple(self._subscribers):
            callback()

    async def watch(self) -> None:
        """Keep all of it up to date, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch_leader(), name="watch leader")
            tasks.create_task(self._watch_config(), name="watch config")
            tasks.create_task(self._watch_items(self._keys.paused, self._paused, False), name="watch paused")
            tasks.create_task(self._watch_items(self._keys.epoch, self._epoch, False), name="watch epoch")
            for prefix, items in (
                (self._keys.candidates, self.candidates),
                (self._keys.status, self.status),
                (self._keys.alive, self.alive),
                (self._keys.acted, self.acted),
                (self._keys.challenges, self.challenges),
                (self._keys.answers, self.answers),
            ):
                tasks.create_task(self._watch_items(prefix, items, True), name=f"watch {prefix}")

    async def _watch_items(self, prefix: str, items: Mirrored[Any], is_prefix: bool) -> None:
        async with aclosing(mirror(self._etcd, prefix, prefix=is_prefix)) as stream:
            async for item in stream:
                if isinstance(item, Listing):
                    items.replace(item.kvs)
                    continue
                for event in item.events:
                    items.change(event.key, event.value)

    async def _watch_leader(self) -> None:
        await self._watch_one(self._keys.leader, self._set_leader, progress_s=1.0, silence_s=3.0)

    async def _watch_config(self) -> None:
        await self._watch_one(self._keys.config_current, self._set_config, progress_s=2.0, silence_s=5.0)

    async def _watch_one(self, key: str, put: Callable[[KV | None], None], progress_s: float, silence_s: float) -> None:
        stream = mirror(self._etcd, key, prefix=False, progress_s=progress_s, silence_s=silence_s)
        async with aclosing(stream):
            async for item in stream:
                if isinstance(item, Listing):
                    put(item.kvs[0] if item.kvs else None)
                    continue
                for event in item.events:
                    if event.key == self._keys.leader and event.mod_revision < self._leader_seen_at:
                        continue  # the watch lags behind what somebody has read: it would seem to be over
                    put(None if event.value is None else KV(
                        event.key, event.value, event.create_revision, event.mod_revision, 1, event.lease
                    ))  # fmt: skip

    def saw_leader(self, kv: KV | None) -> None:
        """Somebody read the key: what is newer than the watch has shown counts."""
        if kv is not None and kv.mod_revision > self.leader.revision:
            self._leader_seen_at = kv.mod_revision
            self._set_leader(kv)

    def _set_leader(self, kv: KV | None) -> None:
        self.leader = leader_seen(kv)
        if self.leader.record is not None:
            self.last_leader = self.leader
        self.problems.pop(self._keys.leader, None)
        if self.leader.garbage is not None:
            self.problems[self._keys.leader] = self.leader.garbage
        self.leader_known.set()
        self._changed()

    def _set_config(self, kv: KV | None) -> None:
        self.config = kv
        self.problems.pop(self._keys.config_current, None)
        if kv is not None:
            try:
                decode(ConfigRecord, kv.value, kv.key)
            except Garbage as error:
                self.problems[kv.key] = str(error)
        self._changed()
