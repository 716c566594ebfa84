"""A heartbeat stream that breaks: when that proves that the process died, and when it does not."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from masterd.election import heartbeat_listener
from masterd.election.heartbeat_listener import HeartbeatListener, ReceivedHeartbeat, parse_heartbeat
from nodestore.cluster.election import LeaderSeen
from nodestore.pki.authority import Authorities
from nodestore.pki.identity import Subject
from nodestore.schema.models import LeaderRecord
from nodestore.support.tls_files import TlsFiles
from tests.support.waiting import eventually

_TERM = 7


class _Leader:
    """A port with a leader's heartbeats, one connection at a time."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=1)
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.socket.setblocking(False)

    async def beat(self) -> socket.socket:
        """Accept a connection, answer, and send one heartbeat."""
        loop = asyncio.get_running_loop()
        found, _ = await loop.sock_accept(self.socket)
        found.setblocking(False)
        await loop.sock_recv(found, 65536)
        beat = json.dumps({"term": _TERM}).encode() + b"\n"
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        await loop.sock_sendall(found, head + f"{len(beat):x}\r\n".encode() + beat + b"\r\n")
        return found


def _stream(url: str, events: list[str]) -> HeartbeatListener:
    record = LeaderRecord(id="m1", host="m1", urls=(url,), nonce="n", since=0.0)
    return HeartbeatListener(
        LeaderSeen(_TERM, record, 5), lambda: events.append("died"), lambda _: events.append("beat"),
        lambda: events.append("broke"),
    )  # fmt: skip


async def test_a_port_that_refuses_after_the_break_is_a_dead_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else needs to be asked."""
    monkeypatch.setattr(heartbeat_listener, "_REFUSAL_S", 600.0)
    leader, events = _Leader(), list[str]()
    with leader.socket:
        running = asyncio.create_task(_stream(leader.url, events).run())
        connection = await leader.beat()
        await eventually(lambda: events == ["beat"])
        leader.socket.close()
        connection.close()
        await asyncio.wait_for(running, 30.0)
    assert events == ["beat", "died"]


async def test_a_process_that_dies_may_accept_a_last_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files are closed one after the other: the reconnect is reset. aiohttp repeats it at once, and is refused."""
    monkeypatch.setattr(heartbeat_listener, "_REFUSAL_S", 600.0)
    monkeypatch.setattr(heartbeat_listener, "_RETRY_S", 600.0)
    leader, events = _Leader(), list[str]()
    with leader.socket:
        running = asyncio.create_task(_stream(leader.url, events).run())
        connection = await leader.beat()
        await eventually(lambda: events == ["beat"])
        connection.close()
        last, _ = await asyncio.get_running_loop().sock_accept(leader.socket)
        leader.socket.close()
        last.close()
        await asyncio.wait_for(running, 30.0)
    assert events == ["beat", "died"]


