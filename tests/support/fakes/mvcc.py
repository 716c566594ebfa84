"""etcd's key space in memory: revisions, transactions, history and compaction, after etcd 3.5. No time, no I/O.

Requests and responses are etcd's protobuf messages, so the session, watches, leases and elections under test are the
real code. Features that it lacks (a watch without deletions, previous values) raise an error and are never ignored.
`tests/conformance` checks that it behaves as etcd does.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message
from grpc import StatusCode

from nodestore.etcd.pb import etcd_pb2 as pb

_KEY_TARGET = pb.RangeRequest.KEY
_SORT_BY: dict[int, Callable[[Any], Any]] = {
    pb.RangeRequest.KEY: lambda kv: kv.key,
    pb.RangeRequest.VERSION: lambda kv: kv.version,
    pb.RangeRequest.CREATE: lambda kv: kv.create_revision,
    pb.RangeRequest.MOD: lambda kv: kv.mod_revision,
    pb.RangeRequest.VALUE: lambda kv: kv.value,
}
_FIELD = {
    pb.Compare.VERSION: "version",
    pb.Compare.CREATE: "create_revision",
    pb.Compare.MOD: "mod_revision",
    pb.Compare.VALUE: "value",
    pb.Compare.LEASE: "lease",
}
_HOLDS: dict[int, Callable[[Any, Any], bool]] = {
    pb.Compare.EQUAL: lambda found, wanted: found == wanted,
    pb.Compare.NOT_EQUAL: lambda found, wanted: found != wanted,
    pb.Compare.GREATER: lambda found, wanted: found > wanted,
    pb.Compare.LESS: lambda found, wanted: found < wanted,
}


class Refused(Exception):
    """An error response of etcd, with etcd's own code and text."""

    def __init__(self, code: StatusCode, details: str) -> None:
        super().__init__(f"{code.name}: {details}")
        self.code, self.details = code, details


def empty_key() -> Refused:
    return Refused(StatusCode.INVALID_ARGUMENT, "etcdserver: key is not provided")


