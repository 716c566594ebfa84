"""What clients may send to masterd's port, in bytes: everything is bounded, and answered with a problem document."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast
from urllib.parse import urlsplit

import pytest

from masterd.api import body_reader
from masterd.api.admission import BYTES_PER_VALUE, VALUES_MAX, AdmissionLimits
from masterd.state_machine.batch import CommandOutcome, CommandRequest
from nodestore.errors import Overloaded
from nodestore.schema.models import Paused
from nodestore.support.jsonio import loads
from tests.support.fakes.masterd_parts import FakeLeader, FakeMasterd, serving
from tests.support.waiting import eventually

_JSON = "Content-Type: application/json"
_TYPE = _JSON.encode() + b"\r\n"
LIMITS = AdmissionLimits(body_bytes_max=1 << 20, bytes_in_flight_max=3 << 20)
HEALTH = b"GET /v1/health HTTP/1.1\r\nHost: m1\r\n\r\n"


class _Leader(FakeLeader):
    """A leader that acknowledges each command once `go` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()
        self.go.set()
        self.commands: list[CommandRequest] = []

    async def submit(self, requests: Sequence[CommandRequest], **_: Any) -> list[CommandOutcome]:
        self.commands += requests
        await self.go.wait()
        return [CommandOutcome(request.id, 1) for request in requests]


