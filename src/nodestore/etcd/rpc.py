"""gRPC to one etcd member: the one module that imports grpc. `session` chooses the member and what to retry.

Every failure of a call or a stream is an `RpcFailed`. Its `Fault` classifies whether the call may have taken effect.
grpc raises CancelledError if a server or a closed channel cancels a call. This module converts it to RpcFailed.
Otherwise the task that made the call would end as if its owner had cancelled it.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from typing import Any, Protocol

from google.protobuf.message import Message

from nodestore.errors import (
    Compacted,
    Denied,
    LeaseLost,
    NodectlError,
    NoSpace,
    TooLarge,
    Unavailable,
)
from nodestore.etcd.pb import etcd_pb2 as pb
from nodestore.etcd.shared_timer import SharedTimer
from nodestore.etcd.types import EtcdSettings
from nodestore.support.tasks import background_task, owned_task
from nodestore.support.tls_errors import explain
from nodestore.support.tls_files import TlsContents, TlsFiles

# grpc reads GRPC_VERBOSITY at its import. By default it writes three lines to stderr for each refused handshake. This
# module reports that error itself. Programs that this one starts must not inherit the variable.
_is_quiet = "GRPC_VERBOSITY" not in os.environ
if _is_quiet:
    os.environ["GRPC_VERBOSITY"] = "NONE"
import grpc  # noqa: E402
from grpc import StatusCode, aio  # noqa: E402

if _is_quiet:
    del os.environ["GRPC_VERBOSITY"]

Metadata = tuple[tuple[str, str], ...]

MESSAGE_BYTES_MAX = 64 << 20  # with grpc's default of 4 MiB, a watch with a large backlog would fail at each resume


def _is_from_closed_loop(record: logging.LogRecord) -> bool:
    """Whether asyncio logs that grpc's poller used a closed event loop, which is harmless.

    grpc has one poller for the process, and a command of nodectl may run several event loops, one after another.
    """
    error = record.exc_info[1] if record.exc_info else None
    return "PollerCompletionQueue" in record.getMessage() and "loop is closed" in str(error)


logging.getLogger("asyncio").addFilter(lambda record: not _is_from_closed_loop(record))

_AHEAD_MAX = 4
"""How many messages of a stream are read before they are received. More wait in grpc, whose windows hold the sender."""
_FORMER_CHANNEL_S = 600.0
"""How long calls may continue on a channel after the certificates were renewed. A backup may take minutes."""

_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_time_ms", 10_000),  # the server refuses pings that are less than 5 s apart
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),  # also the time limit of a connect to a dead host
    ("grpc.max_reconnect_backoff_ms", 1_000),  # with grpc's default, a reconnect after an outage took 7.6 s
    # A name is resolved again a second after its address failed. With grpc's default of 30 s, a PC whose address had
    # changed was missing for as long. Each resolution takes at most 2 s; grpc's default is 120 s.
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
    ("grpc.dns_ares_query_timeout", 2_000),
    ("grpc.service_config_disable_resolution", 1),  # otherwise each resolution also asks for a TXT record
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.enable_retries", 0),  # a hidden retry could apply a write twice
    ("grpc.enable_http_proxy", 0),  # http_proxy in the environment must not apply to etcd
    ("grpc.use_local_subchannel_pool", 1),
)


class Fault(Enum):
    """What a failure implies about the effect of the call."""

    NOT_SENT = "no effect; another member may accept the call"
    AMBIGUOUS = "it may have taken effect, or may do so later"
    UNREADABLE = "it took effect, but the answer is too large to be received"
    TOKEN = "no effect: the token is not valid; a new one may be"  # noqa: S105 - the meaning of a fault
    RIGHTS_CHANGED = "no effect: etcd's users or roles were changed meanwhile; the same call may succeed at once"
    FINAL = "etcd's final answer; a retry would get the same"


class RpcFailed(Exception):
    """A call or stream to `address` failed. `code`: grpc's status code in lower case, or `silent`."""

    def __init__(self, address: str, code: str, details: str, fault: Fault) -> None:
        super().__init__(f"{address}: {code}: {explain(details)}")
        self.code, self.details, self.fault = code, details, fault
        self.member_alive = details.startswith("etcdserver: ")  # the text comes from the member, so it is alive


