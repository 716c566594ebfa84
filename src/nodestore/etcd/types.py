"""Types of the session: settings, keys, results, members, and the compares and operations of a transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, overload

from nodestore.errors import Invalid
from nodestore.etcd.pb import etcd_pb2 as pb
from nodestore.support.values import check_credentials, parse_address


@dataclass(frozen=True, kw_only=True)
class EtcdSettings:
    """Endpoints and credentials of a session. The member on the same PC comes first in `endpoints`.

    Raises Invalid if there is no endpoint, or if settings contradict each other.
    """

    endpoints: tuple[str, ...]
    endpoints_file: Path | None = None
    """The file of `endpoints`: a session follows its changes. `endpoints` are those at the start."""
    user: str | None = None
    password: str | None = None
    password_file: Path | None = None
    """The file of the password, which is read again at each login. `password` is the password at the start."""
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    call_timeout_s: float = 2.0
    attempt_timeout_s: float = 1.0
    hedge_delays_s: tuple[float, ...] = (0.15, 0.3, 0.6)
    """Pauses between the copies of a repeatable transaction, in seconds. Each copy goes to another member.

    Each is longer than a commit takes on a busy PC, and far shorter than the timeout of a call to a dead member.
    """

    def __post_init__(self) -> None:
        if not self.endpoints:
            raise Invalid("no etcd endpoint given: name at least one host:port")
        check_credentials(cert=self.cert, key=self.key, has_ca=self.ca is not None)
        for endpoint in self.endpoints:
            _check_scheme(endpoint, tls=self.ca is not None)
        object.__setattr__(self, "endpoints", tuple(dict.fromkeys(map(host_port, self.endpoints))))


def _check_scheme(endpoint: str, *, tls: bool) -> None:
    """Raise Invalid if the scheme of `endpoint` contradicts `tls`.

    Only the CA decides whether TLS is used. If a wrong scheme were ignored, passwords could go over plain TCP.
    """
    scheme = endpoint.partition("://")[0].lower() if "://" in endpoint else ""
    if scheme == "https" and not tls:
        raise Invalid(
            f"etcd endpoint {endpoint!r} requires TLS, but no certificate authority is given: name the file of the "
            "authority that signed the members' certificates (--ca)"
        )
    if scheme == "http" and tls:
        raise Invalid(f"etcd endpoint {endpoint!r} means plain TCP, but a certificate authority (--ca) is given: "
                      "write https:// or HOST:PORT, or omit --ca")  # fmt: skip


def host_port(endpoint: str) -> str:
    """The `host:port` of an endpoint, which may have the scheme http or https. Raises Invalid for any other form."""
    return str(parse_address(endpoint, schemes=("http", "https")))


class RetryPolicy(Enum):
    """Whether a call may be sent again after a fault."""

    FREELY = "a second copy is harmless: retry after any fault"
    GUARDED = (
        "compares make a second copy a no-op: retry; OutcomeUnknown if a copy may have had effect and none succeeds"
    )
    NEVER = "a second copy could do harm: OutcomeUnknown at the first fault after which the call may have had effect"


@dataclass(frozen=True, slots=True)
class KV:
    """A key with its value and etcd's metadata."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int


@dataclass(frozen=True, slots=True)
class Range:
    """The keys of a read as of `revision`, sorted by name."""

    revision: int
    kvs: tuple[KV, ...]
    has_more: bool
    count: int
    next_start: bytes = b""
    """The key at which the next page starts. It is in bytes, because in `kvs` a key that is not UTF-8 is inexact."""

    @property
    def first(self) -> KV | None:
        return self.kvs[0] if self.kvs else None


@dataclass(frozen=True, slots=True)
class Reading:
    """A key as a linearizable read found it, with the id of the etcd cluster that answered and its revision."""

    cluster_id: str
    revision: int
    kv: KV | None


@dataclass(frozen=True, slots=True)
class WriteResult:
    """The result of a put (`count` is 1) or a delete (`count` is the number of deleted keys)."""

    count: int


@dataclass(frozen=True, slots=True)
class TxnResult:
    """The branch of a transaction that ran, its revision, and one result for each operation."""

    succeeded: bool
    revision: int
    results: Sequence[Range | WriteResult]
    cluster_id: str = ""
    """The id of the etcd cluster that answered, in hexadecimal digits."""

    def range(self, position: int) -> Range:
        """The result of the read at `position` in the branch that ran. TypeError if that operation is a write."""
        result = self.results[position]
        if not isinstance(result, Range):
            raise TypeError(f"operation {position} of the transaction is not a read")
        return result


@dataclass(frozen=True, slots=True)
class Member:
    """A member of the etcd cluster, from its member list."""

    id: int
    name: str
    client_urls: tuple[str, ...]
    peer_urls: tuple[str, ...]
    learner: bool


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """The status of one member. `leader` is the id of etcd's leader; 0 if this member knows of none."""

    member: int
    leader: int
    version: str
    db_bytes: int
    db_in_use_bytes: int
    raft_term: int
    raft_index: int
    revision: int
    errors: tuple[str, ...]
    quota_bytes: int = 0
    """The size at which etcd raises the NOSPACE alarm; 0 if the member does not report it (before 3.6)."""


