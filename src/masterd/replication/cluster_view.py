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

from nodestore.cluster.election import LeaderSeen, leader_seen
from nodestore.errors import Garbage, NodectlError
from nodestore.etcd.session import KV, Etcd
from nodestore.etcd.watch import Event, Interval, Listing, interval, mirror_all
from nodestore.schema.keys import Keys
from nodestore.schema.models import (
    Acted,
    Alive,
    Answer,
    Candidate,
    Challenge,
    ConfigRecord,
    Epoch,
    Paused,
    Status,
    decode,
)
from nodestore.support.logs import RateLimitedLog

log = logging.getLogger(__name__)

M = TypeVar("M", bound=BaseModel)

PROGRESS_S = 1.0
SILENCE_S = 3.0
_AGAIN_S = 1.0


class Mirrored(Generic[M]):
    """The keys under one prefix, decoded, by the rest of their name."""

    def __init__(self, prefix: str, model: type[M], problems: dict[str, str], changed: Callable[[], None]) -> None:
        self._prefix, self._model, self._problems, self._say_so = prefix, model, problems, changed
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
        self._say_so()

    def changed(self, event: Event) -> None:
        key, value = event.key, event.value
        self._problems.pop(key, None)
        if value is None:
            self.items.pop(key.removeprefix(self._prefix), None)
        else:
            self._put(key, value)
        self._tell([key.removeprefix(self._prefix)])
        self._say_so()

    def _put(self, key: str, value: bytes) -> None:
        name = key.removeprefix(self._prefix)
        try:
            self.items[name] = decode(self._model, value, key)
        except Garbage as error:
            self.items.pop(name, None)
            self._problems[key] = str(error)
            log.warning("passing over a key: %s", error)


_Watched = tuple[Interval, Callable[[tuple[KV, ...]], None], Callable[[Event], None]]


def _only(kvs: tuple[KV, ...]) -> KV | None:
    return kvs[0] if kvs else None


def _kv(event: Event) -> KV | None:
    """What the key holds now."""
    if event.value is None:
        return None
    return KV(event.key, event.value, event.create_revision, event.mod_revision, 1, event.lease)


class Board:
    """All of it. `subscribe` a callback to hear that something changed; it then looks for itself."""

    def __init__(self, etcd: Etcd, keys: Keys) -> None:
        self._etcd, self._keys = etcd, keys
        self.problems: dict[str, str] = {}
        self.blind: str | None = None
        """Why etcd lets nothing be watched, and all of this is as it was before; an outage is told elsewhere."""
        self._limited_log = RateLimitedLog(log, 60.0)
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
        """Keep all of it up to date, until cancelled. Raises what etcd refuses before all of it was seen once; later on
        that is told, and tried again."""
        seen = asyncio.Event()
        while True:
            try:
                await self._watch(seen)
            except NodectlError as error:
                if not seen.is_set():
                    raise
                self.blind = f"cannot watch what is in etcd: {error}"
                self._limited_log.log(logging.ERROR, self.blind)
            await asyncio.sleep(_AGAIN_S)

    async def _watch(self, seen: asyncio.Event) -> None:
        """By one stream: each has to be asked for signs of life. `seen` is set once all was listed."""
        watched = self._watched()
        stream = mirror_all(self._etcd, [keys for keys, _, _ in watched], progress_s=PROGRESS_S, silence_s=SILENCE_S)
        async with aclosing(stream):
            async for position, item in stream:
                _, listed, changed = watched[position]
                if isinstance(item, Listing):
                    listed(item.kvs)
                    if position + 1 == len(watched):
                        seen.set()
                        self.blind = None
                    continue
                for event in item.events:
                    changed(event)

    def _watched(self) -> list[_Watched]:
        """What is watched, who leads first: with what to do at a listing, and at an event."""
        keys = self._keys
        items: list[tuple[Interval, Mirrored[Any]]] = [
            (interval(keys.paused, prefix=False), self._paused), (interval(keys.epoch, prefix=False), self._epoch),
            (interval(keys.candidates), self.candidates), (interval(keys.status), self.status),
            (interval(keys.alive), self.alive), (interval(keys.acted), self.acted),
            (interval(keys.challenges), self.challenges), (interval(keys.answers), self.answers),
        ]  # fmt: skip
        return [
            (interval(keys.leader, prefix=False), lambda kvs: self._set_leader(_only(kvs)), self._leader_changed),
            (
                interval(keys.config_current, prefix=False),
                lambda kvs: self._set_config(_only(kvs)),
                lambda event: self._set_config(_kv(event)),
            ),
            *((within, mirrored.replace, mirrored.changed) for within, mirrored in items),
        ]

    def _leader_changed(self, event: Event) -> None:
        if event.mod_revision >= self._leader_seen_at:  # else the watch lags behind what somebody has read: it would
            self._set_leader(_kv(event))  # seem to be over

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