class _Door:
    """A masterd that leads, and raw connections to it."""

    def __init__(self, url: str, masterd: FakeMasterd, leader: _Leader) -> None:
        address = urlsplit(url)
        self.host, self.port, self.masterd, self.leader = str(address.hostname), int(address.port or 0), masterd, leader

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self.host, self.port)

    async def ask(self, sent: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send these bytes on a connection of their own; the status, headers and body of the answer."""
        reader, writer = await self.open()
        try:
            writer.write(sent)
            return await answer_of(reader)
        finally:
            writer.close()


async def answer_of(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    async with asyncio.timeout(30.0):
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    return int(first.split(" ")[1]), headers, body


@asynccontextmanager
async def _door(limits: AdmissionLimits = LIMITS) -> AsyncIterator[_Door]:
    masterd, leader = FakeMasterd(), _Leader()
    masterd.leadership.leader = leader.role
    async with serving(masterd, limits) as url:
        yield _Door(url, masterd, leader)


def post(body: bytes, *headers: str, path: str = "/v1/commands") -> bytes:
    head = "".join(f"{line}\r\n" for line in (f"Content-Length: {len(body)}", _JSON, *headers))
    return f"POST {path} HTTP/1.1\r\nHost: m1\r\n{head}\r\n".encode() + body


def problem(answer: tuple[int, dict[str, str], bytes], status: int) -> dict[str, Any]:
    got, headers, body = answer
    assert got == status, body
    assert headers["content-type"].startswith("application/problem+json")
    document: dict[str, Any] = json.loads(body)
    assert document["status"] == status
    assert document["detail"]
    return document


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /v1/health\r\n\r\n", 400),
        (b"GET /v1/health HTTP/0.9\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: m1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: m1\r\nA: " + b"x" * 20_000 + b"\r\n\r\n", 400),
        (b"POST /v1/commands HTTP/1.1\r\nHost: m1\r\n%sContent-Length: 1000000000000000000\r\n\r\n" % _TYPE, 413),
        (b"POST /v1/commands HTTP/1.1\r\nHost: m1\r\nContent-Length: " + b"9" * 40 + b"\r\n\r\n", 400),
        (b"POST /v1/commands HTTP/1.1\r\nHost: m1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"BREW /v1/health HTTP/1.1\r\nHost: m1\r\n\r\n", 400),
        (b"POST /v1/health HTTP/1.1\r\nHost: m1\r\nContent-Length: 0\r\n\r\n", 405),
        (b"GET /v1/nothing HTTP/1.1\r\nHost: m1\r\n\r\n", 404),
        (b"GET /v1/events?after=99999999999999999 HTTP/1.1\r\nHost: m1\r\n\r\n", 400),
    ],
)
async def test_what_cannot_be_served_is_a_problem_document(
    sent: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a traceback in the log: anybody can send this as often as they like."""
    async with _door() as door:
        with caplog.at_level(logging.INFO):
            problem(await door.ask(sent), status)
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_head_is_answered() -> None:
    async with _door() as door:
        reader, writer = await door.open()
        writer.write(b"HEAD /v1/health HTTP/1.1\r\nHost: m1\r\n\r\n")
        async with asyncio.timeout(30.0):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 405 ")
        writer.close()


async def test_headers_without_end_are_refused() -> None:
    async with _door() as door:
        reader, writer = await door.open()
        writer.write(b"GET / HTTP/1.1\r\nHost: m1\r\n")

        async def send() -> None:
            for number in range(100_000):
                writer.write(b"X-%d: %s\r\n" % (number, b"y" * 4000))
                await writer.drain()

        sending = asyncio.create_task(send())
        problem(await answer_of(reader), 431)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        writer.close()


async def test_compressed_bodies_are_refused() -> None:
    """A gigabyte of zeros is a megabyte of gzip."""
    async with _door() as door:
        squeezed = gzip.compress(b'{"name":"a"}' + b" " * 1_000_000)
        problem(await door.ask(post(squeezed, "Content-Encoding: gzip")), 415)
        assert not door.leader.commands


async def test_a_body_is_no_larger_than_an_entry() -> None:
    """Neither by its declared length, nor in chunks without one; a configuration neither."""
    async with _door() as door:
        head = "HTTP/1.1\r\nHost: m1\r\nContent-Type: application/json\r\n"
        problem(await door.ask(f"POST /v1/commands {head}Content-Length: {(1 << 20) + 1}\r\n\r\n".encode()), 413)
        problem(await door.ask(f"PUT /v1/config {head}Content-Length: 16000000\r\n\r\n".encode()), 413)
        chunk = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
        problem(
            await door.ask(f"POST /v1/commands {head}Transfer-Encoding: chunked\r\n\r\n".encode() + chunk * 17), 413
        )


async def test_a_body_is_asked_for_once_it_is_admitted() -> None:
    """Expect: 100-continue. A refused body is never sent."""
    async with _door() as door:
        body = b'{"name":"a"}'
        reader, writer = await door.open()
        head, _ = post(body, "Expect: 100-continue").split(b"{", 1)
        writer.write(head)
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        status, _, _ = await answer_of(reader)
        assert status == 200
        door.leader.overload = Overloaded("full", 3.0)
        writer.write(head)
        status, headers, _ = await answer_of(reader)
        assert (status, headers["retry-after"], headers["connection"]) == (503, "3", "close")
        writer.close()


@pytest.mark.parametrize(
    "item", [b"{}", b"[]", b"0", b'""', b'{"a":{}}', b"[[[[[[]]]]]]", b"1e1", b'"\\u00e9"'], ids=repr
)
async def test_no_body_holds_the_interpreter_for_long(item: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A megabyte of tiny values is refused before it is parsed, which would hold the interpreter for half a second."""
    body = b'{"name":"a","args":{"x":[' + b",".join([item] * (1_000_000 // (len(item) + 1))) + b"]}}"
    parsed: list[int] = []

    def note(raw: bytes, where: str) -> Any:
        parsed.append(len(raw))
        return loads(raw, where)

    monkeypatch.setattr(body_reader, "loads", note)
    async with _door() as door:
        document = problem(await door.ask(post(body)), 413)
        assert str(VALUES_MAX) in document["detail"]
        assert not parsed
        status, _, _ = await door.ask(post(b'{"name":"a"}'))
        assert status == 200
        assert parsed == [len(b'{"name":"a"}')]  # else it would not be noticed that a body is parsed


async def test_text_is_no_values() -> None:
    """A document may be a large text, whatever characters it has."""
    async with _door() as door:
        body = b'{"name":"a","args":{"x":"' + b"[,{:" * 200_000 + b'"}}'
        status, _, _ = await door.ask(post(body))
        assert status == 200
        assert len(door.leader.commands[0].args["x"]) == 800_000


@pytest.mark.parametrize(
    ("raw", "cost"),
    [
        (b'{"a":1}', 2),
        (b'"' + b"," * 100_000 + b'"', 0),
        (b'"' + b'\\",' * 100_000 + b'"', 12_500),
        (b"[" + b"0," * 59_000 + b"0]", 59_001),
        (b'"unterminated' + b"," * 100_000, VALUES_MAX + 1),
    ],
    ids=["small", "text", "escapes", "numbers", "garbage"],
)
async def test_the_cost_of_a_body(raw: bytes, cost: int) -> None:
    assert await body_reader.cost_of(raw) == cost


async def test_bytes_in_flight_are_bounded_over_all_connections() -> None:
    """Half-sent uploads hold what they declare. Requests after the limit are refused at once, and served later."""
    async with _door() as door:
        opened = [await door.open() for _ in range(6)]
        for _, writer in opened:
            writer.write(post(b"x" * 1_000_000)[:-500_000])
        refusals = 0
        for reader, _ in opened:
            try:
                async with asyncio.timeout(1.0):
                    status, headers, _ = await answer_of(reader)
            except TimeoutError:
                continue
            assert (status, headers["retry-after"], headers["connection"]) == (503, "1", "close")
            refusals += 1
        assert refusals == 3
        for _, writer in opened:
            writer.close()

        async def is_served() -> bool:
            return (await door.ask(post(b'{"name":"a"}' + b" " * 500_000)))[0] == 200

        await eventually(is_served, "the bytes of closed connections are free again")


async def test_what_a_body_is_parsed_into_counts_as_in_flight() -> None:
    """Many small values need much more memory than their text. A text of the same length is accepted."""
    async with _door() as door:
        values = b",".join([b"0"] * 50_000)
        assert len(values) + 50_000 * BYTES_PER_VALUE > LIMITS.bytes_in_flight_max
        document = problem(await door.ask(post(b'{"name":"a","args":{"x":[' + values + b"]}}")), 503)
        assert "bytes already" in document["detail"]
        status, _, _ = await door.ask(post(b'{"name":"a","args":{"x":"' + b"0" * len(values) + b'"}}'))
        assert status == 200


@pytest.mark.parametrize("sent", [b"GET /v1/hea", post(b"{}" * 100)[:-50]], ids=["headers", "body"])
async def test_slow_headers_and_bodies_end(sent: bytes) -> None:
    async with _door(AdmissionLimits(receive_s=0.5)) as door:
        problem(await door.ask(sent), 408)


async def test_idle_connections_end() -> None:
    """One that never sends anything, and one that was served before."""
    async with _door(AdmissionLimits(idle_s=0.5)) as door:
        silent, other = await door.open()
        served, writer = await door.open()
        writer.write(b"GET /v1/health HTTP/1.1\r\nHost: m1\r\n\r\n")
        assert (await answer_of(served))[0] == 200
        async with asyncio.timeout(30.0):
            assert await silent.read() == b""
            assert await served.read() == b""
        other.close()
        writer.close()


async def test_connections_are_bounded() -> None:
    """One more is answered without being parsed, and closed."""
    limits = AdmissionLimits(connections_max=8, connections_reserved=2, connections_per_known_max=100)
    async with _door(limits) as door:
        opened = [await door.open() for _ in range(6)]
        reader, writer = await door.open()
        status, headers, body = await answer_of(reader)
        assert (status, headers["connection"]) == (503, "close")
        assert json.loads(body)["code"] == "unavailable"
        assert await reader.read() == b""
        writer.close()
        opened[0][1].close()

        async def is_served() -> bool:
            return (await door.ask(b"GET /v1/health HTTP/1.1\r\nHost: m1\r\n\r\n"))[0] == 200

        await eventually(is_served, "a closed connection makes room")
        for _, writer in opened:
            writer.close()


async def test_a_reader_of_events_that_never_reads_is_dropped() -> None:
    """Its buffer is bounded, and its connection ends."""
    async with _door(AdmissionLimits(stalled_s=0.5)) as door:
        reader, writer = await door.open()
        cast(asyncio.Transport, writer.transport).pause_reading()
        writer.write(b"GET /v1/cluster/watch HTTP/1.1\r\nHost: m1\r\n\r\n")
        for number in range(40):  # each time another half megabyte, for longer than a client may read nothing
            door.masterd.view.shown_pause = Paused(actor="t", time=float(number), reason="x" * 500_000)
            door.masterd.view.notify()
            await asyncio.sleep(0.1)
        cast(asyncio.Transport, writer.transport).resume_reading()
        async with asyncio.timeout(30.0):
            with contextlib.suppress(ConnectionError):
                received = await reader.read(-1)
                assert len(received) < 20 << 20, "the stream ended while nothing was read"
        writer.close()


async def test_a_full_queue_is_refused_before_the_body() -> None:
    """With the time to wait. Nothing of the request is parsed; the connection is closed unless its end is plain."""
    async with _door() as door:
        door.leader.overload = Overloaded("10000 commands are queued already", 1.5)
        document = problem(await door.ask(post(b"x" * 1_000_000)[:200]), 503)
        assert document["retry_after_s"] == 1.5
        for name, kept in (("Accept: */*", "keep-alive"), ("Transfer-Encoding: chunked", "close")):
            status, headers, _ = await door.ask(post(b'{"name":"a"}', name))
            assert (status, headers["retry-after"], headers["connection"]) == (503, "2", kept)
        assert not door.leader.commands
        assert (await door.ask(HEALTH))[0] == 200


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("before", [(), (HEALTH,)])
async def test_a_refused_connection_serves_what_comes_later(before: tuple[bytes, ...], parts: int) -> None:
    """Whether or not it has served a request before, and also if the refused body is still on its way."""
    async with _door() as door:
        reader, writer = await door.open()
        for sent in before:
            writer.write(sent)
            assert (await answer_of(reader))[0] == 200
        door.leader.overload = Overloaded("10000 commands are queued already", 1.5)
        refused = post(b"x" * 900_000)
        for part in range(parts):
            writer.write(refused[part * len(refused) // parts : (part + 1) * len(refused) // parts])
            await writer.drain()
            await asyncio.sleep(0.01)
        problem(await answer_of(reader), 503)
        door.leader.overload = None
        writer.write(post(b'{"name":"a"}'))
        assert (await answer_of(reader))[0] == 200
        assert len(door.leader.commands) == 1
        writer.close()


async def test_the_rest_of_a_refused_body_has_a_time_limit() -> None:
    async with _door(AdmissionLimits(linger_s=0.1, stalled_s=0.1)) as door:
        door.leader.overload = Overloaded("10000 commands are queued already", 1.5)
        reader, writer = await door.open()
        writer.write(post(b"x" * 1000)[:-1])
        problem(await answer_of(reader), 503)
        await _expect_end(reader)
        writer.close()


async def test_a_client_that_does_not_wait_after_refusals_is_read_seldom() -> None:
    """Otherwise a few such clients could make a leader busy with refusals alone."""
    async with _door() as door:
        door.leader.overload = Overloaded("10000 commands are queued already", 1.5)
        reader, writer = await door.open()
        begun = asyncio.get_running_loop().time()
        for _ in range(6):
            writer.write(post(b'{"name":"a"}'))
            problem(await answer_of(reader), 503)
        assert asyncio.get_running_loop().time() - begun >= 0.4
        door.leader.overload = None
        writer.write(post(b'{"name":"a"}'))
        assert (await answer_of(reader))[0] == 200
        writer.close()


async def test_a_client_that_sends_many_refused_requests_at_once_is_disconnected() -> None:
    """It gets one answer, so that answers which it does not read cannot fill the memory."""
    async with _door() as door:
        door.leader.overload = Overloaded("10000 commands are queued already", 1.5)
        reader, writer = await door.open()
        writer.write(post(b'{"name":"a"}') * 100)
        assert problem(await answer_of(reader), 503)
        await _expect_end(reader)
        writer.close()


async def test_a_refusal_does_not_interrupt_an_answer() -> None:
    """A request that is sent while an earlier one of the same connection is served waits for its end."""
    async with _door() as door:
        door.leader.go.clear()
        reader, writer = await door.open()
        writer.write(post(b'{"name":"a"}'))
        await eventually(lambda: len(door.leader.commands) == 1, "the first is served")
        door.leader.overload = Overloaded("10000 commands are queued already", 1.5)
        writer.write(post(b'{"name":"b"}'))
        await asyncio.sleep(0.05)
        door.leader.go.set()
        assert [(await answer_of(reader))[0] for _ in range(2)] == [200, 503]
        assert len(door.leader.commands) == 1
        writer.close()


async def _expect_end(reader: asyncio.StreamReader) -> None:
    """Wait until the connection ends, with nothing more to read."""
    async with asyncio.timeout(30.0):
        with contextlib.suppress(ConnectionError):
            assert not await reader.read()


async def test_a_request_whose_sender_no_longer_waits_is_not_served() -> None:
    async with _door() as door:
        document = problem(await door.ask(post(b'{"name":"a"}', "Nodectl-Timeout-Ms: 0")), 503)
        assert document["code"] == "unavailable"
        assert not door.leader.commands