async def test_a_port_that_refuses_before_any_heartbeat_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process may not listen yet: a masterd opens its port late, or its address is wrong."""
    monkeypatch.setattr(heartbeat_listener, "_BEGIN_AFTER_S", 0.0)
    monkeypatch.setattr(heartbeat_listener, "_RETRY_S", 0.001)
    leader, events, refusals = _Leader(), list[str](), list[Any]()
    leader.socket.close()

    async def note(*details: Any) -> None:
        refusals.append(details)

    def open_session() -> aiohttp.ClientSession:
        trace = aiohttp.TraceConfig()
        trace.on_request_exception.append(note)
        return aiohttp.ClientSession(trace_configs=[trace])

    record = LeaderRecord(id="m1", host="m1", urls=(leader.url,), nonce="n", since=0.0)
    listener = HeartbeatListener(LeaderSeen(_TERM, record, 5), lambda: events.append("died"), open_session=open_session)
    running = asyncio.create_task(listener.run())
    await eventually(lambda: len(refusals) > 3 or running.done(), "the port has refused several times")
    running.cancel()
    await asyncio.wait((running,))
    assert (events, listener.is_dead) == ([], False)


async def test_a_leader_whose_certificate_is_not_trusted_is_no_proof_and_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The error has no number of the system, unlike that of a refused connection."""
    monkeypatch.setattr(heartbeat_listener, "_BEGIN_AFTER_S", 0.0)
    monkeypatch.setattr(heartbeat_listener, "_RETRY_S", 0.001)
    authorities, connections = Authorities(tmp_path / "pki"), 0
    authorities.init("wall")
    own = authorities.issue(Subject("masterd", "m1")).directory
    contents = TlsFiles(ca=own / "ca.crt", cert=own / "m1.crt", key=own / "m1.key").read()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    class Counting(ssl.SSLContext):
        def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
            nonlocal connections
            connections += 1
            return super().wrap_bio(*arguments, **options)

    untrusting = Counting(ssl.PROTOCOL_TLS_CLIENT)
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=contents.server)
    async with server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        record, events = LeaderRecord(id="m1", host="m1", urls=(url,), nonce="n", since=0.0), list[str]()
        listener = HeartbeatListener(
            LeaderSeen(_TERM, record, 5), lambda: events.append("died"),
            open_session=lambda: heartbeat_listener.open_session(untrusting),
        )  # fmt: skip
        running = asyncio.create_task(listener.run())
        await eventually(lambda: connections > 2 or running.done(), "it has tried several times")
        assert not running.done()
        running.cancel()
        await asyncio.wait((running,))
    assert (events, listener.is_dead) == ([], False)


async def test_a_port_that_says_nothing_after_the_break_is_a_reason_to_ask_etcd() -> None:
    """Windows, for example, retries a refused connection three times before it reports the refusal."""
    leader, events = _Leader(), list[str]()
    with leader.socket, ExitStack() as full:
        running = asyncio.create_task(_stream(leader.url, events).run())
        connection = await leader.beat()
        await eventually(lambda: events == ["beat"])
        for _ in range(4):  # connections that are not accepted fill the backlog, so a further one gets no answer
            waiting = full.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(leader.socket.getsockname())
        connection.close()
        await eventually(lambda: events == ["beat", "broke"])
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def _record_timers(monkeypatch: pytest.MonkeyPatch, delay_s: float) -> list[asyncio.TimerHandle]:
    """The timers of this delay that the event loop starts from here on."""
    loop, timers = asyncio.get_running_loop(), list[asyncio.TimerHandle]()
    call_later = loop.call_later

    def recording(delay: float, callback: Callable[..., object], *args: Any, **options: Any) -> asyncio.TimerHandle:
        timer = call_later(delay, callback, *args, **options)
        if delay == delay_s:
            timers.append(timer)
        return timer

    monkeypatch.setattr(loop, "call_later", recording)
    return timers


async def test_a_stream_that_stands_again_is_no_reason_for_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection may break for other reasons than a dead process."""
    monkeypatch.setattr(heartbeat_listener, "_REFUSAL_S", 600.0)
    timers = _record_timers(monkeypatch, 600.0)
    leader, events = _Leader(), list[str]()
    with leader.socket:
        running = asyncio.create_task(_stream(leader.url, events).run())
        (await leader.beat()).close()
        second = await leader.beat()
        await eventually(lambda: events == ["beat", "beat"])
        (break_timer,) = timers
        assert break_timer.cancelled()
        second.close()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize(
    "line",
    [
        b'{"term": 7, "index": 1e999}', b'{"term": 7, "stuck_s": 1e999}', b"[" * 50_000, b'{"term": true}', b"7",
        b'{"term": 7, "stuck_s": ' + b"9" * 400 + b"}", b'{"term": 7, "index": "5"}', b"", b"\xff",
    ],
)  # fmt: skip
def test_a_line_that_is_no_heartbeat_is_ignored(line: bytes) -> None:
    """It must not end the task that follows the leader: the standby would never notice the leader's death."""
    assert parse_heartbeat(line) is None


def test_a_heartbeat_of_an_earlier_release_lacks_fields() -> None:
    assert parse_heartbeat(b'{"term": 7}\n') == ReceivedHeartbeat(7, 0, 0.0)
