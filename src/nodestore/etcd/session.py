"""The session with etcd: chooses a member for each call, and handles deadlines, tokens and retries.

Calls go to the endpoint in use until it fails, hangs or is partitioned, then to the next. Every call has a deadline.
Two errors distinguish a call without effect from one that may have taken effect:

- `Unavailable`: the call had no effect. It was never sent, or was refused before it was proposed to raft. Only
  the grant and the revocation of a lease may have taken effect nevertheless, which is harmless.
- `OutcomeUnknown`: the write may take effect now or at any later time. The session never repeats it, unless the caller
  declares that its compares make a second copy harmless (`repeatable`). A write that ended with its subclass
  `NoSpaceUnknown` has either taken effect already or never will.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, NoReturn, Self

from google.protobuf.message import Message

from nodestore.errors import (
    Denied,
    Invalid,
    LeaseLost,
    NodectlError,
    NoSpace,
    NoSpaceUnknown,
    OutcomeUnknown,
    TooLarge,
    Unavailable,
)
from nodestore.etcd.certificates import CertificateWatch
from nodestore.etcd.endpoints_file import follow_endpoints
from nodestore.etcd.hedging import EXTRA_COPY_PAUSES_S, first_answer
from nodestore.etcd.login import Login
from nodestore.etcd.member_certificates import member_certificate_warnings
from nodestore.etcd.pb import etcd_pb2 as pb
from nodestore.etcd.rpc import (
    Connect,
    Connection,
    Fault,
    GrpcConnection,
    Metadata,
    RpcFailed,
    RpcStream,
    connect_by_grpc,
    tls_files_of,
    to_nodectl_error,
)
from nodestore.etcd.shared_timer import SharedTimer
from nodestore.etcd.stream import BrokenStream, Stream
from nodestore.etcd.types import (
    KV,
    Compare,
    EtcdSettings,
    LazyResults,
    Member,
    MemberStatus,
    Op,
    Range,
    Reading,
    RetryPolicy,
    TxnResult,
    WriteResult,
    cmp_create,
    cmp_exists,
    cmp_lease,
    cmp_mod,
    cmp_value,
    host_port,
    kv_from_pb,
    op_delete,
    op_get,
    op_put,
    op_range,
    range_from_pb,
)
from nodestore.schema.keys import prefix_end
from nodestore.support.tasks import background_task
from nodestore.support.tls_files import TlsContents

__all__ = [
    "KV", "BrokenStream", "Compare", "Etcd", "EtcdSettings", "Member", "MemberStatus", "Op", "Range", "Stream",
    "TxnResult", "WriteResult", "cmp_create", "cmp_exists", "cmp_lease", "cmp_mod", "cmp_value", "kv_from_pb",
    "op_delete", "op_get", "op_put", "op_range",
]  # fmt: skip

log = logging.getLogger(__name__)

_ROUND_PAUSE_S = 0.05
_RIGHTS_PAUSE_S = 0.01
_NEW_TOKEN_HELPS = (Fault.TOKEN, Fault.RIGHTS_CHANGED)
_RECENT_FAILURE_S = 3.0
_TOKENS_MAX = 3  # tokens that etcd may refuse in a row within one call
_REQUIRE_LEADER = (("hasleader", "true"),)


class Etcd:
    """A session with the etcd cluster. Use one in each process and event loop: `async with Etcd(settings) as etcd`.

    `connect`: returns the connection to a member's address; gRPC by default. Tests connect to a store in memory.
    """

    def __init__(self, settings: EtcdSettings, *, connect: Connect | None = None) -> None:
        self.settings = settings
        self._certificates = (
            CertificateWatch(
                tls_files_of(settings), self._renew_connections, lambda: member_certificate_warnings(settings)
            )
            if settings.ca
            else None
        )
        self._certificate_check: asyncio.Task[NoReturn] | None = None
        self._given_connect = connect
        connect = connect or connect_by_grpc(settings)
        self._endpoints = [connect(address) for address in settings.endpoints]
        self._endpoints_check: asyncio.Task[NoReturn] | None = None
        self._former: dict[Connection, asyncio.Task[None]] = {}
        """Endpoints that are not used any more, and the tasks that close them."""
        self._current = 0
        self._last_failure_at: dict[str, float] = {}  # by endpoint, on the monotonic clock
        self._timer = SharedTimer()
        self._streams: set[Stream] = set()
        self._last_answering: Connection | None = None
        self._closed = False
        self.watch_restarts = 0
        """How often `restart_watches` was called."""
        self._login = Login(settings)
        self._token: str | None = None  # "" while authentication is disabled in etcd
        self._login_lock = asyncio.Lock()

    async def __aenter__(self) -> Self:
        if self._certificates is not None:
            self._certificate_check = background_task(
                self._certificates.run(), name="certificates of etcd", eternal=True
            )
        if self.settings.endpoints_file is not None:
            following = follow_endpoints(self.settings.endpoints_file, self.use_endpoints)
            self._endpoints_check = background_task(following, name="file of endpoints", eternal=True)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End all calls and streams. Later calls raise NodectlError."""
        self._closed = True
        for check in (self._certificate_check, self._endpoints_check):
            if check is not None:
                check.cancel()
                await asyncio.wait((check,))
        for closing in (former := dict(self._former)).values():
            closing.cancel()
        await asyncio.gather(*former.values(), return_exceptions=True)
        await asyncio.gather(*(endpoint.close() for endpoint in (*self._endpoints, *former)))
        self._timer.cancel()

    def reread_files(self) -> None:
        """Read the certificates and, at the next call that needs it, the password again, although no file changed."""
        self._login.retry_at_once()
        if self._certificates is not None:
            self._certificates.check(reread=True)

    @property
    def certificate_warning(self) -> str | None:
        """That a certificate of this session has ended, or ends within 14 days; None if none does."""
        return self._certificates.warning if self._certificates is not None else None

    def _renew_connections(self, contents: TlsContents) -> None:
        """Replace the channels, so that every member is reached with the renewed certificates from now on."""
        for endpoint in self._endpoints:
            if isinstance(endpoint, GrpcConnection):
                endpoint.renew(contents)
        for stream in tuple(self._streams):
            stream.request_reopening()

    def use_endpoints(self, addresses: Sequence[str]) -> None:
        """Use these members from now on. Calls in progress at another one end there; streams are opened anew.

        Raises Invalid if there is none, or if a certificate cannot be read; then nothing has changed.
        """
        settings = replace(self.settings, endpoints=tuple(addresses))
        if settings.endpoints == self.settings.endpoints:
            return
        connect = self._given_connect or connect_by_grpc(settings)  # with the certificates as they are now
        former = {endpoint.address: endpoint for endpoint in self._endpoints}
        in_use = self.endpoint
        self._endpoints = [
            former.pop(address) if address in former else connect(address) for address in settings.endpoints
        ]
        self._current = settings.endpoints.index(in_use) if in_use in settings.endpoints else 0
        self.settings = settings
        log.info("etcd: the endpoints are %s", ", ".join(settings.endpoints))
        for stream in tuple(self._streams):
            if stream.address in former:
                stream.request_reopening()
        for endpoint in former.values():
            self._close_later(endpoint)

    def _close_later(self, endpoint: Connection) -> None:
        async def close() -> None:
            await asyncio.sleep(self.settings.call_timeout_s)  # for the calls in progress
            await endpoint.close()

        closing = background_task(close(), name=f"former endpoint {endpoint.address}")
        self._former[endpoint] = closing
        closing.add_done_callback(lambda _: self._former.pop(endpoint, None))

    @property
    def endpoint(self) -> str:
        """The address of the endpoint in use."""
        return self._endpoints[self._current].address

    def switch_endpoint(self, endpoint: Connection, *, member_alive: bool = False) -> None:
        """Switch to the next endpoint, unless a concurrent caller already left `endpoint`. Also probe its open streams.

        `member_alive`: the member itself reported the fault; then its streams are not probed.
        """
        # Streams need a probe: if a member died with its PC, its connections stay open for seconds.
        if not member_alive:
            self._last_failure_at[endpoint.address] = time.monotonic()
        if self._endpoints[self._current] is endpoint and len(self._endpoints) > 1:
            self._current = self._endpoints.index(self._other_endpoints()[0])
        for stream in () if member_alive else tuple(self._streams):
            if stream.address == endpoint.address:
                stream.request_probe()

    def probe_streams(self) -> None:
        """Probe all open streams. Call it if a PC, and with it a member, may be dead."""
        for stream in tuple(self._streams):
            stream.request_probe()

    def restart_watches(self) -> None:
        """Make every watch list its keys anew, because the store is not the one that they began in.

        A watch waits for a revision. In a store whose revision went back, it would wait for events in vain.
        """
        self.watch_restarts += 1
        self.probe_streams()

    def remove_stream(self, stream: Stream) -> None:
        """Stop probing a closed stream."""
        self._streams.discard(stream)

    def _other_endpoints(self) -> list[Connection]:
        """The endpoints after the one in use, in ring order. Recently failed ones come last, in order of failure."""
        size, recent_since = len(self._endpoints), time.monotonic() - _RECENT_FAILURE_S
        following = [self._endpoints[(self._current + step) % size] for step in range(1, size)]

        def failed_at(endpoint: Connection) -> float:
            return max(self._last_failure_at.get(endpoint.address, recent_since), recent_since)

        return sorted(following, key=failed_at)

    def switch_from_address(self, address: str) -> None:
        """Leave the member at `address`, which will soon stop answering. Invalid if it is not an endpoint."""
        self.switch_endpoint(self._endpoint_at(address))

    # --- authentication ---

    @property
    def refusal(self) -> str | None:
        """Why etcd now refuses this session, having accepted it before; None if it does not."""
        return self._login.refusal

    def record_refusal(self, error: NodectlError) -> NodectlError:
        """The error to raise after a refusal: Unavailable if etcd accepted this session before, else `error`."""
        return self._login.record_refusal(error)

    def discard_token(self, token: str | None) -> None:
        """Drop `token`, which etcd refused, so that the next call logs in. No-op if it was replaced already."""
        if self._token == token:
            self._token = None

    async def _ensure_token(self, timeout_s: float) -> None:
        """Log in if there is no token. Concurrent callers share one login.

        Denied if etcd refuses the first login. Unavailable if it refuses a later one, or does not answer in time.
        """
        if self.settings.user is None or self._token is not None:
            return
        try:
            async with asyncio.timeout(timeout_s), self._login_lock:
                if self._token is None:
                    self._login.raise_if_too_early()
                    self._token = await self._authenticate(self.settings.user, timeout_s)
                    self._login.record_token()
        except TimeoutError:
            raise Unavailable(f"etcd issued no token within {timeout_s:g} s") from None

    async def _authenticate(self, user: str, timeout_s: float) -> str:
        request = pb.AuthenticateRequest(name=user, password=self._login.password())
        try:
            response = await self._unary(
                "Auth/Authenticate", request, RetryPolicy.FREELY, timeout_s=timeout_s, with_token=False
            )
        except Unavailable:
            raise
        except NodectlError as error:
            if "authentication is not enabled" in str(error):
                return ""
            self._check_open()
            # A partitioned member may know only the old password.
            self.switch_endpoint(self._endpoints[self._current], member_alive=True)
            raise self.record_refusal(error) from None
        return str(response.token)

    def _metadata(self, base: Metadata = (), *, with_token: bool = True) -> Metadata:
        return (*base, ("token", self._token)) if self._token and with_token else base

    # --- calls ---

    async def _unary(
        self,
        method: str,
        request: Message,
        retry: RetryPolicy,
        *,
        timeout_s: float | None = None,
        with_token: bool = True,
        needs_leader: bool = True,
        endpoint_offset: int = 0,
    ) -> Any:
        """Send one call, to as many endpoints in turn as the deadline allows.

        `endpoint_offset`: the first attempt goes to the endpoint that `_ranked_endpoint` returns for this position.
        """
        self._check_open()
        budget_s = self.settings.call_timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + budget_s
        attempt_s = budget_s if retry is RetryPolicy.NEVER else max(self.settings.attempt_timeout_s, budget_s / 3)
        attempts, tokens, open_outcome, last = 0, 0, False, "no attempt was made"
        base = _REQUIRE_LEADER if needs_leader else ()
        try:
            while (left_s := deadline - time.monotonic()) > 0:
                if with_token and self._token is None and self.settings.user is not None:
                    last = "the login took too long"
                    await self._ensure_token(left_s)
                    continue
                endpoint = self._ranked_endpoint(0 if attempts else endpoint_offset)
                token = self._token
                attempts += 1
                try:
                    response = await endpoint.call(
                        method, request, min(left_s, attempt_s), self._metadata(base, with_token=with_token)
                    )
                except RpcFailed as failed:
                    last = str(failed)
                    self._check_open()
                    if failed.fault is Fault.RIGHTS_CHANGED and self.settings.user is None:
                        await asyncio.sleep(min(_RIGHTS_PAUSE_S, max(0.0, deadline - time.monotonic())))
                        continue
                    # A token may hold the revision of the rights at which it was issued, and is then outdated for good.
                    if failed.fault in _NEW_TOKEN_HELPS and with_token and self.settings.user is not None:
                        self.discard_token(token)
                        tokens += 1
                        if tokens > _TOKENS_MAX:
                            raise self.record_refusal(Denied(f"etcd refuses every new token: {failed}")) from None
                        continue
                    if self._switch_after_failure(endpoint, failed, retry):
                        open_outcome = True
                    if attempts % len(self._endpoints) == 0:
                        await asyncio.sleep(min(_ROUND_PAUSE_S, max(0.0, deadline - time.monotonic())))
                else:
                    self._note_answering_endpoint(endpoint, last if attempts > 1 else "")
                    if self._login.awaits_success and with_token and method.startswith("KV/"):
                        self._login.record_success()
                    return response
        except NodectlError as error:
            if open_outcome and retry is RetryPolicy.GUARDED:
                raise OutcomeUnknown(
                    f"etcd: an earlier attempt may have taken effect; a later one failed: {error}"
                ) from None
            if isinstance(error, NoSpace) and retry is not RetryPolicy.FREELY:
                # etcd applies the write that fills the database, but answers with the same error as for a refused one.
                raise NoSpaceUnknown(str(error)) from None
            raise
        if self._certificates is not None:
            last += self._certificates.hint(last)
        if open_outcome and retry is RetryPolicy.GUARDED:
            raise OutcomeUnknown(f"etcd: no answer within {budget_s:g} s; last error: {last}")
        raise Unavailable(f"etcd did not carry out the call within {budget_s:g} s; last error: {last}")

    def _switch_after_failure(self, endpoint: Connection, failed: RpcFailed, retry: RetryPolicy) -> bool:
        """Prepare the next attempt; return whether the failed one may have taken effect.

        Raises if no other attempt may follow: the answer is final, or the outcome is unknown and `retry` is NEVER.
        """
        if failed.fault is Fault.TOKEN and self.settings.user is None:
            raise self.record_refusal(to_nodectl_error(failed)) from None
        if failed.fault in (Fault.FINAL, *_NEW_TOKEN_HELPS):
            raise to_nodectl_error(failed) from None
        if failed.fault is Fault.UNREADABLE:
            kind = TooLarge if retry is RetryPolicy.FREELY else OutcomeUnknown
            raise kind(f"etcd's answer is too large: {failed}") from None
        self.switch_endpoint(endpoint, member_alive=failed.member_alive)
        if failed.fault is Fault.AMBIGUOUS and retry is RetryPolicy.NEVER:
            raise OutcomeUnknown(f"etcd: {failed}") from None
        return failed.fault is Fault.AMBIGUOUS

    def _ranked_endpoint(self, position: int) -> Connection:
        """The endpoint at `position` of a ranking: first the one in use, then the others, best first."""
        if not position:
            return self._endpoints[self._current]
        ranked = [self._endpoints[self._current], *self._other_endpoints()]
        return ranked[position % len(ranked)]

    def _endpoint_for_stream(self, secondary: bool) -> Connection:
        """The endpoint for a new stream: the one in use; for a secondary stream another one, if there is any.

        If possible, it is an endpoint to which no stream of the other kind (secondary or not) is open.
        """
        current = self._endpoints[self._current]
        ranked = [*self._other_endpoints(), current] if secondary else [current, *self._other_endpoints()]
        used = {stream.address for stream in self._streams if stream.is_secondary != secondary}
        return next((endpoint for endpoint in ranked if endpoint.address not in used), ranked[0])

    def _check_open(self) -> None:
        if self._closed:
            raise NodectlError("the session with etcd is closed")

    def _note_answering_endpoint(self, endpoint: Connection, trouble: str) -> None:
        if self._last_answering is not endpoint:
            log.info("etcd: using %s%s", endpoint.address, f" ({trouble})" if trouble else "")
            self._last_answering = endpoint

    async def get(self, key: str, *, revision: int = 0, timeout_s: float | None = None) -> KV | None:
        """Read the key, linearizably or as of `revision`; None if it is absent."""
        request = pb.RangeRequest(key=key.encode(), revision=revision)
        return range_from_pb(await self._unary("KV/Range", request, RetryPolicy.FREELY, timeout_s=timeout_s)).first

    async def read(self, key: str, *, timeout_s: float | None = None) -> Reading:
        """Read the key linearizably, together with what identifies the store that answered."""
        response = await self._unary(
            "KV/Range", pb.RangeRequest(key=key.encode()), RetryPolicy.FREELY, timeout_s=timeout_s
        )
        return Reading(f"{response.header.cluster_id:x}", response.header.revision, range_from_pb(response).first)

    async def range(
        self,
        start: str | bytes,
        *,
        end: bytes | None = None,
        revision: int = 0,
        limit: int = 0,
        keys_only: bool = False,
        serializable: bool = False,
        timeout_s: float | None = None,
    ) -> Range:
        """Read all keys with the prefix `start`, or from `start` up to `end`, linearizably or as of `revision`.

        serializable: any member answers from its own data, which may be outdated; this works without a quorum.
        TooLarge if the answer exceeds 64 MiB: request fewer keys.
        """
        request = pb.RangeRequest(
            key=start.encode() if isinstance(start, str) else start,
            range_end=prefix_end(start if isinstance(start, str) else start.decode()) if end is None else end,
            revision=revision,
            limit=limit,
            keys_only=keys_only,
            serializable=serializable,
        )
        return range_from_pb(
            await self._unary(
                "KV/Range", request, RetryPolicy.FREELY, timeout_s=timeout_s, needs_leader=not serializable
            )
        )

    async def put(self, key: str, value: bytes, *, lease: int = 0, timeout_s: float | None = None) -> int:
        """Write the key; return the revision of the write."""
        request = pb.PutRequest(key=key.encode(), value=value, lease=lease)
        response = await self._unary("KV/Put", request, RetryPolicy.NEVER, timeout_s=timeout_s)
        return int(response.header.revision)

    async def delete(self, key: str, *, prefix: bool = False, timeout_s: float | None = None) -> int:
        """Delete the key, or all keys with the prefix; return how many were deleted."""
        request = pb.DeleteRangeRequest(key=key.encode(), range_end=prefix_end(key) if prefix else b"")
        return int((await self._unary("KV/DeleteRange", request, RetryPolicy.NEVER, timeout_s=timeout_s)).deleted)

    async def txn(
        self,
        compares: Sequence[Compare],
        then: Sequence[Op] = (),
        orelse: Sequence[Op] = (),
        *,
        timeout_s: float | None = None,
        repeatable: bool = False,
        hedge_patience: float = 1.0,
    ) -> TxnResult:
        """Run one transaction. `repeatable`: the caller declares that its compares make a second copy harmless.

        hedge_patience: the pauses before further copies are this many times as long as usual.

        A transaction that only reads, or is repeatable, is retried, and copies of it go to other members if the one in
        use is slow. `succeeded` may then be false although a repeatable transaction took effect: an earlier copy
        changed the keys, so the compares of the copy that was answered failed.
        """
        request = pb.TxnRequest(compare=compares, success=then, failure=orelse)
        reads_only = all(op.HasField("request_range") for op in (*then, *orelse))
        if not (reads_only or repeatable):
            return await self._txn(request, RetryPolicy.NEVER, timeout_s, 0)
        pauses_s = [pause_s * hedge_patience for pause_s in self.settings.hedge_delays_s]
        return await self._hedged(
            request, RetryPolicy.FREELY if reads_only else RetryPolicy.GUARDED, timeout_s, pauses_s
        )

    async def _txn(
        self, request: Message, retry: RetryPolicy, timeout_s: float | None, endpoint_offset: int
    ) -> TxnResult:
        response = await self._unary("KV/Txn", request, retry, timeout_s=timeout_s, endpoint_offset=endpoint_offset)
        return TxnResult(
            response.succeeded, response.header.revision,
            LazyResults(response.responses), f"{response.header.cluster_id:x}",
        )  # fmt: skip

    async def txn_hedged(
        self,
        compares: Sequence[Compare],
        then: Sequence[Op] = (),
        orelse: Sequence[Op] = (),
        *,
        timeout_s: float,
        hedge_s: float = 0.02,
    ) -> TxnResult:
        """Run a transaction whose compares make a second copy harmless, with low latency even if a member died.

        It goes to the member in use and, unless that answers within `hedge_s` seconds, also to the next one. While no
        member answers, further copies follow. The first answer counts, which may be that of a later copy. Raises the
        same errors as `txn`.
        """
        # Further copies are needed because a copy is lost if its member forwarded it to a leader of etcd that died. A
        # later copy may reach the new leader.
        request = pb.TxnRequest(compare=compares, success=then, failure=orelse)
        return await self._hedged(request, RetryPolicy.GUARDED, timeout_s, (hedge_s, *EXTRA_COPY_PAUSES_S))

    async def _hedged(
        self, request: Message, retry: RetryPolicy, timeout_s: float | None, pauses_s: Sequence[float]
    ) -> TxnResult:
        """Send copies of a transaction to several members; return the first answer. `pauses_s`: pauses between them."""
        in_use = self._endpoints[self._current]

        async def send(left_s: float, position: int) -> TxnResult:
            return await self._txn(request, retry, left_s, position)

        def note_answered(position: int) -> None:
            if position > 0:
                self._switch_to_answering(in_use)

        return await first_answer(
            send,
            timeout_s=self.settings.call_timeout_s if timeout_s is None else timeout_s,
            pauses_s=pauses_s if len(self._endpoints) > 1 else (),
            note_answered=note_answered,
            call_later=self._timer.call_later,
        )

    def _switch_to_answering(self, slow: Connection) -> None:
        """Leave `slow` for the endpoint that just answered: the next one in order may be dead as well."""
        if self._endpoints[self._current] is slow:
            self.switch_endpoint(slow)
            if self._last_answering is not None and self._last_answering is not slow:
                self._current = self._endpoints.index(self._last_answering)

    # --- leases ---

    async def grant(self, ttl_s: int) -> tuple[int, int]:
        """Create a lease; return its id and its TTL in seconds, which may be longer than requested."""
        # If the answer to a grant is lost, another one is requested: the unused lease expires by itself.
        response = await self._unary("Lease/LeaseGrant", pb.LeaseGrantRequest(TTL=ttl_s), RetryPolicy.FREELY)
        return int(response.ID), int(response.TTL)

    async def revoke(self, lease: int, *, timeout_s: float | None = None) -> None:
        """End a lease and delete its keys. No-op if it has ended. After Unavailable it may still be revoked later."""
        try:
            await self._unary(
                "Lease/LeaseRevoke", pb.LeaseRevokeRequest(ID=lease), RetryPolicy.FREELY, timeout_s=timeout_s
            )
        except LeaseLost:
            return

    async def lease_keys(self, lease: int) -> tuple[int, tuple[str, ...]]:
        """The seconds until the lease expires (-1: it has ended), and the keys attached to it."""
        request = pb.LeaseTimeToLiveRequest(ID=lease, keys=True)
        response = await self._unary("Lease/LeaseTimeToLive", request, RetryPolicy.FREELY)
        return int(response.TTL), tuple(key.decode("utf-8", "replace") for key in response.keys)

    # --- streams ---

    async def open_stream(self, method: str, *, secondary: bool = False) -> Stream:
        """Open a stream to the endpoint in use. `secondary`: to another endpoint than primary streams, if possible.

        Denied if etcd refuses the first login. BrokenStream for any temporary fault.
        """
        self._check_open()
        try:
            await self._ensure_token(self.settings.call_timeout_s)
        except Unavailable as error:
            raise BrokenStream(str(error)) from None
        endpoint = self._endpoint_for_stream(secondary)
        stream = Stream(self, endpoint, endpoint.open(method, self._metadata(_REQUIRE_LEADER)), self._token, secondary)
        self._streams.add(stream)
        return stream

    # --- other methods of etcd, for `maintenance` and for tests ---

    async def call(
        self,
        method: str,
        request: Message,
        *,
        retry: RetryPolicy = RetryPolicy.NEVER,
        timeout_s: float | None = None,
        needs_leader: bool = True,
    ) -> Any:
        """Send any unary method to the member in use. needs_leader=False: a member without a quorum answers too."""
        return await self._unary(method, request, retry, timeout_s=timeout_s, needs_leader=needs_leader)

    async def open_download(self, address: str, method: str, request: Message, *, timeout_s: float) -> RpcStream:
        """A stream of the answers to one request, from the member at `address`. Its faults are RpcFailed."""
        endpoint = self._endpoint_at(address)
        if not isinstance(endpoint, GrpcConnection):
            raise Invalid(f"{method} needs a gRPC connection to etcd")
        await self._ensure_token(timeout_s)
        return endpoint.download(method, request, self._metadata())

    def _endpoint_at(self, address: str) -> Connection:
        self._check_open()
        wanted = host_port(address)
        endpoint = next((item for item in self._endpoints if item.address == wanted), None)
        if endpoint is None:
            raise Invalid(f"{address} is not among the etcd endpoints of this session")
        return endpoint

    async def call_member(self, address: str, method: str, request: Message, timeout_s: float) -> Any:
        """Send a unary method once, to the member at `address`, which is an endpoint of the settings.

        Unavailable if it had no effect. OutcomeUnknown if the member did not answer in time, or died meanwhile.
        """
        endpoint = self._endpoint_at(address)
        for _ in range(1 + _TOKENS_MAX):  # each repeat follows a refusal, so the call had no effect before
            await self._ensure_token(timeout_s)
            token = self._token
            try:
                response = await endpoint.call(method, request, timeout_s, self._metadata())
            except RpcFailed as failed:
                if failed.fault is Fault.RIGHTS_CHANGED or (
                    failed.fault is Fault.TOKEN and self.settings.user is not None
                ):
                    self.discard_token(token)
                elif failed.fault is Fault.NOT_SENT:
                    raise Unavailable(f"etcd member {failed}") from None
                elif failed.fault is Fault.AMBIGUOUS:
                    raise OutcomeUnknown(f"etcd member {failed}") from None
                else:
                    raise to_nodectl_error(failed) from None
            else:
                if self._login.awaits_success and self.settings.user is not None:
                    self._login.record_success()
                return response
        if self.settings.user is None:
            raise Unavailable(f"etcd member {address}: its users or roles were changed during each attempt")
        raise self.record_refusal(Denied(f"etcd member {address} refuses every new token"))
