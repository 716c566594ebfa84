"""Load that does not wait: requests at a fixed rate, whatever becomes of the earlier ones.

Clients that wait for their answers slow down with the master, and so hide what happens when it is overloaded.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

from nodestore.support.jsonio import dumps, loads

COMMANDS_A_REQUEST = 64
"""So many that the requests in flight hold more commands than a leader queues, or it would never have to refuse any."""
WAIT_S = 5.0
"""After this long a client no longer waits for its answer, and says so to the master."""
_TICK_S = 0.01
_OUTSTANDING_MAX = 360
"""Requests in flight. The limit is that of the generator, which must not fail before the master does."""

_HEAD = (
    f"POST /v1/commands HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    f"Nodectl-Timeout-Ms: {round(WAIT_S * 1000)}\r\nContent-Length: %d\r\n\r\n"
).encode()
_ASK_INDEX = b"GET /v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)

MakeCommand = Callable[[int, int], dict[str, object]]
"""Returns the command of a number, as in the body of a request. The second argument is the last known index."""


@dataclass
class LoadResult:
    """What became of the commands that were offered in `seconds`."""

    seconds: float
    offered: int = 0
    served: int = 0
    refused: int = 0
    failed: int = 0
    """Neither served nor refused: no answer in time, or a broken connection."""
    unsent: int = 0
    """Not sent, because the generator had too many requests in flight."""
    without_retry_after: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    """The failed commands, by the code of the problem or the kind of error."""
    latencies_s: list[float] = field(default_factory=list, repr=False)

    @property
    def rate(self) -> float:
        """Commands served in each second."""
        return self.served / self.seconds

    def note_failures(self, why: str, commands: int) -> None:
        """Count commands that failed for this reason."""
        if commands:
            self.failed += commands
            self.failures[why] = self.failures.get(why, 0) + commands


async def offer(
    url: str, make_command: MakeCommand, rate: float, seconds: float, *, a_request: int = COMMANDS_A_REQUEST
) -> LoadResult:
    """Offer `rate` commands a second for `seconds` seconds to the leader at `url`; wait for the last answers."""
    result, number, senders = LoadResult(seconds), 0, _Senders(url)
    await senders.learn_index()
    async with asyncio.TaskGroup() as requests:
        began = time.monotonic()
        while (elapsed_s := time.monotonic() - began) < seconds:
            while number < elapsed_s * rate:
                first, number = number, number + a_request
                result.offered += a_request
                if senders.in_flight >= _OUTSTANDING_MAX:
                    result.unsent += a_request
                    continue
                commands = [make_command(first + position, senders.index) for position in range(a_request)]
                senders.in_flight += 1
                requests.create_task(senders.send(commands, result))
            await asyncio.sleep(_TICK_S)
    senders.close()
    return result


async def saturate(
    url: str, make_command: MakeCommand, callers: int, seconds: float, *, a_request: int = COMMANDS_A_REQUEST
) -> LoadResult:
    """Send as many commands as the leader at `url` takes from callers that wait for their answers."""
    result, numbers, senders = LoadResult(seconds), itertools.count(), _Senders(url)
    await senders.learn_index()
    ends = time.monotonic() + seconds

    async def caller() -> None:
        while time.monotonic() < ends:
            commands = [make_command(next(numbers), senders.index) for _ in range(a_request)]
            result.offered += a_request
            senders.in_flight += 1
            await senders.send(commands, result)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(callers):
            tasks.create_task(caller())
    senders.close()
    return result


class _Senders:
    """Connections to one master, each used by one request at a time, and kept until the master closes it.

    It speaks HTTP itself: a library would use more of the cores than the master that it overloads.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = str(parts.hostname), parts.port or 80
        self._idle: list[_Connection] = []
        self.in_flight = 0
        """Requests that were given to `send` and have not ended. The caller counts them up, before the task begins."""
        self.index = 0
        """The highest index that an answer held. A command that names an older one may be too old to be run: a leader
        forgets the ids of earlier commands within seconds at these rates."""

    async def learn_index(self) -> None:
        """Ask the leader for its index. Raises TimeoutError or OSError."""
        async with asyncio.timeout(WAIT_S):
            connection = await self._connection()
            _, answer = await connection.exchange(_ASK_INDEX)
        self.index = loads(answer)["index"]
        self._idle.append(connection)

    async def send(self, commands: list[dict[str, object]], result: LoadResult) -> None:
        """Send one request, and count what becomes of it."""
        began, body = time.monotonic(), dumps({"commands": commands})
        try:
            async with asyncio.timeout(WAIT_S):
                connection = await self._connection()
                head, answer = await connection.exchange(_HEAD % len(body) + body)
        except (TimeoutError, OSError) as error:
            result.note_failures(type(error).__name__, len(commands))
            return
        finally:
            self.in_flight -= 1
        self.index = max(self.index, _count(head, answer, len(commands), result, time.monotonic() - began))
        if b"connection: close" in head.lower():
            connection.close()
        else:
            self._idle.append(connection)

    async def _connection(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        loop = asyncio.get_running_loop()
        return (await loop.create_connection(_Connection, self._host, self._port))[1]

    def close(self) -> None:
        for connection in self._idle:
            connection.close()


def _count(head: bytes, answer: bytes, commands: int, result: LoadResult, took_s: float) -> int:
    """Count the outcomes of one request; return the index that the answer holds, or 0."""
    if head.startswith(b"HTTP/1.1 503"):
        result.refused += commands
        result.without_retry_after += 0 if b"retry-after" in head.lower() else commands
        return 0
    if not head.startswith(b"HTTP/1.1 200"):
        result.note_failures(loads(answer)["code"], commands)
        return 0
    answered = loads(answer)
    problems = [outcome["problem"] for outcome in answered["results"] if "problem" in outcome]
    result.served += len(answered["results"]) - len(problems)
    for problem in problems:
        if problem["status"] == 503:
            result.refused += 1
        else:
            result.note_failures(problem["code"], 1)
    result.latencies_s.append(took_s)
    return int(answered["index"])


class _Connection(asyncio.Protocol):
    """One connection, which sends a request and returns the headers and body of its answer."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._answer: asyncio.Future[tuple[bytes, bytes]] | None = None

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    async def exchange(self, request: bytes) -> tuple[bytes, bytes]:
        """Send these bytes; return the headers and the body of the answer. Raises OSError if there is none."""
        self._answer, self._received = asyncio.get_running_loop().create_future(), b""
        if self._transport is None:
            raise ConnectionResetError("the connection was closed")
        self._transport.write(request)
        try:
            return await self._answer
        except asyncio.CancelledError:
            self.close()
            raise

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end or self._answer is None or self._answer.done():
            return
        length = _LENGTH.search(head)
        if length is not None and len(body) >= int(length[1]):
            self._answer.set_result((head, body))

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError("the connection was closed"))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
