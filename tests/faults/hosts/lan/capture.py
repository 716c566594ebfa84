"""Sees each SYN, FIN and RST that crosses the LAN: the proof that a host which lost its power said goodbye to nobody,
neither then nor when it was back.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import time
from collections import deque
from dataclasses import dataclass

_ALL = 0x0003
"""Of all protocols: those who listen to one get only what the bridge does not pass on from host to host."""
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
    """The capture may have missed something: it proves nothing."""


@dataclass(frozen=True, slots=True)
class SeenPacket:
    """`at`: seconds on the monotonic clock, as it crossed the LAN. `ports`: of source and target."""

    at: float
    source: str
    target: str
    ports: tuple[int, int]
    kind: str

    @property
    def connection(self) -> frozenset[tuple[str, int]]:
        """The same for both directions."""
        return frozenset(((self.source, self.ports[0]), (self.target, self.ports[1])))


class Capture:
    """Of the beginnings and ends of connections on all interfaces of this network namespace. `drain` now and then, from
    the event loop."""

    def __init__(self) -> None:
        self._seen: deque[SeenPacket] = deque(maxlen=_KEPT)
        program = b"".join(struct.pack("HBBI", *step) for step in _FILTER)
        self._program = ctypes.create_string_buffer(program)
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, socket.htons(_ALL))
        self._socket.setsockopt(
            socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", len(_FILTER), ctypes.addressof(self._program))
        )
        self._socket.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)  # it has come in by another port before
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)  # when it crossed, not when we look

    def drain(self) -> None:
        """Take what has come since. CaptureError when there was more than the buffer holds."""
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
        """FINs and RSTs that `source` (an address) has said since then."""
        self.drain()
        return [seen for seen in self._seen if seen.source == source and seen.at >= since and seen.kind != "SYN"]

    def leftovers(self, source: str, since: float) -> list[SeenPacket]:
        """FINs that it has said since then on connections that are older: of programs that lost their power. (A kernel
        that has just booted does answer with RST whatever comes on such a connection.)"""
        self.drain()
        return leftovers(self._seen, source, since)

    def close(self) -> None:
        self._socket.close()


def parsed(packet: bytes, at: float) -> SeenPacket | None:
    """An IPv4 packet of TCP; None when it is too short."""
    header = (packet[0] & 0x0F) * 4 if packet else 0
    if len(packet) < header + 14:
        return None
    flags = packet[header + 13]
    kind = "RST" if flags & 0x04 else "FIN" if flags & 0x01 else "SYN"
    ports = struct.unpack("!HH", packet[header : header + 4])
    return SeenPacket(at, socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20]), ports, kind)


def leftovers(all_seen: deque[SeenPacket] | list[SeenPacket], source: str, since: float) -> list[SeenPacket]:
    """As `Capture.leftovers`, of these."""
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
