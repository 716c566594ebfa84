"""Captures each SYN, FIN and RST on the LAN: the proof that a host which lost its power closed no connection, neither
then nor after it was back.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import time
from collections import deque
from dataclasses import dataclass

_ALL = 0x0003
"""All protocols: a socket for a single protocol does not get packets that the bridge forwards between hosts."""
_IPV4 = 0x0800
_KEPT = 50_000
_BUFFER_BYTES = 16 << 20
_SO_ATTACH_FILTER = 26
_SO_RCVBUFFORCE = 33
_SO_TIMESTAMPNS = 35
_SOL_PACKET = 263
_PACKET_STATISTICS = 6
_PACKET_IGNORE_OUTGOING = 23
# Of cooked IPv4 packets (the IP header is at 0): those of TCP with FIN (1), SYN (2) or RST (4). `(code, jt, jf, k)`
_FILTER = (
    (0x28, 0, 0, 0xFFFFF000),  # ldh the packet's protocol
    (0x15, 0, 6, _IPV4),
    (0x30, 0, 0, 9),  # ldb [9], the protocol
    (0x15, 0, 4, 6),  # is it TCP?
    (0xB1, 0, 0, 0),  # x = length of the IP header
    (0x50, 0, 0, 13),  # ldb [x + 13], the flags
    (0x45, 0, 1, 0x07),
    (0x06, 0, 0, 64),  # keep 64 bytes
    (0x06, 0, 0, 0),
)


class CaptureError(AssertionError):
    """The capture may be incomplete, so it proves nothing."""


@dataclass(frozen=True, slots=True)
class SeenPacket:
    """A captured packet. `at`: when it crossed the LAN, on the monotonic clock. `ports`: of source and target."""

    at: float
    source: str
    target: str
    ports: tuple[int, int]
    kind: str

    @property
    def connection(self) -> frozenset[tuple[str, int]]:
        """The connection's two ends; the same value for both directions."""
        return frozenset(((self.source, self.ports[0]), (self.target, self.ports[1])))


class Capture:
    """The capture on all interfaces of this network namespace. Call `drain` regularly, from the event loop."""

    def __init__(self) -> None:
        self._seen: deque[SeenPacket] = deque(maxlen=_KEPT)
        program = b"".join(struct.pack("HBBI", *step) for step in _FILTER)
        self._program = ctypes.create_string_buffer(program)
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, socket.htons(_ALL))
        self._socket.setsockopt(
            socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", len(_FILTER), ctypes.addressof(self._program))
        )
        self._socket.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)  # it was captured when it came in
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)  # the time of the packet, not of `drain`

    def drain(self) -> None:
        """Take the captured packets from the socket. Raises CaptureError if its buffer overflowed."""
        offset = time.time() - time.monotonic()
        while True:
            try:
                packet, extra, _, _ = self._socket.recvmsg(64, 128)
            except BlockingIOError:
                break
            stamps = [struct.unpack("qq", data[:16]) for _, _, data in extra if len(data) >= 16]
            at = stamps[0][0] + stamps[0][1] / 1e9 - offset if stamps else time.monotonic()
            found = parsed(packet, at)
            if found is not None:
                self._seen.append(found)
        _, dropped = struct.unpack("II", self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        if dropped:
            raise CaptureError(f"the capture on the bridge lost {dropped} packets: it proves nothing")

    def ends_of(self, source: str, since: float) -> list[SeenPacket]:
        """Return the FINs and RSTs that `source` (an address) has sent since then."""
        self.drain()
        return [seen for seen in self._seen if seen.source == source and seen.at >= since and seen.kind != "SYN"]

    def leftovers(self, source: str, since: float) -> list[SeenPacket]:
        """Return the FINs that `source` has sent since then on older connections, those of programs without power.

        RSTs are allowed: a kernel that has just booted answers packets of unknown connections with RST.
        """
        self.drain()
        return leftovers(self._seen, source, since)

    def close(self) -> None:
        self._socket.close()


def parsed(packet: bytes, at: float) -> SeenPacket | None:
    """Parse an IPv4 TCP packet; return None if it is too short."""
    header = (packet[0] & 0x0F) * 4 if packet else 0
    if len(packet) < header + 14:
        return None
    flags = packet[header + 13]
    kind = "RST" if flags & 0x04 else "FIN" if flags & 0x01 else "SYN"
    ports = struct.unpack("!HH", packet[header : header + 4])
    return SeenPacket(at, socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20]), ports, kind)


def leftovers(all_seen: deque[SeenPacket] | list[SeenPacket], source: str, since: float) -> list[SeenPacket]:
    """Return the leftovers among these packets, see `Capture.leftovers`."""
    opened: set[frozenset[tuple[str, int]]] = set()
    found = []
    for seen in all_seen:
        if seen.at < since:
            continue
        if seen.kind == "SYN":
            opened.add(seen.connection)
        elif seen.kind == "FIN" and seen.source == source and seen.connection not in opened:
            found.append(seen)
    return found