# Error texts which show that a call was never proposed to raft. _NOT_SENT: the channel had no connection.
# _NOT_PROPOSED: etcd refused the call at an earlier stage, in an interceptor or because a queue was full.
_NOT_SENT = ("failed to connect", "errors resolving", "DNS resolution failed", "Name resolution", "empty address list")
_NOT_PROPOSED = ("etcdserver: no leader", "etcdserver: too many requests", "not supported for learner")
_BAD_TOKEN = ("auth token", "user name is empty")
RIGHTS_CHANGED = "revision of auth store is old"
"""etcd checks the rights for a call twice, and refuses the call if users or roles were changed in between."""
_AMBIGUOUS = (
    StatusCode.UNAVAILABLE,
    StatusCode.DEADLINE_EXCEEDED,
    StatusCode.CANCELLED,
    StatusCode.INTERNAL,
    StatusCode.UNKNOWN,
    StatusCode.ABORTED,
)


def classify_status(code: StatusCode, details: str) -> Fault:
    """The fault for a status of gRPC. It is AMBIGUOUS if the call may have taken effect although it failed."""
    if any(text in details for text in _NOT_PROPOSED):
        return Fault.NOT_SENT
    if "permission denied" in details:
        return Fault.FINAL  # maintenance calls report it with code UNKNOWN
    if code is StatusCode.UNAVAILABLE and details.startswith(_NOT_SENT):
        return Fault.NOT_SENT
    if code is StatusCode.UNIMPLEMENTED:
        return Fault.NOT_SENT  # another server listens at that address
    if RIGHTS_CHANGED in details:
        return Fault.RIGHTS_CHANGED
    if code is StatusCode.UNAUTHENTICATED or any(text in details for text in _BAD_TOKEN):
        return Fault.TOKEN
    if code is StatusCode.RESOURCE_EXHAUSTED and "eceived message larger than max" in details:
        # With the prefix "grpc: ", the member refused a request that is too large: grpc-go writes this prefix. Without
        # it, this client refused an answer that is too large.
        return Fault.FINAL if details.startswith("grpc: ") else Fault.UNREADABLE
    if code is StatusCode.RESOURCE_EXHAUSTED and "trying to send message larger than max" in details:
        return Fault.UNREADABLE
    return Fault.AMBIGUOUS if code in _AMBIGUOUS else Fault.FINAL


def to_nodectl_error(failed: RpcFailed) -> NodectlError:
    """The typed error for a failure that a retry would not change."""
    details = failed.details.removeprefix("etcdserver: ")
    if failed.fault is Fault.RIGHTS_CHANGED:
        return Unavailable(f"etcd: {details}: its users or roles were changed meanwhile")
    if failed.fault is Fault.TOKEN:
        return Denied(f"etcd requires a user and password (--user, --password-file): {details}")
    if "permission denied" in details or failed.code == "permission_denied" or "authentication failed" in details:
        return Denied(f"etcd refuses: {details}")
    if "database space exceeded" in details:
        return NoSpace(
            "etcd's database is full (NOSPACE): it takes no writes and grants no leases until space is freed"
        )
    if "too large" in details or "larger than max" in details or "too many operations" in details:
        return TooLarge(f"etcd: {details}")
    if failed.code == "not_found" and "lease" in details:
        return LeaseLost(f"etcd: {details}")
    if failed.code == "out_of_range" and "compacted" in details:
        return Compacted(0)
    if failed.code == "resource_exhausted":
        return Unavailable(f"etcd: {details}")
    return NodectlError(f"etcd: {failed.code}: {details}")