# --- compares and operations ----------------------------------------------------------------------------------------

Compare = pb.Compare
Op = pb.RequestOp


def cmp_mod(key: str, revision: int) -> Compare:
    """Compare: `key` was last written at `revision`; 0: it is absent."""
    return pb.Compare(key=key.encode(), target=pb.Compare.MOD, result=pb.Compare.EQUAL, mod_revision=revision)


def cmp_create(key: str, revision: int) -> Compare:
    """Compare: `key` was created at `revision`; 0: it is absent."""
    return pb.Compare(key=key.encode(), target=pb.Compare.CREATE, result=pb.Compare.EQUAL, create_revision=revision)


def cmp_exists(key: str) -> Compare:
    """Compare: `key` exists."""
    return pb.Compare(key=key.encode(), target=pb.Compare.CREATE, result=pb.Compare.GREATER, create_revision=0)


def cmp_empty_range(start: str, end: bytes) -> Compare:
    """Compare: there is no key from `start` up to, not including, `end`."""
    return pb.Compare(
        key=start.encode(), range_end=end, target=pb.Compare.CREATE, result=pb.Compare.EQUAL, create_revision=0
    )


def cmp_value(key: str, value: bytes) -> Compare:
    return pb.Compare(key=key.encode(), target=pb.Compare.VALUE, result=pb.Compare.EQUAL, value=value)


def cmp_lease(key: str, lease: int) -> Compare:
    return pb.Compare(key=key.encode(), target=pb.Compare.LEASE, result=pb.Compare.EQUAL, lease=lease)


def op_put(key: str, value: bytes, *, lease: int = 0) -> Op:
    op = pb.RequestOp()  # filled in place: a message that is passed to the constructor is copied
    put = op.request_put
    put.key, put.value, put.lease = key.encode(), value, lease
    return op


def op_get(key: str) -> Op:
    return pb.RequestOp(request_range=pb.RangeRequest(key=key.encode()))


def op_range(start: str, end: bytes, *, limit: int = 0) -> Op:
    """Read the keys from `start` up to, not including, `end`; at most `limit` of them (0: all)."""
    # No sort order is requested: with one, even the natural one, etcd loads the whole range before it applies `limit`.
    return pb.RequestOp(request_range=pb.RangeRequest(key=start.encode(), range_end=end, limit=limit))


def op_delete(key: str, *, end: bytes = b"") -> Op:
    return pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key.encode(), range_end=end))


# --- from the wire --------------------------------------------------------------------------------------------------


def kv_from_pb(item: Any) -> KV:
    """The KV of a KeyValue message. In a key that is not UTF-8, U+FFFD replaces the bytes that cannot be decoded."""
    return KV(
        item.key.decode("utf-8", "replace"),
        item.value,
        item.create_revision,
        item.mod_revision,
        item.version,
        item.lease,
    )


def range_from_pb(response: Any) -> Range:
    kvs = response.kvs
    return Range(
        response.header.revision,
        tuple(kv_from_pb(item) for item in kvs),
        response.more,
        response.count,
        kvs[-1].key + b"\0" if kvs else b"",
    )


def result_from_pb(item: Any) -> Range | WriteResult:
    """The result of one operation of a transaction."""
    kind = item.WhichOneof("response")
    if kind == "response_range":
        return range_from_pb(item.response_range)
    return WriteResult(item.response_delete_range.deleted if kind == "response_delete_range" else 1)


class LazyResults(Sequence[Range | WriteResult]):
    """The results of a transaction's operations, each converted when it is read. A commit that succeeds reads none."""

    def __init__(self, responses: Sequence[Any]) -> None:
        self._responses = responses

    def __len__(self) -> int:
        return len(self._responses)

    def __eq__(self, other: object) -> bool:
        return tuple(self) == (tuple(other) if isinstance(other, LazyResults) else other)

    __hash__ = None  # type: ignore[assignment]

    @overload
    def __getitem__(self, position: int) -> Range | WriteResult: ...

    @overload
    def __getitem__(self, position: slice) -> tuple[Range | WriteResult, ...]: ...

    def __getitem__(self, position: int | slice) -> Range | WriteResult | tuple[Range | WriteResult, ...]:
        if isinstance(position, slice):
            return tuple(map(result_from_pb, self._responses[position]))
        return result_from_pb(self._responses[position])


def status_from_pb(response: Any) -> MemberStatus:
    return MemberStatus(
        member=response.header.member_id,
        leader=response.leader,
        version=response.version,
        db_bytes=response.dbSize,
        db_in_use_bytes=response.dbSizeInUse,
        raft_term=response.raftTerm,
        raft_index=response.raftIndex,
        revision=response.header.revision,
        errors=tuple(response.errors),
        quota_bytes=response.dbSizeQuota,
    )
