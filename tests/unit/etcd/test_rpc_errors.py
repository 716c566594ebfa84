"""Classification of failed calls, from the texts of grpc and etcd: whether the request may have had an effect."""

from __future__ import annotations

import asyncio

import pytest
from grpc import StatusCode as Code

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
from nodestore.etcd.rpc import Fault, GrpcConnection, RpcFailed, classify_status, to_nodectl_error

SORTED = [
    # Never sent: the channel had no connection (texts of grpc 1.62 and 1.85).
    (
        Code.UNAVAILABLE,
        "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: ...",
        Fault.NOT_SENT,
    ),
    (Code.UNAVAILABLE, "DNS resolution failed for nobody:2379: C-ares status is not ARES_SUCCESS", Fault.NOT_SENT),
    (Code.UNAVAILABLE, "errors resolving nobody:2379: [field:hostname lookup error:...]", Fault.NOT_SENT),
    (Code.UNIMPLEMENTED, "Received http2 header with status: 404", Fault.NOT_SENT),
    # Never proposed.
    (Code.UNAVAILABLE, "etcdserver: no leader", Fault.NOT_SENT),
    (Code.RESOURCE_EXHAUSTED, "etcdserver: too many requests", Fault.NOT_SENT),
    (Code.UNAVAILABLE, "etcdserver: rpc not supported for learner", Fault.NOT_SENT),
    (Code.FAILED_PRECONDITION, "etcdserver: rpc not supported for learner", Fault.NOT_SENT),
    # A connection that broke, a server that gave up waiting: it may be in the log, or on its way there.
    (Code.UNAVAILABLE, "Socket closed", Fault.AMBIGUOUS),
    (Code.UNAVAILABLE, "Stream removed (Socket closed)", Fault.AMBIGUOUS),
    (Code.UNAVAILABLE, "recvmsg:Connection reset by peer", Fault.AMBIGUOUS),
    (Code.UNAVAILABLE, "keepalive watchdog timeout", Fault.AMBIGUOUS),
    (Code.UNAVAILABLE, "", Fault.AMBIGUOUS),
    (Code.UNAVAILABLE, "etcdserver: request timed out", Fault.AMBIGUOUS),
    (Code.UNAVAILABLE, "etcdserver: request timed out, possibly due to connection lost", Fault.AMBIGUOUS),
    (Code.UNAVAILABLE, "etcdserver: leader changed", Fault.AMBIGUOUS),
    (Code.UNAVAILABLE, "etcdserver: server stopped", Fault.AMBIGUOUS),
    (Code.DEADLINE_EXCEEDED, "Deadline Exceeded", Fault.AMBIGUOUS),
    (Code.CANCELLED, "etcdserver: watch canceled", Fault.AMBIGUOUS),
    (Code.INTERNAL, "something new", Fault.AMBIGUOUS),
    (Code.UNKNOWN, "", Fault.AMBIGUOUS),
    # Done, but the answer does not fit.
    (Code.RESOURCE_EXHAUSTED, "CLIENT: Received message larger than max (5 vs. 4)", Fault.UNREADABLE),
    (Code.RESOURCE_EXHAUSTED, "Received message larger than max (5 vs. 4)", Fault.UNREADABLE),
    (Code.RESOURCE_EXHAUSTED, "grpc: trying to send message larger than max (5 vs. 4)", Fault.UNREADABLE),
    # A token that died.
    (Code.UNAUTHENTICATED, "etcdserver: invalid auth token", Fault.TOKEN),
    (Code.INVALID_ARGUMENT, "etcdserver: user name is empty", Fault.TOKEN),
    (Code.INVALID_ARGUMENT, "etcdserver: revision of auth store is old", Fault.RIGHTS_CHANGED),
    # Answers.
    (Code.RESOURCE_EXHAUSTED, "grpc: received message larger than max (5 vs. 4)", Fault.FINAL),
    (Code.RESOURCE_EXHAUSTED, "CLIENT: Sent message larger than max (5 vs. 4)", Fault.FINAL),
    (Code.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded", Fault.FINAL),
    (Code.INVALID_ARGUMENT, "etcdserver: authentication failed, invalid user ID or password", Fault.FINAL),
    (Code.PERMISSION_DENIED, "etcdserver: permission denied", Fault.FINAL),
    (Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted", Fault.FINAL),
    (Code.NOT_FOUND, "etcdserver: requested lease not found", Fault.FINAL),
]

ERRORS = [
    (Code.UNAUTHENTICATED, "etcdserver: invalid auth token", Denied),
    (Code.INVALID_ARGUMENT, "etcdserver: user name is empty", Denied),
    (Code.INVALID_ARGUMENT, "etcdserver: revision of auth store is old", Unavailable),
    (Code.INVALID_ARGUMENT, "etcdserver: authentication failed, invalid user ID or password", Denied),
    (Code.PERMISSION_DENIED, "etcdserver: permission denied", Denied),
    (Code.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded", NoSpace),
    (Code.RESOURCE_EXHAUSTED, "something new", Unavailable),
    (Code.RESOURCE_EXHAUSTED, "grpc: received message larger than max (5 vs. 4)", TooLarge),
    (Code.RESOURCE_EXHAUSTED, "CLIENT: Sent message larger than max (5 vs. 4)", TooLarge),
    (Code.INVALID_ARGUMENT, "etcdserver: request is too large", TooLarge),
    (Code.INVALID_ARGUMENT, "etcdserver: too many operations in txn request", TooLarge),
    (Code.NOT_FOUND, "etcdserver: requested lease not found", LeaseLost),
    (Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted", Compacted),
    (Code.FAILED_PRECONDITION, "etcdserver: not leader", NodectlError),
]


@pytest.mark.parametrize(("code", "details", "fault"), SORTED)
def test_faults_are_sorted(code: Code, details: str, fault: Fault) -> None:
    """Only errors of requests that never reached raft count as without effect."""
    assert classify_status(code, details) is fault


@pytest.mark.parametrize("code", [code for code in Code if code is not Code.OK])
def test_an_unknown_text_is_never_taken_for_harmless(code: Code) -> None:
    """An unknown error counts as without effect only if its code implies that."""
    if code is not Code.UNIMPLEMENTED:
        assert classify_status(code, "what a later etcd may say") is not Fault.NOT_SENT


@pytest.mark.parametrize(("code", "details", "kind"), ERRORS)
def test_answers_become_typed_errors(code: Code, details: str, kind: type[NodectlError]) -> None:
    """With etcd's own words, in one line."""
    error = to_nodectl_error(RpcFailed("h:1", code.name.lower(), details, classify_status(code, details)))
    assert type(error) is kind
    assert "\n" not in str(error)


async def test_a_call_that_grpc_cancels_fails_also_in_a_task_that_was_cancelled_before() -> None:
    """In the cleanup of a cancelled task, such as a resignation, the CancelledError of grpc is no new cancellation."""
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    connection, calling = GrpcConnection(f"127.0.0.1:{port}", None), asyncio.Event()

    async def work() -> RpcFailed | None:
        try:
            await asyncio.sleep(60.0)
        except asyncio.CancelledError:
            calling.set()
            with pytest.raises(RpcFailed) as caught:
                await connection.call("KV/Put", pb.PutRequest(key=b"k"), 30.0, ())
            return caught.value
        return None

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    await calling.wait()
    await connection.close()
    failed = await task
    assert failed is not None
    assert failed.fault is Fault.AMBIGUOUS
    server.close()
