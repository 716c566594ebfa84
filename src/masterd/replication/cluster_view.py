"""A decoded copy of the keys outside the journal: the leader, candidates, configuration, and the nodes' statuses.

Kept up to date by watches; each key is decoded once per change. A key with garbage is skipped, and reported under
`problems` of GET /v1/status.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from contextlib import aclosing
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from masterd.replication.desired_states import DesiredStates
from nodestore.cluster.election import LeaderSeen, parse_leader
from nodestore.errors import Garbage, NodectlError
from nodestore.etcd.session import KV, Etcd, op_range
from nodestore.etcd.watch import Changes, Event, KeyRange, Listing, ProgressRequests, key_range, mirror_all
from nodestore.schema.keys import Keys
from nodestore.schema.models import (
    AccessControl,
    Acted,
    Alive,
    Answer,
    ApplicationOrder,
    BrowserSession,
    Candidate,
    Challenge,
    ConfigRecord,
    Epoch,
    Grant,
    Paused,
    Status,
    TermRecord,
    Waiting,
    decode,
)
from nodestore.support.logs import RateLimitedLog
from nodestore.support.waiting import set_within

log = logging.getLogger(__name__)

M = TypeVar("M", bound=BaseModel)

PROGRESS_S = 1.0
SILENCE_S = 3.0
_RETRY_S = 1.0
_WATCH_WAIT_S = 0.25
"""How long a linearizable read waits for the watch. Then the keys are read directly: the member may be frozen."""
_ASK_AGAIN_S = 0.02
"""Pause before progress is requested again: the watched member may be behind the one that confirmed the term."""
_DIRECT_READ_S = 2.0


class KeyMirror(Generic[M]):
    """The decoded values of the keys under one prefix, by the rest of the key's name.

    garbage: receives an error message for each key that cannot be decoded. on_change: called after each change.
    """

    def __init__(self, prefix: str, model: type[M], garbage: dict[str, str], on_change: Callable[[], None]) -> None:
        self._prefix, self._model, self._garbage, self._on_change = prefix, model, garbage, on_change
        self.items: dict[str, M] = {}
        self.is_known = False
        """Whether the keys were listed once."""
        self.is_listing = False
        """Whether the present notification is about a listing, whose values may have been written long ago."""
        self._listeners: list[Callable[[str], None]] = []

    def subscribe(self, callback: Callable[[str], None]) -> Callable[[], None]:
        """Call `callback` with the name of each item that may have changed; return a function that unsubscribes it."""
        self._listeners.append(callback)
        return lambda: self._listeners.remove(callback)

    def _notify(self, names: Iterable[str]) -> None:
        for callback in self._listeners:
            for name in names:
                callback(name)

    def replace(self, kvs: tuple[KV, ...]) -> None:
        """Replace all items by those of a listing."""
        before = set(self.items)
        self.items.clear()
        for key in [key for key in self._garbage if key.startswith(self._prefix)]:
            del self._garbage[key]
        for kv in kvs:
            self._put(kv.key, kv.value)
        self.is_listing = self.is_known = True
        self._notify(sorted(before | set(self.items)))
        self.is_listing = False
        self._on_change()

    def apply_event(self, event: Event) -> None:
        """Apply one put or delete."""
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
            log.warning("skipping a key: %s", error)


_Watched = tuple[KeyRange, Callable[[tuple[KV, ...]], None], Callable[[Event], None]]


def _only(kvs: tuple[KV, ...]) -> KV | None:
    return kvs[0] if kvs else None


def _kv(event: Event) -> KV | None:
    """The key and value after this event; None if it deleted the key."""
    if event.value is None:
        return None
    return KV(event.key, event.value, event.create_revision, event.mod_revision, 1, event.lease)


class ClusterView:
    """Mirrors the keys outside the journal. `version` grows with every change.

    Each range of keys has a revision up to which it is known to be complete. `bring_up_to` raises all of them, so that
    a read of this view is linearizable.
    """

    def __init__(self, etcd: Etcd, keys: Keys) -> None:
        self._etcd, self._keys = etcd, keys
        self.garbage: dict[str, str] = {}
        self.watch_error: str | None = None
        """Why etcd refuses the watch; all values here are outdated then. None if it is accepted, or in an outage."""
        self._limited_log = RateLimitedLog(log, 60.0)
        self.leader = LeaderSeen()
        self.last_leader = LeaderSeen()
        """The last readable leader: a takeover of a vacant `leader` key names it as the predecessor."""
        self.leader_known = asyncio.Event()
        self._leader_read_revision = 0
        """The mod_revision of the newest value of `leader` that `observe_leader` has used."""
        self.config: KV | None = None
        self._subscribers: list[Callable[[], None]] = []
        self._subscribers_but_nodes: list[Callable[[], None]] = []
        self.version = 0
        self.candidates = KeyMirror(keys.candidates, Candidate, self.garbage, self._changed)
        self.status = KeyMirror(keys.status, Status, self.garbage, self._node_changed)
        self.alive = KeyMirror(keys.alive, Alive, self.garbage, self._changed)
        self.waiting = KeyMirror(keys.waiting, Waiting, self.garbage, self._changed)
        """By `<node>/<nonce>`: nodeds that wait for the claim of their node."""
        self.acted = KeyMirror(keys.acted, Acted, self.garbage, self._changed)
        self.desired = DesiredStates(etcd, keys, self.garbage)
        self._on_desired_deleted: list[Callable[[str], None]] = []
        self.challenges = KeyMirror(keys.challenges, Challenge, self.garbage, self._changed)
        self.answers = KeyMirror(keys.answers, Answer, self.garbage, self._changed)
        self._paused = KeyMirror(keys.paused, Paused, self.garbage, self._changed)
        self.terms = KeyMirror(keys.terms, TermRecord, self.garbage, self._changed)
        self._application = KeyMirror(keys.application, ApplicationOrder, self.garbage, self._changed)
        self._epoch = KeyMirror(keys.epoch, Epoch, self.garbage, self._changed)
        self.grants = KeyMirror(keys.grants, Grant, self.garbage, self._changed)
        self.browser_sessions = KeyMirror(keys.browser_sessions, BrowserSession, self.garbage, self._changed)
        self._access_control = KeyMirror(keys.access_control, AccessControl, self.garbage, self._changed)
        self._targets = self._watch_targets()
        self._complete_up_to = [0] * len(self._targets)
        """By range: its values are complete up to this revision; 0 before its first listing."""
        self._read_directly_at = [0] * len(self._targets)
        """By range: the revision of its last direct read. Older events that the watch delivers later are dropped."""
        self._progress = ProgressRequests()
        self._advanced = asyncio.Event()
        self._direct_read = asyncio.Lock()

    @property
    def paused(self) -> Paused | None:
        return self._paused.items.get("")

    @property
    def epoch(self) -> int | None:
        """The epoch of the store; None while it is unknown or unreadable."""
        epoch = self._epoch.items.get("")
        return None if epoch is None else epoch.epoch

    @property
    def application_order(self) -> ApplicationOrder | None:
        """The operator's order that another application may lead; None if there is none."""
        return self._application.items.get("")

    @property
    def access_control(self) -> AccessControl | None:
        """Whether access control is on; None if the key is absent or unreadable."""
        return self._access_control.items.get("")

    @property
    def is_access_control_known(self) -> bool:
        """Whether the key `access/control` was read once."""
        return self._access_control.is_known

    @property
    def access_control_problem(self) -> str | None:
        """Why the key `access/control` is unreadable; None if it is not."""
        return self.garbage.get(self._keys.access_control)

    @property
    def revision(self) -> int:
        """The revision of etcd up to which all values here are complete; 0 until all keys were listed once."""
        return min(self._complete_up_to)

    async def bring_up_to(self, revision: int) -> None:
        """Return once all values here are complete up to `revision`.

        Waits for the watch for a quarter of a second; then reads the keys directly, from several members if necessary.
        Raises Unavailable if etcd does not answer.
        """
        give_up_at = time.monotonic() + _WATCH_WAIT_S
        while self.revision < revision:
            if (left_s := give_up_at - time.monotonic()) <= 0:
                await self._read_directly(revision)
                return
            self._advanced.clear()
            self._progress.request()
            await set_within(self._advanced, min(left_s, _ASK_AGAIN_S))

    async def _read_directly(self, revision: int) -> None:
        """Read all keys in one transaction. Concurrent callers share it, if it was sent late enough for them."""
        async with self._direct_read:
            if self.revision >= revision:
                return
            reads = [op_range(keys.start, end=keys.end) for keys, _, _ in self._targets]
            found = await self._etcd.txn([], reads, timeout_s=_DIRECT_READ_S)
            for position, (_, listed, _) in enumerate(self._targets):
                if self._complete_up_to[position] < found.revision:  # else the watch has shown newer values meanwhile
                    listed(found.range(position).kvs)
                    self._read_directly_at[position] = self._complete_up_to[position] = found.revision

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` at every change; return a function that unsubscribes it."""
        self._subscribers.append(callback)
        return lambda: self._subscribers.remove(callback)

    def subscribe_but_nodes(self, callback: Callable[[], None]) -> Callable[[], None]:
        """As `subscribe`, but do not call it if only a node's status changed.

        Statuses change often, and decide neither who leads nor what the leader commits next. Who needs them subscribes
        to `status`.
        """
        self._subscribers_but_nodes.append(callback)
        return lambda: self._subscribers_but_nodes.remove(callback)

    def subscribe_deleted_desired(self, callback: Callable[[str], None]) -> Callable[[], None]:
        """Call `callback` with each node whose desired state is deleted; return a function that unsubscribes it.

        A deletion while the watch is interrupted may be missed.
        """
        self._on_desired_deleted.append(callback)
        return lambda: self._on_desired_deleted.remove(callback)

    def notify(self) -> None:
        """Call the subscribers, because this masterd's own role changed."""
        self._changed()

    def _changed(self) -> None:
        self._node_changed()
        for callback in tuple(self._subscribers_but_nodes):
            callback()

    def _node_changed(self) -> None:
        self.version += 1
        for callback in tuple(self._subscribers):
            callback()

    async def watch(self) -> None:
        """Keep everything up to date until cancelled.

        Raises NodectlError if etcd refuses the watch before all keys were listed once. Later refusals are logged, shown
        in `watch_error` and retried.
        """
        all_listed = asyncio.Event()
        while True:
            try:
                await self._watch(all_listed)
            except NodectlError as error:
                if not all_listed.is_set():
                    raise
                self.watch_error = f"cannot watch the keys in etcd: {error}"
                self._limited_log.log(logging.ERROR, self.watch_error)
            await asyncio.sleep(_RETRY_S)

    async def _watch(self, all_listed: asyncio.Event) -> None:
        """Watch all keys until etcd refuses. Sets `all_listed` once all of them have been listed."""
        # One stream serves all keys, because each stream needs progress requests of its own, to detect that it is dead.
        stream = mirror_all(
            self._etcd, [keys for keys, _, _ in self._targets], progress_s=PROGRESS_S, silence_s=SILENCE_S,
            progress=self._progress,
        )  # fmt: skip
        async with aclosing(stream):
            async for position, item in stream:
                if isinstance(item, Listing):
                    self._on_listing(position, item)
                    if position + 1 == len(self._targets):
                        all_listed.set()
                        self.watch_error = None
                else:
                    self._on_changes(position, item)
                self._advanced.set()

    def _on_listing(self, position: int, listing: Listing) -> None:
        # It may be older than a direct read. Then the watch delivers the difference again, and must not drop it.
        self._targets[position][1](listing.kvs)
        self._complete_up_to[position], self._read_directly_at[position] = listing.revision, 0

    def _on_changes(self, position: int, changes: Changes) -> None:
        for event in changes.events:
            if event.mod_revision > self._read_directly_at[position]:
                self._targets[position][2](event)
        for each in range(len(self._targets)) if changes.whole_stream else (position,):
            self._complete_up_to[each] = max(self._complete_up_to[each], changes.revision)

    def _watch_targets(self) -> list[_Watched]:
        """The watched ranges, `leader` first, each with its handlers for a listing and for an event."""
        keys = self._keys
        items: list[tuple[KeyRange, KeyMirror[Any]]] = [
            (key_range(keys.paused, prefix=False), self._paused), (key_range(keys.epoch, prefix=False), self._epoch),
            (key_range(keys.application, prefix=False), self._application),
            (key_range(keys.access_control, prefix=False), self._access_control), (key_range(keys.grants), self.grants),
            (key_range(keys.browser_sessions), self.browser_sessions),
            (key_range(keys.terms), self.terms),
            (key_range(keys.candidates), self.candidates), (key_range(keys.status), self.status),
            (key_range(keys.alive), self.alive), (key_range(keys.acted), self.acted),
            (key_range(keys.challenges), self.challenges), (key_range(keys.answers), self.answers),
            (key_range(keys.waiting), self.waiting),
        ]  # fmt: skip
        return [
            (key_range(keys.leader, prefix=False), lambda kvs: self._set_leader(_only(kvs)), self._on_leader_event),
            (
                key_range(keys.config_current, prefix=False),
                lambda kvs: self._set_config(_only(kvs)),
                lambda event: self._set_config(_kv(event)),
            ),
            *((within, mirrored.replace, mirrored.apply_event) for within, mirrored in items),
            (key_range(keys.desired, deletions_only=True), self.desired.replace, self._on_desired_event),
        ]

    def _on_desired_event(self, event: Event) -> None:
        for callback in tuple(self._on_desired_deleted):
            callback(event.key.removeprefix(self._keys.desired))

    def _on_leader_event(self, event: Event) -> None:
        # `observe_leader` may have read a newer value before the watch delivers an older event. That event is dropped,
        # as otherwise the newer term would seem to have ended.
        if event.mod_revision >= self._leader_read_revision:
            self._set_leader(_kv(event))

    def observe_leader(self, kv: KV | None) -> None:
        """Use a value of `leader` that was read directly, if it is newer than what the watch has delivered."""
        if kv is not None and kv.mod_revision > self.leader.revision:
            self._leader_read_revision = kv.mod_revision
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
