"""A fake etcd, in memory: `Etcd(SETTINGS, connect=FakeEtcd().connect)` is a session with it.

It replaces gRPC only, so the session, its watches, leases and elections are the real code. The clock is
`time.monotonic` or the given one: with `tests.support.fakes.clock` leases expire in virtual time. A `Link` injects
faults between session and store.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from grpc import StatusCode

from nodestore.etcd.pb import etcd_pb2 as pb
from nodestore.etcd.rpc import Connection
from nodestore.etcd.types import EtcdSettings
from tests.support.fakes.link import Link
from tests.support.fakes.mvcc import Backup, Interval, Refused, Store

MEMBERS = ("fake-1:2379", "fake-2:2379", "fake-3:2379")
SETTINGS = EtcdSettings(endpoints=MEMBERS)

_TRANSPORT_SLACK_BYTES = 512 << 10
_CATCH_UP_REVISIONS = 1000
_TTL_MAX_S = 9_000_000_000

Send = Callable[[Any], None]


@dataclass
class _Lease:
    ttl_s: int
    ends: float


@dataclass
class Watcher:
    """One watch: its request, and the revision up to which its events were sent (`sent_up_to`)."""

    number: int
    interval: Interval
    begins: int
    fragment: bool
    sent_up_to: int
    deletions_only: bool = False

    def wants(self, event: Any) -> bool:
        is_deletion = event.type == pb.Event.DELETE
        return event.kv.key in self.interval and (is_deletion or not self.deletions_only)


@dataclass
class WatchStream:
    """The server's end of one Watch call."""

    send: Send
    watchers: dict[int, Watcher] = field(default_factory=dict)
    numbers: itertools.count[int] = field(default_factory=itertools.count)


