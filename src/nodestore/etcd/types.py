"""What the session takes and gives: settings, keys, results, members; and the compares and operations of a txn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nodestore.errors import Invalid
from nodestore.etcd.pb import etcd_pb2 as pb
from nodestore.support.values import check_credentials, parse_address


@dataclass(frozen=True)
class EtcdSettings:
    """Where the members are and who we are. The own PC's member comes first."""

    endpoints: tuple[str, ...]
    user: str | None = None
    password: str | None = None
    password_file: Path | None = None
    """Read again at each login: `password` is what was in it at the start."""
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    call_timeout_s: float = 2.0
    attempt_timeout_s: float = 1.0

    def __post_init__(self) -> None:
        if not self.endpoints:
            raise Invalid("no etcd endpoint given: name at least one host:port")
        check_credentials(cert=self.cert, key=self.key, has_ca=self.ca is not None)
        for endpoint in self.endpoints:
            _check_scheme(endpoint, tls=self.ca is not None)
        object.__setattr__(self, "endpoints", tuple(dict.fromkeys(map(host_port, self.endpoints))))


def _check_scheme(endpoint: str, *, tls: bool) -> None:
    """Whether there is TLS is said by the CA alone. A scheme that says otherwise is a mistake, and it must not end in
    passwords over plain TCP."""
    scheme = endpoint.partition("://")[0].lower() if "://" in endpoint else ""
    if scheme == "https" and not tls:
        raise Invalid(
            f"etcd endpoint {endpoint!r} asks for TLS, which needs the authority that signed the members' "
            "certificates: give its file (--ca)"
        )
    if scheme == "http" and tls:
        raise Invalid(f"etcd endpoint {endpoint!r} says plain TCP, but a certificate authority (--ca) is given: "
                      "write https:// or HOST:PORT, or leave the authority out")  # fmt: skip


def host_port(endpoint: str) -> str:
    """`host:port` of an etcd member, without its scheme (http or https). Raises Invalid when it is not that."""
    return str(parse_address(endpoint, schemes=("http", "https")))


@dataclass(frozen=True, slots=True)
class KV:
    """One key as a range or an event shows it."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int


@dataclass(frozen=True, slots=True)
class Range:
    """Keys as of `revision`, in the order of their names."""

    revision: int
    kvs: tuple[KV, ...]
    has_more: bool
    count: int
    next_start: bytes = b""
    """Where the next page begins, byte by byte: a key that is not UTF-8 is only readable in `kvs`, not exact."""

    @property
    def first(self) -> KV | None:
        return self.kvs[0] if self.kvs else None


@dataclass(frozen=True, slots=True)
class WriteResult:
    """A put (`count` 1) or a delete (`count` of keys deleted)."""

    count: int


@dataclass(frozen=True, slots=True)
class TxnResult:
    """Which branch ran, at which revision, and its results, one for each operation."""

    succeeded: bool
    revision: int
    results: tuple[Range | WriteResult, ...]

    def range(self, position: int) -> Range:
        """The result of a read at `position` in the branch that ran."""
        result = self.results[position]
        if not isinstance(result, Range):
            raise TypeError(f"operation {position} of the transaction was no read")
        return result


@dataclass(frozen=True, slots=True)
class Member:
    """A member of the etcd cluster as the cluster lists it."""

    id: int
    name: str
    client_urls: tuple[str, ...]
    peer_urls: tuple[str, ...]
    learner: bool


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """What one member says of itself. `leader` is a member id, 0 when it knows none."""

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
    """What `db_bytes` must not reach; 0 where the member does not say (before 3.6)."""


# --- compares and operations ----------------------------------------------------------------------------------------

Compare = pb.Compare
Op = pb.RequestOp


def cmp_mod(key: str, revision: int) -> Compare:
    """`key` was last written at `revision`; 0: it is absent."""
    return pb.Compare(key=key.encode(), target=pb.Compare.MOD, result=pb.Compare.EQUAL, mod_revision=revision)


def cmp_create(key: str, revision: int) -> Compare:
    """`key` was created at `revision`; 0: it is absent."""
    return pb.Compare(key=key.encode(), target=pb.Compare.CREATE, result=pb.Compare.EQUAL, create_revision=revision)


def cmp_empty_range(start: str, end: bytes) -> Compare:
    """There is no key from `start` up to, not including, `end`."""
    return pb.Compare(
        key=start.encode(), range_end=end, target=pb.Compare.CREATE, result=pb.Compare.EQUAL, create_revision=0
    )


def cmp_value(key: str, value: bytes) -> Compare:
    return pb.Compare(key=key.encode(), target=pb.Compare.VALUE, result=pb.Compare.EQUAL, value=value)


def cmp_lease(key: str, lease: int) -> Compare:
    return pb.Compare(key=key.encode(), target=pb.Compare.LEASE, result=pb.Compare.EQUAL, lease=lease)


def op_put(key: str, value: bytes, *, lease: int = 0) -> Op:
    return pb.RequestOp(request_put=pb.PutRequest(key=key.encode(), value=value, lease=lease))


def op_get(key: str) -> Op:
    return pb.RequestOp(request_range=pb.RangeRequest(key=key.encode()))


def op_range(start: str, end: bytes, *, limit: int = 0) -> Op:
    """Keys from `start` up to, not including, `end`. No sort order is asked for: with one, even the natural one,
    the server loads the whole range before it cuts off at `limit`."""
    return pb.RequestOp(request_range=pb.RangeRequest(key=start.encode(), range_end=end, limit=limit))


def op_delete(key: str, *, end: bytes = b"") -> Op:
    return pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key.encode(), range_end=end))


# --- from the wire --------------------------------------------------------------------------------------------------


def kv_from_pb(item: Any) -> KV:
    """A KeyValue of the wire. A key that is not UTF-8 is none of ours: its bytes are shown as replacement signs."""
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
