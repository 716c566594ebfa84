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

from nodestore.cluster.election import LeaderSeen, parse_leader
from nodestore.errors import Garbage, NodectlError
from nodestore.etcd.session import KV, Etcd
from nodestore.etcd.watch import Event, KeyRange, Listing, key_range, mirror_all
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
_RETRY_S = 1.0


class KeyMirror(Generic[M]):
    """The keys under one prefix, decoded, by the rest of their name."""

    def __init__(self, prefix: str, model: type[M], garbage: dict[str, str], on_change: Callable[[], None]) -> None:
        self._prefix, self._model, self._garbage, self._on_change = prefix, model, garbage, on_change
        self.items: dict[str, M] = {}
        self._listeners: list[Callable[[str], None]] = []

    def subscribe(self, callback: Callable[[str], None]) -> Callable[[], None]:
        """Call back with the name of each item that may have changed; returns how to stop that."""
        self._listeners.append(callback)
        return lambda: self._listeners.remove(callback)

    def _notify(self, names: Iterable[str]) -> None:
        for callback in self._listeners:
            for name in names:
                callback(name)

    def replace(self, kvs: tuple[KV, ...]) -> None:
        before = set(self.items)
        self.items.clear()
        for key in [key for key in self._garbage if key.startswith(self._prefix)]:
            del self._garbage[key]
        for kv in kvs:
            self._put(kv.key, kv.value)
        self._notify(sorted(before | set(self.items)))
        self._on_change()

    def apply_event(self, event: Event) -> None:
        key, value = event.key, event.value
        self._garbage.pop(key, None)
        if value is None:
            self.items.pop(key.removeprefix(self._prefix), None)
        else:
            self._put(key, value)
        self._notify([key.removeprefix(self._prefix)])
        self._on_change()

    def _put(self, key: str, value: bytes) -> None:
        name = key.removeprefix(self._prefix)
        try:
            self.items[name] = decode(self._model, value, key)
        except Garbage as error:
            self.items.pop(name, None)
            self._garbage[key] = str(error)
            log.warning("passing over a key: %s", error)


_Watched = tuple[KeyRange, Callable[[tuple[KV, ...]], None], Callable[[Event], None]]


def _only(kvs: tuple[KV, ...]) -> KV | None:
    return kvs[0] if kvs else None


def _kv(event: Event) -> KV | None:
    """What the key holds now."""
    if event.value is None:
        return None
    return KV(event.key, event.value, event.create_revision, event.mod_revision, 1, event.lease)


class ClusterView:
    """All of it. `subscribe` a callback to hear that something changed; it then looks for itself."""

    def __init__(self, etcd: Etcd, keys: Keys) -> None:
        self._etcd, self._keys = etcd, keys
        self.garbage: dict[str, str] = {}
        self.watch_error: str | None = None
        """Why etcd lets nothing be watched, and all of this is as it was before; an outage is told elsewhere."""
        self._limited_log = RateLimitedLog(log, 60.0)
        self.leader = LeaderSeen()
        self.last_leader = LeaderSeen()
        """The last readable one: whom a vacant `leader` is taken over from."""
        self.leader_known = asyncio.Event()
        self._leader_seen_revision = 0
        self.config: KV | None = None
        self._subscribers: list[Callable[[], None]] = []
        self.version = 0
        self.candidates = KeyMirror(keys.candidates, Candidate, self.garbage, self._changed)
        self.status = KeyMirror(keys.status, Status, self.garbage, self._changed)
        self.alive = KeyMirror(keys.alive, Alive, self.garbage, self._changed)
        self.acted = KeyMirror(keys.acted, Acted, self.garbage, self._changed)
        self.challenges = KeyMirror(keys.challenges, Challenge, self.garbage, self._changed)
        self.answers = KeyMirror(keys.answers, Answer, self.garbage, self._changed)
        self._paused = KeyMirror(keys.paused, Paused, self.garbage, self._changed)
        self._epoch = KeyMirror(keys.epoch, Epoch, self.garbage, self._changed)

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

    def notify(self) -> None:
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
                self.watch_error = f"cannot watch what is in etcd: {error}"
                self._limited_log.log(logging.ERROR, self.watch_error)
            await asyncio.sleep(_RETRY_S)

    async def _watch(self, seen: asyncio.Event) -> None:
        """By one stream: each has to be asked for signs of life. `seen` is set once all was listed."""
        watched = self._watch_targets()
        stream = mirror_all(self._etcd, [keys for keys, _, _ in watched], progress_s=PROGRESS_S, silence_s=SILENCE_S)
        async with aclosing(stream):
            async for position, item in stream:
                _, listed, changed = watched[position]
                if isinstance(item, Listing):
                    listed(item.kvs)
                    if position + 1 == len(watched):
                        seen.set()
                        self.watch_error = None
                    continue
                for event in item.events:
                    changed(event)

    def _watch_targets(self) -> list[_Watched]:
        """What is watched, who leads first: with what to do at a listing, and at an event."""
        keys = self._keys
        items: list[tuple[KeyRange, KeyMirror[Any]]] = [
            (key_range(keys.paused, prefix=False), self._paused), (key_range(keys.epoch, prefix=False), self._epoch),
            (key_range(keys.candidates), self.candidates), (key_range(keys.status), self.status),
            (key_range(keys.alive), self.alive), (key_range(keys.acted), self.acted),
            (key_range(keys.challenges), self.challenges), (key_range(keys.answers), self.answers),
        ]  # fmt: skip
        return [
            (key_range(keys.leader, prefix=False), lambda kvs: self._set_leader(_only(kvs)), self._on_leader_event),
            (
                key_range(keys.config_current, prefix=False),
                lambda kvs: self._set_config(_only(kvs)),
                lambda event: self._set_config(_kv(event)),
            ),
            *((within, mirrored.replace, mirrored.apply_event) for within, mirrored in items),
        ]

    def _on_leader_event(self, event: Event) -> None:
        if (
            event.mod_revision >= self._leader_seen_revision
        ):  # else the watch lags behind what somebody has read: it would
            self._set_leader(_kv(event))  # seem to be over

    def observe_leader(self, kv: KV | None) -> None:
        """Somebody read the key: what is newer than the watch has shown counts."""
        if kv is not None and kv.mod_revision > self.leader.revision:
            self._leader_seen_revision = kv.mod_revision
            self._set_leader(kv)

    def _set_leader(self, kv: KV | None) -> None:
        self.leader = parse_leader(kv)
        if self.leader.record is not None:
            self.last_leader = self.leader
        self.garbage.pop(self._keys.leader, None)
        if self.leader.garbage is not None:
            self.garbage[self._keys.leader] = self.leader.garbage
        self.leader_known.set()
        self._changed()

    def _set_config(self, kv: KV | None) -> None:
        self.config = kv
        self.garbage.pop(self._keys.config_current, None)
        if kv is not None:
            try:
                decode(ConfigRecord, kv.value, kv.key)
            except Garbage as error:
                self.garbage[kv.key] = str(error)
        self._changed()