class FakeEtcd:
    """A store of three members that always agree.

    request_bytes_max, max_txn_ops, ttl_min_s: the limits that etcd's flags set; the defaults are etcd's.
    """

    def __init__(
        self,
        *,
        max_txn_ops: int = 128,
        request_bytes_max: int = 1_572_864,
        ttl_min_s: int = 2,
        now: Callable[[], float] | None = None,
    ) -> None:
        self.store = Store(max_txn_ops)
        self.store.committed = self._notify_watchers
        self._request_bytes_max, self._ttl_min_s = request_bytes_max, ttl_min_s
        self._now = now or (lambda: time.monotonic())  # looked up at each call, because tests replace time.monotonic
        self._leases: dict[int, _Lease] = {}
        self._lease_ids = itertools.count(0x1234_5678)
        self._streams: list[WatchStream] = []
        self._timer: asyncio.TimerHandle | None = None
        self._unary: dict[str, Callable[[Any], Any]] = {
            "KV/Range": self.store.range,
            "KV/Put": self._sized(self.store.put),
            "KV/DeleteRange": self._sized(self.store.delete),
            "KV/Txn": self._sized(self.store.txn),
            "KV/Compact": self.store.compact,
            "Lease/LeaseGrant": self._grant,
            "Lease/LeaseRevoke": self._revoke,
            "Lease/LeaseTimeToLive": self._time_to_live,
            "Cluster/MemberList": self._member_list,
            "Maintenance/Status": self._status,
            "Maintenance/Alarm": lambda request: pb.AlarmResponse(header=self.store.header()),  # no alarms
        }

    @property
    def leases(self) -> list[int]:
        """The ids of the leases that have not ended, oldest first."""
        self.expire()
        return list(self._leases)

    def connect(self, address: str) -> Connection:
        """Return a connection without faults."""
        return Link(self).connect(address)

    def handle(self, method: str, request: Any) -> Any:
        """Return etcd's response to a unary call. Raises Refused for an error of etcd."""
        self.expire()
        if method not in self._unary:
            raise NotImplementedError(f"the fake store does not know {method}")
        return self._unary[method](request)

    def stale(self, request: Any, revision: int) -> Any:
        """Return the response of a member that lags at `revision` to the read of one key. It knows of no compaction."""
        response = pb.RangeResponse(header=self.store.header())
        response.header.revision = revision
        for at, events in self.store.log:
            for event in events:
                if at <= revision and event.kv.key == request.key:
                    del response.kvs[:]
                    if event.type == pb.Event.PUT:
                        response.kvs.append(event.kv)
        response.count = len(response.kvs)
        return response

    def replace(self, backup: Backup | None, *, cluster_id: int = 2, bump: int = 0) -> None:
        """Become another store: see `Store.replace`. The leases of the backup start anew, as etcd's do."""
        self.store.replace(backup, cluster_id=cluster_id, bump=bump)
        now = self._now()
        kept = {lease: known for lease, known in self._leases.items() if lease in self.store.leases}
        for lease in self.store.leases:
            known = kept.setdefault(lease, _Lease(self._ttl_min_s, now))
            known.ends = now + known.ttl_s
        self._leases = kept
        self._streams.clear()
        self._set_timer()

    # --- limits ---

    def limit_requests(self, request_bytes_max: int) -> None:
        """Change the limit of requests, as a restart of the members with another --max-request-bytes does."""
        self._request_bytes_max = request_bytes_max

    def _sized(self, handler: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def checked(request: Any) -> Any:
            size, most = request.ByteSize(), self._request_bytes_max
            if size > most + _TRANSPORT_SLACK_BYTES:
                details = f"grpc: received message larger than max ({size} vs. {most + _TRANSPORT_SLACK_BYTES})"
                raise Refused(StatusCode.RESOURCE_EXHAUSTED, details)
            if size > most:
                raise Refused(StatusCode.INVALID_ARGUMENT, "etcdserver: request is too large")
            return handler(request)

        return checked

    # --- leases ---

    def expire(self) -> None:
        """Revoke the expired leases. Called before each request, and by a timer."""
        now = self._now()
        for lease in [lease for lease, known in self._leases.items() if known.ends <= now]:
            del self._leases[lease]
            self.store.revoke(lease)
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._leases:
            left_s = min(known.ends for known in self._leases.values()) - self._now()
            self._timer = asyncio.get_running_loop().call_later(max(0.0, left_s), self.expire)

    def _grant(self, request: Any) -> Any:
        lease = request.ID or next(self._lease_ids)
        if lease in self._leases:
            raise Refused(StatusCode.FAILED_PRECONDITION, "etcdserver: lease already exists")
        if request.TTL > _TTL_MAX_S:
            raise Refused(StatusCode.OUT_OF_RANGE, "etcdserver: too large lease TTL")
        ttl_s = max(request.TTL, self._ttl_min_s)
        self._leases[lease] = _Lease(ttl_s, self._now() + ttl_s)
        self.store.leases[lease] = set()
        self._set_timer()
        return pb.LeaseGrantResponse(header=self.store.header(), ID=lease, TTL=ttl_s)

    def _revoke(self, request: Any) -> Any:
        self.store.revoke(request.ID)
        del self._leases[request.ID]
        return pb.LeaseRevokeResponse(header=self.store.header())

    def _time_to_live(self, request: Any) -> Any:
        found = self._leases.get(request.ID)
        if found is None:
            return pb.LeaseTimeToLiveResponse(header=self.store.header(), ID=request.ID, TTL=-1)
        return pb.LeaseTimeToLiveResponse(
            header=self.store.header(), ID=request.ID, TTL=int(found.ends - self._now()), grantedTTL=found.ttl_s,
            keys=sorted(self.store.leases[request.ID]) if request.keys else (),
        )  # fmt: skip

    def keep_alive(self, request: Any) -> Any:
        """Return the response to one message of a LeaseKeepAlive stream."""
        self.expire()
        found = self._leases.get(request.ID)
        if found is not None:
            found.ends = self._now() + found.ttl_s
            self._set_timer()
        ttl_s = 0 if found is None else found.ttl_s
        return pb.LeaseKeepAliveResponse(header=self.store.header(), ID=request.ID, TTL=ttl_s)

    # --- the cluster ---

    def _member_list(self, request: Any) -> Any:
        members = [
            pb.Member(ID=number, name=f"fake-{number}", clientURLs=[f"http://{address}"])
            for number, address in enumerate(MEMBERS, start=1)
        ]
        return pb.MemberListResponse(header=self.store.header(), members=members)

    def _status(self, request: Any) -> Any:
        revision = self.store.revision
        return pb.StatusResponse(
            header=self.store.header(),
            version="3.5.30",
            dbSize=1,
            dbSizeInUse=1,
            leader=1,
            raftIndex=revision,
            raftTerm=2,
        )

    # --- watches ---

    def open_watch(self, send: Send) -> WatchStream:
        """Open a Watch stream. send: called with each message for the client."""
        stream = WatchStream(send)
        self._streams.append(stream)
        return stream

    def close_watch(self, stream: WatchStream) -> None:
        if stream in self._streams:
            self._streams.remove(stream)

    def watch(self, stream: WatchStream, request: Any) -> None:
        """Process one message of a client on a Watch stream."""
        self.expire()
        match request.WhichOneof("request_union"):
            case "create_request":
                self._create(stream, request.create_request)
            case "cancel_request":
                number = request.cancel_request.watch_id
                if stream.watchers.pop(number, None) is not None:
                    stream.send(pb.WatchResponse(header=self.store.header(), watch_id=number, canceled=True))
            case "progress_request":
                self._progress(stream)

    def _create(self, stream: WatchStream, request: Any) -> None:
        if pb.WatchCreateRequest.NODELETE in request.filters or request.prev_kv or request.watch_id:
            raise NotImplementedError("the fake store does not know NODELETE, previous values and ids of a watch")
        number, store = next(stream.numbers), self.store
        stream.send(pb.WatchResponse(header=store.header(), watch_id=number, created=True))
        begins = request.start_revision
        if begins and begins < store.compacted:
            stream.send(pb.WatchResponse(
                header=store.header(), watch_id=number, canceled=True, compact_revision=store.compacted,
            ))  # fmt: skip
            return
        interval = Interval(request.key, request.range_end)
        sent_up_to = max(begins - 1, 0) if begins else store.revision
        deletions_only = pb.WatchCreateRequest.NOPUT in request.filters
        watcher = Watcher(number, interval, begins, request.fragment, sent_up_to, deletions_only)
        stream.watchers[number] = watcher
        self._catch_up(stream, watcher)

    def _catch_up(self, stream: WatchStream, watcher: Watcher) -> None:
        """Send the events since the watch begins, as etcd does: many revisions a message, with a newer header."""
        batch: list[Any] = []
        for count, (_, events) in enumerate(self.store.since(watcher.sent_up_to + 1), start=1):
            batch += [event for event in events if watcher.wants(event)]
            if count % _CATCH_UP_REVISIONS == 0 and batch:
                self._send(stream, watcher, batch)
                batch = []
        if batch:
            self._send(stream, watcher, batch)
        watcher.sent_up_to = max(watcher.sent_up_to, self.store.revision)

    def _notify_watchers(self, revision: int, events: Sequence[Any]) -> None:
        for stream in tuple(self._streams):
            for watcher in tuple(stream.watchers.values()):
                if revision <= watcher.sent_up_to:
                    continue  # it begins in the future
                watcher.sent_up_to = revision
                mine = [event for event in events if watcher.wants(event)]
                if mine:
                    self._send(stream, watcher, mine)

    def _send(self, stream: WatchStream, watcher: Watcher, events: Sequence[Any]) -> None:
        parts = [events] if not watcher.fragment else self._parts(events)
        for number, part in enumerate(parts, start=1):
            stream.send(pb.WatchResponse(
                header=self.store.header(), watch_id=watcher.number, events=part, fragment=number < len(parts)
            ))  # fmt: skip

    def _parts(self, events: Sequence[Any]) -> list[list[Any]]:
        parts: list[list[Any]] = [[]]
        size = 0
        for event in events:
            weight = event.ByteSize()
            if parts[-1] and size + weight > self._request_bytes_max:
                parts.append([])
                size = 0
            parts[-1].append(event)
            size += weight
        return parts

    def _progress(self, stream: WatchStream) -> None:
        """Answer a progress request; like etcd, not at all while a watch of the stream begins in the future."""
        revision = self.store.revision
        if stream.watchers and all(watcher.begins <= revision for watcher in stream.watchers.values()):
            stream.send(pb.WatchResponse(header=self.store.header(), watch_id=-1))
