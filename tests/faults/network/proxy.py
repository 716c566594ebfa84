"""A TCP proxy with faults on demand: it holds bytes, drops them, resets connections, or refuses new ones.

Each direction has a `Mode`. HOLD keeps the bytes and delivers them, in order, when the direction forwards again,
*even if the client has closed its connection meanwhile*. So a transaction can land after its sender has given up. For
this the connection to the server stays open, and a cancellation (HTTP/2's RST_STREAM and GOAWAY) that the client sends
while the call is held is dropped, as if the server had already begun.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from enum import Enum
from types import TracebackType
from typing import Self

from tests.support.etcd_cluster import free_ports

_CHUNK_BYTES = 1 << 16
_HELD_BYTES_MAX = 64 << 20
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEADER_BYTES = 9
_RST_STREAM, _GOAWAY = 3, 7


class Mode(Enum):
    FORWARD = "as if there were no proxy"
    HOLD = "keep the bytes until the direction forwards again"
    DROP = "lose the bytes; a connection that has lost some is closed when the direction forwards again"


class Up:
    """Direction from client to server."""


class Down:
    """Direction from server to client."""


class _Frames:
    """Splits the bytes of a client into HTTP/2 frames. Passes other protocols through unchanged."""

    def __init__(self) -> None:
        self._rest = b""
        self._http2: bool | None = None

    def feed(self, data: bytes) -> list[bytes]:
        self._rest += data
        found: list[bytes] = []
        if self._http2 is None:
            if len(self._rest) < len(_PREFACE) and _PREFACE.startswith(self._rest):
                return found
            self._http2 = self._rest.startswith(_PREFACE)
            if self._http2:
                found.append(_PREFACE)
                self._rest = self._rest[len(_PREFACE) :]
        if not self._http2:
            found.append(self._rest)
            self._rest = b""
            return found
        while len(self._rest) >= _HEADER_BYTES:
            size = _HEADER_BYTES + int.from_bytes(self._rest[:3], "big")
            if len(self._rest) < size:
                break
            found.append(self._rest[:size])
            self._rest = self._rest[size:]
        return found

    def withdraws(self, frame: bytes) -> bool:
        return bool(self._http2) and len(frame) > 3 and frame[3] in (_RST_STREAM, _GOAWAY)


class _Pipe:
    """One direction of one connection: an eager reader, a queue, a writer that obeys the mode."""

    def __init__(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, mode: Callable[[], Mode], *, up: bool
    ) -> None:
        self._source, self._sink, self._mode = source, sink, mode
        self._frames = _Frames() if up else None
        self._queue: deque[bytes] = deque()
        self._changed = asyncio.Event()
        self.queued_bytes = 0
        self.ended = False  # the source has closed its side
        self.lossy = False
        self.has_held = False

    def poke(self) -> None:
        """Wake the writer, because the mode may have changed."""
        self._changed.set()

    def discard(self) -> None:
        """Drop all bytes from now on, because their receiver is gone."""
        self.lossy = True
        self._queue.clear()
        self.queued_bytes = 0

    async def read(self) -> None:
        while data := await self._source.read(_CHUNK_BYTES):
            for piece in self._frames.feed(data) if self._frames else [data]:
                self._accept(piece)
            while self.queued_bytes > _HELD_BYTES_MAX:
                await self._wait()
        self.ended = True
        self.poke()

    def _accept(self, piece: bytes) -> None:
        mode = self._mode()
        if mode is Mode.DROP:
            self.lossy = True
        if self.lossy:
            return
        if mode is Mode.HOLD:
            if self._frames and self._frames.withdraws(piece):
                return
            self.has_held = True
        self._queue.append(piece)
        self.queued_bytes += len(piece)
        self.poke()

    async def write(self) -> None:
        """Pass bytes on until the source has ended and all of them are delivered."""
        while True:
            while self._queue and self._mode() is Mode.FORWARD and not self.lossy:
                piece = self._queue.popleft()
                self.queued_bytes -= len(piece)
                self._sink.write(piece)
                await self._sink.drain()
                self.poke()
            if self.lossy and self._mode() is Mode.FORWARD:
                raise ConnectionAbortedError("bytes were lost")
            if self.ended and not self._queue and self._mode() is Mode.FORWARD:
                return
            await self._wait()

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()


class Connection:
    """A client's connection and the proxy's own to the server."""

    def __init__(self, proxy: Proxy, client: _Streams, server: _Streams) -> None:
        self.source_port: int = client[1].get_extra_info("peername")[1]
        self.up = _Pipe(client[0], server[1], lambda: proxy.mode(self, Up), up=True)
        self.down = _Pipe(server[0], client[1], lambda: proxy.mode(self, Down), up=False)

    def poke(self) -> None:
        self.up.poke()
        self.down.poke()

    async def run(self) -> None:
        """Run until either side closes. If only the client has closed, its held bytes are still delivered."""
        jobs = [
            asyncio.create_task(coroutine)
            for coroutine in (self.up.read(), self.up.write(), self.down.read(), self.down.write())
        ]
        up_read, up_write, down_read, down_write = jobs
        try:
            pending = set(jobs)
            while down_read in pending or self.down.queued_bytes:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                if up_write in done and up_write.exception() is not None:
                    break  # the server closed, or bytes to it were lost
                if up_read in done or down_write in done:
                    if not self.up.has_held:
                        break
                    self.down.discard()  # the client has gone, but bytes of it may still be held
        finally:
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)


async def _abort(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Proxy:
    """Listens on a loopback port for `target` ("host:port"). `async with Proxy(target) as proxy`."""

    def __init__(self, target: str, *, port: int | None = None) -> None:
        host, _, target_port = target.rpartition(":")
        self._target = (host, int(target_port))
        self.port = port or free_ports(1)[0]
        self.up = Mode.FORWARD
        self.down = Mode.FORWARD
        self.accepted = 0
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def mode(self, connection: Connection, direction: type) -> Mode:
        """Return the mode of one direction of a connection. A subclass may choose a mode for each connection."""
        return self.up if direction is Up else self.down

    def set(self, *, up: Mode | None = None, down: Mode | None = None) -> None:
        """Set the mode of one direction or both, for present and future connections."""
        self.up, self.down = up or self.up, down or self.down
        self.poke()

    def stall(self) -> None:
        """Hold both directions, as if the host had vanished without closing its connections."""
        self.set(up=Mode.HOLD, down=Mode.HOLD)

    def forward(self) -> None:
        """Deliver the held bytes, and forward both directions from now on."""
        self.set(up=Mode.FORWARD, down=Mode.FORWARD)

    def poke(self) -> None:
        for connection in self._connections:
            connection.poke()

    @property
    def held_up_bytes(self) -> int:
        """The number of bytes that clients have sent and that are not yet delivered."""
        return sum(connection.up.queued_bytes for connection in self._connections)

    @property
    def held_down_bytes(self) -> int:
        """The number of bytes that the server has sent and that are not yet delivered."""
        return sum(connection.down.queued_bytes for connection in self._connections)

    async def wait_held(self, *, up_bytes: int = 0, down_bytes: int = 0, timeout_s: float = 10.0) -> None:
        """Wait until the proxy holds this many bytes. Raises TimeoutError."""
        deadline = time.monotonic() + timeout_s
        while self.held_up_bytes < up_bytes or self.held_down_bytes < down_bytes:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the proxy holds {self.held_up_bytes} up and {self.held_down_bytes} down")
            await asyncio.sleep(0.005)

    async def cut(self) -> None:
        """Reset all connections, drop the held bytes, and refuse new connections until `listen()`."""
        if self._server is not None:
            self._server.close()
            self._server = None
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def listen(self) -> None:
        """Accept connections; call it again after `cut()`."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(asyncio.CancelledError, OSError):  # cut() cancels; a server may be down
                server = await asyncio.open_connection(*self._target)
                await self._join((reader, writer), server)
        finally:
            self._tasks.remove(task)
            await _abort(writer)

    async def _join(self, client: _Streams, server: _Streams) -> None:
        connection = Connection(self, client, server)
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.remove(connection)
            await _abort(server[1])

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.cut()
