"""A port that passes connections on unchanged, and records which HTTP requests and answers it saw."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from nodestore.support.tasks import run_until_first_ends

_REQUEST = re.compile(rb"(GET|POST|PUT|DELETE|OPTIONS) /\S*?(?:[?&]attempt=([a-z-]+))? HTTP/1\.1\r\n")
_ANSWER = re.compile(rb"HTTP/1\.1 (\d{3}) ")
_CHUNK_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request with the name of its attempt, and the status of the answer. None: there is none yet."""

    method: str
    attempt: str
    status: int | None


@dataclass(slots=True)
class _Recording:
    """What one connection carried."""

    sent: bytearray = field(default_factory=bytearray)
    received: bytearray = field(default_factory=bytearray)

    def exchanges(self) -> list[Exchange]:
        """HTTP/1.1 answers requests in their order."""
        answers = [int(status) for status in _ANSWER.findall(self.received)]
        requests = _REQUEST.findall(self.sent)
        padded = [*answers, *[None] * (len(requests) - len(answers))]
        return [
            Exchange(method.decode(), attempt.decode(), status)
            for (method, attempt), status in zip(requests, padded, strict=True)
        ]


class Tap:
    """Listens on 127.0.0.1. Each new connection goes to `destination_port`, which may change."""

    def __init__(self) -> None:
        self.port = self.destination_port = 0
        self._recordings: list[_Recording] = []

    def exchanges(self) -> list[Exchange]:
        """Return all requests that carry the name of an attempt."""
        found = [exchange for recording in self._recordings for exchange in recording.exchanges()]
        return [exchange for exchange in found if exchange.attempt]

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        recording = _Recording()
        self._recordings.append(recording)
        with contextlib.suppress(ConnectionError):
            answers, onward = await asyncio.open_connection("127.0.0.1", self.destination_port)
            try:
                await run_until_first_ends(
                    answers=_pass_on(answers, writer, recording.received),
                    requests=_pass_on_all(reader, onward, recording.sent),
                )
            finally:
                onward.close()
        writer.close()


async def _pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter, recorded: bytearray) -> None:
    while chunk := await source.read(_CHUNK_BYTES):
        recorded += chunk
        sink.write(chunk)
        await sink.drain()


async def _pass_on_all(source: asyncio.StreamReader, sink: asyncio.StreamWriter, recorded: bytearray) -> None:
    """A server may answer and close the connection before it has the whole request. The answer then still counts."""
    with contextlib.suppress(ConnectionError):
        await _pass_on(source, sink, recorded)
    sink.close()
    await asyncio.Event().wait()  # until the answers end