_UNARY: dict[str, tuple[type[Message], type[Message]]] = {
    "KV/Range": (pb.RangeRequest, pb.RangeResponse),
    "KV/Put": (pb.PutRequest, pb.PutResponse),
    "KV/DeleteRange": (pb.DeleteRangeRequest, pb.DeleteRangeResponse),
    "KV/Txn": (pb.TxnRequest, pb.TxnResponse),
    "KV/Compact": (pb.CompactionRequest, pb.CompactionResponse),
    "Lease/LeaseGrant": (pb.LeaseGrantRequest, pb.LeaseGrantResponse),
    "Lease/LeaseRevoke": (pb.LeaseRevokeRequest, pb.LeaseRevokeResponse),
    "Lease/LeaseTimeToLive": (pb.LeaseTimeToLiveRequest, pb.LeaseTimeToLiveResponse),
    "Cluster/MemberList": (pb.MemberListRequest, pb.MemberListResponse),
    "Cluster/MemberAdd": (pb.MemberAddRequest, pb.MemberAddResponse),
    "Cluster/MemberRemove": (pb.MemberRemoveRequest, pb.MemberRemoveResponse),
    "Cluster/MemberPromote": (pb.MemberPromoteRequest, pb.MemberPromoteResponse),
    "Maintenance/Status": (pb.StatusRequest, pb.StatusResponse),
    "Maintenance/Defragment": (pb.DefragmentRequest, pb.DefragmentResponse),
    "Maintenance/MoveLeader": (pb.MoveLeaderRequest, pb.MoveLeaderResponse),
    "Maintenance/Alarm": (pb.AlarmRequest, pb.AlarmResponse),
    "Auth/Authenticate": (pb.AuthenticateRequest, pb.AuthenticateResponse),
    "Auth/AuthEnable": (pb.AuthEnableRequest, pb.AuthEnableResponse),
    "Auth/AuthDisable": (pb.AuthDisableRequest, pb.AuthDisableResponse),
    "Auth/AuthStatus": (pb.AuthStatusRequest, pb.AuthStatusResponse),
    "Auth/UserAdd": (pb.AuthUserAddRequest, pb.AuthUserAddResponse),
    "Auth/UserGet": (pb.AuthUserGetRequest, pb.AuthUserGetResponse),
    "Auth/UserList": (pb.AuthUserListRequest, pb.AuthUserListResponse),
    "Auth/UserDelete": (pb.AuthUserDeleteRequest, pb.AuthUserDeleteResponse),
    "Auth/UserChangePassword": (pb.AuthUserChangePasswordRequest, pb.AuthUserChangePasswordResponse),
    "Auth/UserGrantRole": (pb.AuthUserGrantRoleRequest, pb.AuthUserGrantRoleResponse),
    "Auth/RoleAdd": (pb.AuthRoleAddRequest, pb.AuthRoleAddResponse),
    "Auth/RoleGet": (pb.AuthRoleGetRequest, pb.AuthRoleGetResponse),
    "Auth/RoleList": (pb.AuthRoleListRequest, pb.AuthRoleListResponse),
    "Auth/RoleDelete": (pb.AuthRoleDeleteRequest, pb.AuthRoleDeleteResponse),
    "Auth/RoleGrantPermission": (pb.AuthRoleGrantPermissionRequest, pb.AuthRoleGrantPermissionResponse),
    "Auth/RoleRevokePermission": (pb.AuthRoleRevokePermissionRequest, pb.AuthRoleRevokePermissionResponse),
}

_STREAM: dict[str, tuple[type[Message], type[Message]]] = {
    "Watch/Watch": (pb.WatchRequest, pb.WatchResponse),
    "Lease/LeaseKeepAlive": (pb.LeaseKeepAliveRequest, pb.LeaseKeepAliveResponse),
}

_DOWNLOAD: dict[str, tuple[type[Message], type[Message]]] = {
    "Maintenance/Snapshot": (pb.SnapshotRequest, pb.SnapshotResponse),
}


def tls_files_of(settings: EtcdSettings) -> TlsFiles:
    """The TLS files of a session with these settings."""
    return TlsFiles(ca=settings.ca, cert=settings.cert, key=settings.key)


def connect_by_grpc(settings: EtcdSettings, *, answer_bytes_max: int = MESSAGE_BYTES_MAX) -> Connect:
    """Connects to members by gRPC, the default of a session. Invalid if a certificate cannot be read.

    answer_bytes_max: larger answers are refused, with Fault.UNREADABLE.
    """
    contents = tls_files_of(settings).read() if settings.ca is not None else None
    return lambda address: GrpcConnection(address, contents, answer_bytes_max)


