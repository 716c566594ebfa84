"""Admission: which connections, bodies and commands this masterd accepts. Pure: callers pass in the time.

Everything that a client can make masterd hold is bounded here: connections, bytes of bodies in flight, and the time
that one step of parsing holds the interpreter. What is refused is refused before it costs anything. This module knows
nothing of the HTTP server: `connection_guard` and `body_reader` apply its decisions.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from enum import Enum

VALUES_MAX = 60_000
"""Limit for `parse_cost` of one body. The slowest kinds of JSON take 0.2 us a unit, so parsing takes 12 ms or less."""
BYTES_PER_VALUE = 64
"""Bytes to reserve for each value of a parsed body: a small body of many values needs much more memory once parsed."""
_ESCAPES_PER_VALUE = 8
_HEAD_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,18})[ \t]*(?=\r\n)")
_UNPLAIN = re.compile(rb"(?<!\r)\n|\r(?!\n)|\r\n[ \t]|\r\n(?:transfer-encoding|expect|connection)")


class Caller(Enum):
    """Where a connection comes from, as far as it is known before its first request."""

    STRANGER = "stranger"
    LOOPBACK = "loopback"
    """This PC: any number of programs, or a proxy that passes on the requests of many."""
    MASTER = "master"
    """The PC of another masterd: a standby passes on the requests of many clients."""


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """Limits of one masterd. Times are in seconds."""

    body_bytes_max: int = 1 << 20
    bytes_in_flight_max: int = 32 << 20
    connections_max: int = 512
    connections_per_stranger_max: int = 64
    connections_per_known_max: int = 384
    """For each address of a master, and for this PC."""
    connections_reserved: int = 64
    """Of `connections_max`, for masters alone: heartbeats and forwarded requests must get through."""
    receive_s: float = 10.0
    """Limit for the headers of a request, and again for its body."""
    idle_s: float = 75.0
    """A connection without a request is closed after this long."""
    stalled_s: float = 15.0
    """A connection whose client reads nothing of an answer is closed after this long."""
    linger_s: float = 2.0
    """How long the rest of a refused body is read and discarded, so that the client can read the answer."""
    head_bytes_max: int = 64 << 10
    """Limit for the request line and headers together."""


class Admission:
    """Counts what is held, and decides what else may be held."""

    def __init__(self, limits: AdmissionLimits) -> None:
        self.limits = limits
        self.bytes_in_flight = 0
        self._by_address: Counter[str] = Counter()
        self._count = 0

    @property
    def connections(self) -> int:
        return self._count

    def connect(self, address: str, caller: Caller) -> str | None:
        """Count a new connection from `address`; or return why it is refused, and do not count it."""
        limits, held = self.limits, self._by_address[address]
        most = limits.connections_per_stranger_max if caller is Caller.STRANGER else limits.connections_per_known_max
        total = limits.connections_max - (0 if caller is Caller.MASTER else limits.connections_reserved)
        if held >= most:
            return f"{held} connections are open from {address}, the limit is {most}: close some"
        if self._count >= total:
            return f"{self._count} connections are open, the limit is {total}; try again in a moment"
        self._by_address[address] += 1
        self._count += 1
        return None

    def disconnect(self, address: str) -> None:
        """Count a connection that was admitted and has ended."""
        self._count -= 1
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]

    def body_refusal(self, length: int | None) -> str | None:
        """Why a body of this declared length (None: unknown) is too large; None if it is not."""
        if length is not None and length > self.limits.body_bytes_max:
            return f"the body has {length} bytes; the limit is {self.limits.body_bytes_max}"
        return None

    def reserve(self, size: int) -> bool:
        """Reserve `size` bytes for a body or what becomes of it. False, and nothing is reserved, if too many are."""
        if self.bytes_in_flight + size > self.limits.bytes_in_flight_max:
            return False
        self.bytes_in_flight += size
        return True

    def release(self, size: int) -> None:
        """Give back bytes that `reserve` reserved."""
        self.bytes_in_flight -= size


def parse_cost(separators: int, escapes: int) -> int:
    """The cost of parsing a JSON text, in values.

    separators: how many of `{ [ , :` are outside of its strings, or an upper limit of it. Each value but the first
    comes after one of them. escapes: how many backslashes it has.
    """
    return separators + escapes // _ESCAPES_PER_VALUE


def plain_size(data: bytes) -> int | None:
    """The size of the request with which `data` begins, headers and body, in bytes.

    None if that is not plain: the headers are not complete, they do not give one length, or something else may decide
    where the next request begins. Such a connection cannot be kept without parsing the request.
    """
    end = data.find(_HEAD_END) + 2
    head = data[:end].lower()
    first, _, _ = head.partition(b"\r\n")
    lengths = _LENGTH.findall(head)
    if not first.endswith(b" http/1.1") or head.count(b"\r\ncontent-length") != len(lengths) or len(lengths) != 1:
        return None
    return None if _UNPLAIN.search(head) else end + 2 + int(lengths[0])


def caller_of(address: str, masters: frozenset[str]) -> Caller:
    """What is known of a caller by its address. masters: the addresses of other masterds."""
    address = address.removeprefix("::ffff:")  # IPv4, as a socket for both kinds of addresses shows it
    if address in masters:
        return Caller.MASTER
    if address in ("", "::1") or address.startswith("127."):  # "": a socket without an address
        return Caller.LOOPBACK
    return Caller.STRANGER


class ConnectionPhase(Enum):
    """What a connection waits for."""

    IDLE = "the first byte of a request"
    HEADERS = "the rest of the headers"
    HANDLED = "the answer to a request"
    CLOSING = "the end, after an answer that closes it"


class ConnectionClock:
    """The time limits of one connection. Pure: each method takes the time of a monotonic clock."""

    def __init__(self, limits: AdmissionLimits, now: float) -> None:
        self._limits = limits
        self.phase = ConnectionPhase.IDLE
        self._deadline: float | None = now + limits.idle_s
        self._head_bytes = 0
        self._head_tail = b""
        self._stalled_at: float | None = None
        self._unsent = 0

    def received(self, data: bytes, now: float) -> bool:
        """Note that bytes arrived. False if the headers of a request are longer than the limit."""
        if self.phase is ConnectionPhase.IDLE:
            self.phase, self._deadline = ConnectionPhase.HEADERS, now + self._limits.receive_s
            self._head_bytes, self._head_tail = 0, b""
        elif self.phase is not ConnectionPhase.HEADERS:
            return True
        begins = self._head_tail + data[: self._limits.head_bytes_max]
        if (end := begins.find(_HEAD_END)) >= 0:
            self.request_begun()
            return self._head_bytes + end <= self._limits.head_bytes_max
        self._head_bytes += len(data)
        self._head_tail = data[-len(_HEAD_END) + 1 :]
        return self._head_bytes <= self._limits.head_bytes_max

    def request_begun(self) -> None:
        """Note that the headers are complete. Further bytes are its body, or a next request, not examined yet."""
        self.phase, self._deadline = ConnectionPhase.HANDLED, None

    def request_ended(self, closes: bool, now: float) -> None:
        """Note that the answer is ready. closes: the connection ends after it."""
        self.phase = ConnectionPhase.CLOSING if closes else ConnectionPhase.IDLE
        self._deadline = now + (self._limits.linger_s + self._limits.stalled_s if closes else self._limits.idle_s)

    def stalled(self, unsent: int, now: float) -> None:
        """Note that `unsent` bytes of answers wait because the client does not read."""
        self._stalled_at, self._unsent = now, unsent

    def resumed(self) -> None:
        """Note that the client reads again."""
        self._stalled_at = None

    def expired(self, unsent: int, now: float) -> str | None:
        """Why the connection must end now; None if it may go on. unsent: bytes that the client has not read yet."""
        if self._stalled_at is not None and now - self._stalled_at >= self._limits.stalled_s:
            if unsent >= self._unsent:
                return f"the client read nothing for {self._limits.stalled_s:g} s"
            self._stalled_at, self._unsent = now, unsent
        if self._deadline is not None and now >= self._deadline and self._stalled_at is None:
            return f"it waited too long for {self.phase.value}"
        return None