def compacted() -> Refused:
    return Refused(StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted")


def of_the_future() -> Refused:
    return Refused(StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision")


def no_lease() -> Refused:
    return Refused(StatusCode.NOT_FOUND, "etcdserver: requested lease not found")


@dataclass(frozen=True, slots=True)
class Interval:
    """The keys of a request: a single one, a range, or all from a key on (`end` is a zero byte)."""

    key: bytes
    end: bytes

    def __contains__(self, key: bytes) -> bool:
        if not self.end:
            return key == self.key
        return key >= self.key and (self.end == b"\0" or key < self.end)


@dataclass(frozen=True, slots=True)
class Backup:
    """The content of a store at one revision."""

    revision: int
    versions: dict[bytes, list[Any]]
    leases: dict[int, set[bytes]]


class Store:
    """The key space. A method that changes something does so completely, or raises Refused and changes nothing."""

    def __init__(self, max_txn_ops: int) -> None:
        self._max_txn_ops = max_txn_ops
        self.cluster_id = 1
        self.revision = 1
        self.compacted = 0
        """The oldest revision that can be read; 0 before the first compaction."""
        self.log: list[tuple[int, tuple[Any, ...]]] = []
        """All events by revision. A compaction does not shorten it, so that tests can read the whole history."""
        self.leases: dict[int, set[bytes]] = {}
        """The attached keys by lease. A lease exists if it is in this dictionary."""
        self.committed: Callable[[int, Sequence[Any]], None] = lambda revision, events: None
        self._names: list[bytes] = []
        self._versions: dict[bytes, list[Any]] = {}
        """Each key's KeyValues, oldest first; one of version 0 is its deletion."""
        self._events: list[Any] = []

    # --- other stores in its place ---

    def backup(self) -> Backup:
        """All keys and leases, and the revision, as `etcdctl snapshot save` copies them."""
        versions = {name: list(found) for name, found in self._versions.items()}
        return Backup(self.revision, versions, {lease: set(keys) for lease, keys in self.leases.items()})

    def replace(self, backup: Backup | None, *, cluster_id: int, bump: int = 0) -> None:
        """Become another store: an empty one, or that of a restored backup. bump: as `--bump-revision`.

        Only for tests that do not read `log` across it.
        """
        backup = backup or Backup(1, {}, {})
        self.cluster_id, self.revision, self.compacted = cluster_id, backup.revision + bump, 0
        self._versions = {name: list(found) for name, found in backup.versions.items()}
        self._names = sorted(self._versions)
        self.leases = {lease: set(keys) for lease, keys in backup.leases.items()}
        self.log.clear()

    # --- requests ---

    def range(self, request: Any) -> Any:
        if not request.key:
            raise empty_key()
        self._check_revision(request.revision)
        return self._range(request)

    def put(self, request: Any) -> Any:
        _check_put(request)
        self._check_lease(request)
        self._put(request)
        return pb.PutResponse(header=self._commit())

    def delete(self, request: Any) -> Any:
        _check_delete(request)
        deleted = self._delete(request)
        return pb.DeleteRangeResponse(header=self._commit(), deleted=deleted)

    def txn(self, request: Any) -> Any:
        _check_txn(request, self._max_txn_ops)
        path = self._path(request)
        self._check_leases_and_revisions(request, iter(path))
        response = self._apply(request, iter(path))
        response.header.CopyFrom(self._commit())
        return response

    def compact(self, request: Any) -> Any:
        if request.revision <= self.compacted:
            raise compacted()
        if request.revision > self.revision:
            raise of_the_future()
        self.compacted = request.revision
        for name, versions in list(self._versions.items()):
            at = bisect.bisect_right(versions, request.revision, key=lambda kv: kv.mod_revision)
            keep = versions[max(0, at - 1) :]
            if keep and not keep[0].version and keep[0].mod_revision < request.revision:
                keep = keep[1:]  # a compacted deletion leaves nothing
            if keep:
                self._versions[name] = keep
            else:
                del self._versions[name]
                del self._names[bisect.bisect_left(self._names, name)]
        return pb.CompactionResponse(header=self.header())

    def revoke(self, lease: int) -> None:
        """Revoke a lease and delete its keys, in one revision."""
        if lease not in self.leases:
            raise no_lease()
        for key in sorted(self.leases[lease]):
            self._delete(pb.DeleteRangeRequest(key=key))
        self._commit()
        del self.leases[lease]

    # --- history ---

    def since(self, revision: int) -> Iterator[tuple[int, Sequence[Any]]]:
        """Return the events of each revision from this one on, which must not be compacted."""
        yield from self.log[bisect.bisect_left(self.log, revision, key=lambda item: item[0]) :]

    def header(self) -> Any:
        return pb.ResponseHeader(cluster_id=self.cluster_id, member_id=1, revision=self.revision, raft_term=2)

    # --- reading ---

    def _select(self, interval: Interval, revision: int = 0) -> Iterator[Any]:
        if not interval.end:
            names: Sequence[bytes] = (interval.key,)
        else:
            first = bisect.bisect_left(self._names, interval.key)
            last = len(self._names) if interval.end == b"\0" else bisect.bisect_left(self._names, interval.end)
            names = self._names[first:last]
        for name in names:
            kv = self._at(name, revision)
            if kv is not None:
                yield kv

    def _at(self, name: bytes, revision: int = 0) -> Any | None:
        versions = self._versions.get(name)
        if not versions:
            return None
        at = len(versions) if not revision else bisect.bisect_right(versions, revision, key=lambda kv: kv.mod_revision)
        return versions[at - 1] if at and versions[at - 1].version else None

    def _range(self, request: Any) -> Any:
        found = list(self._select(Interval(request.key, request.range_end), request.revision))
        response = pb.RangeResponse(header=self.header(), count=len(found))
        response.header.revision += bool(self._events)  # inside a transaction that has already written
        if request.count_only:
            return response
        if request.sort_order != pb.RangeRequest.NONE or request.sort_target != _KEY_TARGET:
            descending = request.sort_order == pb.RangeRequest.DESCEND
            found.sort(key=_SORT_BY[request.sort_target], reverse=descending)
        response.more = bool(request.limit) and len(found) > request.limit
        response.kvs.extend(found[: request.limit] if request.limit else found)
        if request.keys_only:
            for kv in response.kvs:
                kv.ClearField("value")
        return response

    def _compare(self, compare: Any) -> bool:
        found = list(self._select(Interval(compare.key, compare.range_end)))
        if not found:
            if compare.target == pb.Compare.VALUE:
                return False  # no compare of an absent key's value holds, not even NOT_EQUAL
            found = [pb.KeyValue()]
        field, holds = _FIELD[compare.target], _HOLDS[compare.result]
        return all(holds(getattr(kv, field), getattr(compare, field)) for kv in found)

    def _path(self, request: Any) -> list[bool]:
        """Decide which branches run, of the transaction and of nested ones, before anything is written."""
        succeeded = all(map(self._compare, request.compare))
        path = [succeeded]
        for op in request.success if succeeded else request.failure:
            if op.HasField("request_txn"):
                path += self._path(op.request_txn)
        return path

    # --- writes, each completed by `_commit` ---

    def _put(self, request: Any) -> None:
        before = self._at(request.key)
        kv = pb.KeyValue(
            key=request.key, value=request.value, lease=request.lease, mod_revision=self.revision + 1,
            create_revision=before.create_revision if before else self.revision + 1,
            version=before.version + 1 if before else 1,
        )  # fmt: skip
        self._detach(before)
        if request.lease:
            self.leases[request.lease].add(request.key)
        self._write(kv)
        self._events.append(pb.Event(type=pb.Event.PUT, kv=kv))

    def _delete(self, request: Any) -> int:
        found = list(self._select(Interval(request.key, request.range_end)))
        for before in found:
            gone = pb.KeyValue(key=before.key, mod_revision=self.revision + 1)
            self._detach(before)
            self._write(gone)
            self._events.append(pb.Event(type=pb.Event.DELETE, kv=gone))
        return len(found)

    def _write(self, kv: Any) -> None:
        versions = self._versions.get(kv.key)
        if versions is None:
            versions = self._versions[kv.key] = []
            bisect.insort(self._names, kv.key)
        versions.append(kv)

    def _detach(self, before: Any | None) -> None:
        if before is not None and before.lease:
            self.leases[before.lease].discard(before.key)

    def _apply(self, request: Any, path: Iterator[bool]) -> Any:
        succeeded = next(path)
        response = pb.TxnResponse(succeeded=succeeded)
        for op in request.success if succeeded else request.failure:
            result = response.responses.add()
            match op.WhichOneof("request"):
                case "request_range":
                    result.response_range.CopyFrom(self._range(op.request_range))
                case "request_put":
                    self._put(op.request_put)
                    result.response_put.header.revision = self.revision + 1
                case "request_delete_range":
                    result.response_delete_range.deleted = self._delete(op.request_delete_range)
                    result.response_delete_range.header.revision = self.revision + bool(self._events)
                case "request_txn":
                    result.response_txn.CopyFrom(self._apply(op.request_txn, path))
                    result.response_txn.header.SetInParent()
        return response

    def _commit(self) -> Any:
        """Make one revision of all writes since the previous commit, if there are any."""
        if self._events:
            self.revision += 1
            events, self._events = tuple(self._events), []
            self.log.append((self.revision, events))
            self.committed(self.revision, events)
        return self.header()

    # --- checks before anything is written ---

    def _check_revision(self, revision: int) -> None:
        if revision > self.revision:
            raise of_the_future()
        if 0 < revision < self.compacted:
            raise compacted()

    def _check_lease(self, request: Any) -> None:
        if request.lease and request.lease not in self.leases:
            raise no_lease()

    def _check_leases_and_revisions(self, request: Any, path: Iterator[bool]) -> None:
        for op in request.success if next(path) else request.failure:
            if op.HasField("request_range"):
                self._check_revision(op.request_range.revision)
            elif op.HasField("request_put"):
                self._check_lease(op.request_put)
            elif op.HasField("request_txn"):
                self._check_leases_and_revisions(op.request_txn, path)


def _check_put(request: Any) -> None:
    if not request.key:
        raise empty_key()
    _refuse_unknown(request, "prev_kv")


def _check_delete(request: Any) -> None:
    if not request.key:
        raise empty_key()
    _refuse_unknown(request, "prev_kv")


def _refuse_unknown(request: Message, *fields: str) -> None:
    for field in fields:
        if getattr(request, field):
            raise NotImplementedError(f"the fake store does not know {field}")


def _check_txn(request: Any, ops_max: int) -> None:
    operations = max(len(request.compare), len(request.success), len(request.failure))
    if operations > ops_max:
        raise Refused(StatusCode.INVALID_ARGUMENT, "etcdserver: too many operations in txn request")
    if not all(compare.key for compare in request.compare):
        raise empty_key()
    for branch in (request.success, request.failure):
        for op in branch:
            _check_op(op, ops_max - operations)
        _check_doubles(branch)


def _check_op(op: Any, ops_left: int) -> None:
    match op.WhichOneof("request"):
        case "request_put":
            _check_put(op.request_put)
        case "request_delete_range":
            _check_delete(op.request_delete_range)
        case "request_range":
            if not op.request_range.key:
                raise empty_key()
        case "request_txn":
            _check_txn(op.request_txn, ops_left)


def _check_doubles(branch: Sequence[Any]) -> None:
    """Refuse a key that is put twice, or put and deleted. (In nested transactions etcd checks more.)"""
    deleted = [
        Interval(op.request_delete_range.key, op.request_delete_range.range_end)
        for op in branch
        if op.HasField("request_delete_range")
    ]
    put = [op.request_put.key for op in branch if op.HasField("request_put")]
    if len(put) != len(set(put)) or any(key in interval for key in put for interval in deleted):
        raise Refused(StatusCode.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request")