def _cancellations() -> int:
    """How often the current task has been cancelled.

    If a CancelledError is caught and this number has not grown since the call began, the error came from grpc. The
    number is above zero in a task that cleans up after its cancellation.
    """
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


class Duplex(Protocol):
    """What the session needs of a stream to a member. `RpcStream` implements it, and so do fakes in tests."""

    async def send(self, message: Message, timeout_s: float) -> None: ...

    async def receive(self, timeout_s: float) -> Any | None: ...

    def wake_reader(self) -> None: ...

    async def close(self) -> None: ...


class Connection(Protocol):
    """What the session needs of a connection to a member: `GrpcConnection`, or a fake. Every fault is RpcFailed."""

    @property
    def address(self) -> str: ...

    async def call(self, method: str, request: Message, timeout_s: float, metadata: Metadata) -> Any: ...

    def open(self, method: str, metadata: Metadata) -> Duplex: ...

    async def close(self) -> None: ...


Connect = Callable[[str], Connection]
"""Returns a connection to the member at an address. The connection is established at its first use."""


class RpcStream:
    """A bidirectional stream to one member. Every fault is RpcFailed. `close()` it after a fault too."""

    def __init__(self, address: str, call: Any) -> None:
        self._address, self._call = address, call
        self._reading: asyncio.Task[None] | None = None
        """Reads ahead, from the first `receive` until the stream ends. A task for each message costs 20 us of CPU time
        more, a tenth of what a message costs in all."""
        self._messages: deque[Any] = deque()
        self._room = asyncio.Event()
        self._wake_requested = False
        self._waiting: asyncio.Future[None] | None = None
        """What a pending `receive` waits for: a message, the end of the stream, its timeout, or `wake_reader`."""
        self._timer = SharedTimer()

    async def send(self, message: Message, timeout_s: float) -> None:
        """Send one message; return once grpc has accepted it. Only one caller may send at a time."""
        cancellations = _cancellations()
        try:
            async with asyncio.timeout(timeout_s):  # wait_for() may swallow a cancellation before Python 3.12
                await self._call.write(message)
        except TimeoutError:
            raise RpcFailed(
                self._address, "silent", f"accepted no message for {timeout_s:g} s", Fault.AMBIGUOUS
            ) from None
        except asyncio.CancelledError:
            if _cancellations() > cancellations:
                raise
            raise await self._end_status() from None
        except (aio.AioRpcError, asyncio.InvalidStateError, aio.UsageError):
            raise await self._end_status() from None

    async def receive(self, timeout_s: float) -> Any | None:
        """The next message. None if none arrived in time, or after `wake_reader`."""
        if self._reading is None:
            self._reading = owned_task(self._read_ahead())
            self._reading.add_done_callback(self._end_wait)
        if not self._messages and not self._reading.done() and not self._wake_requested:
            await self._wait(timeout_s)
        self._wake_requested = False
        if self._messages:
            self._room.set()
            return self._messages.popleft()
        if not self._reading.done():
            return None
        if not self._reading.cancelled():
            self._reading.exception()  # `_end_status` has the reason
        raise await self._end_status()

    def wake_reader(self) -> None:
        """Make the pending `receive`, or else the next one, return None at once."""
        self._wake_requested = True
        self._end_wait()

    async def _wait(self, timeout_s: float) -> None:
        self._waiting = asyncio.get_running_loop().create_future()
        timeout = self._timer.call_later(timeout_s, self._end_wait)
        try:
            await self._waiting
        finally:
            timeout.cancel()
            self._waiting = None

    def _end_wait(self, ended: object = None) -> None:
        """End the wait of a pending `receive`. ended: unused."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def close(self) -> None:
        """Cancel the stream; return once it has no task left in this event loop."""
        self._timer.cancel()
        self._call.cancel()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait((self._reading,))
            if not self._reading.cancelled():
                self._reading.exception()  # retrieved, or asyncio would log it as never retrieved

    async def _read_ahead(self) -> None:
        """Read messages until the stream ends; at most _AHEAD_MAX that were not received yet."""
        # If read() is cancelled before the server's headers arrive, it swallows the cancellation and never returns. So
        # wait for the headers first.
        await self._call.initial_metadata()
        while (message := await self._call.read()) is not aio.EOF:
            self._messages.append(message)
            self._end_wait()
            while len(self._messages) >= _AHEAD_MAX:
                self._room.clear()
                await self._room.wait()

    async def _end_status(self) -> RpcFailed:
        """The status with which the stream ended. The error of a failed write does not contain it."""
        if not self._call.done():
            self._call.cancel()
        code, details = await self._call.code(), (await self._call.details()) or ""
        return RpcFailed(self._address, code.name.lower(), details, classify_status(code, details))


class GrpcConnection:
    """A gRPC channel to one member. It connects at its first use, and again after every fault.

    `tls`: the certificates; None for plain TCP.
    """

    def __init__(self, address: str, tls: TlsContents | None, answer_bytes_max: int = MESSAGE_BYTES_MAX) -> None:
        self.address = address
        self._options = (*_OPTIONS, ("grpc.max_receive_message_length", answer_bytes_max))
        self._former: set[asyncio.Task[None]] = set()
        self._metadata: tuple[Metadata, aio.Metadata] = (), aio.Metadata()
        """The metadata of the last call, and as grpc's type, which it would otherwise make anew for each call."""
        self._open_channel(tls)

    def renew(self, tls: TlsContents) -> None:
        """Use these certificates from now on. Calls in progress end on the former channel; streams must be reopened."""
        closing = background_task(self._channel.close(_FORMER_CHANNEL_S), name=f"former channel to {self.address}")
        self._former.add(closing)
        closing.add_done_callback(self._former.discard)
        self._open_channel(tls)

    def _open_channel(self, tls: TlsContents | None) -> None:
        if tls is None:
            self._channel = aio.insecure_channel(self.address, options=self._options)
        else:
            credentials = grpc.ssl_channel_credentials(tls.ca, tls.key, tls.cert)
            self._channel = aio.secure_channel(self.address, credentials, options=self._options)
        self._unary = {
            method: self._stub(self._channel.unary_unary, method, *kinds) for method, kinds in _UNARY.items()
        }
        self._stream = {
            method: self._stub(self._channel.stream_stream, method, *kinds) for method, kinds in _STREAM.items()
        }
        self._download = {
            method: self._stub(self._channel.unary_stream, method, *kinds) for method, kinds in _DOWNLOAD.items()
        }

    @staticmethod
    def _stub(kind: Any, method: str, request: Any, response: Any) -> Callable[..., Any]:
        stub: Callable[..., Any] = kind(
            f"/etcdserverpb.{method}",
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )
        return stub

    async def call(self, method: str, request: Message, timeout_s: float, metadata: Metadata) -> Any:
        """Call a unary method once."""
        cancellations = _cancellations()
        try:
            return await self._unary[method](request, timeout=timeout_s, metadata=self._grpc_metadata(metadata))
        except aio.AioRpcError as error:
            code, details = error.code(), error.details() or ""
            raise RpcFailed(self.address, code.name.lower(), details, classify_status(code, details)) from None
        except asyncio.CancelledError:
            if _cancellations() > cancellations:
                raise
            raise RpcFailed(self.address, "cancelled", "the channel was closed", Fault.AMBIGUOUS) from None

    def _grpc_metadata(self, metadata: Metadata) -> aio.Metadata:
        if metadata != self._metadata[0]:
            self._metadata = metadata, aio.Metadata(*metadata)
        return self._metadata[1]

    def open(self, method: str, metadata: Metadata) -> RpcStream:
        """A new bidirectional stream. If the member refuses it, its first use fails."""
        return RpcStream(self.address, self._stream[method](metadata=metadata))

    def download(self, method: str, request: Message, metadata: Metadata) -> RpcStream:
        """A stream of the answers to one request. Its regular end is an RpcFailed with code `ok`."""
        return RpcStream(self.address, self._download[method](request, metadata=metadata))

    async def close(self) -> None:
        for closing in (former := tuple(self._former)):
            closing.cancel()
        await asyncio.gather(*former, return_exceptions=True)
        with suppress(aio.UsageError):  # it was closed before
            await self._channel.close()
