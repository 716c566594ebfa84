"""Sees each FIN and RST that crosses the LAN: the proof that a host which lost its power said goodbye to nobody."""

from __future__ import annotations

import ctypes
import socket
import struct
import time
from collections import deque
from dataclasses import dataclass

_IPV4 = 0x0800
_KEPT = 50_000
_SO_ATTACH_FILTER = 26
# Of cooked IPv4 packets (the IP header is at 0): those of TCP with FIN (1) or RST (4). `(code, jt, jf, k)`
_FILTER = (
    (0x30, 0, 0, 9),  # ldb [9], the protocol
    (0x15, 0, 4, 6),  # is it TCP?
    (0xB1, 0, 0, 0),  # x = length of the IP header
    (0x50, 0, 0, 13),  # ldb [x + 13], the flags
    (0x45, 0, 1, 0x05),
    (0x06, 0, 0, 64),  # keep 64 bytes
    (0x06, 0, 0, 0),
)


@dataclass(frozen=True, slots=True)
class Goodbye:
    """`at`: seconds on the monotonic clock, as it crossed the LAN."""

    at: float
    source: str
    target: str
    kind: str


class Capture:
    """Of every FIN and RST on all interfaces of this network namespace. `look` now and then, from the event loop."""

    def __init__(self) -> None:
        self._seen: deque[Goodbye] = deque(maxlen=_KEPT)
        program = b"".join(struct.pack("HBBI", *step) for step in _FILTER)
        self._program = ctypes.create_string_buffer(program)
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, socket.htons(_IPV4))
        self._socket.setsockopt(
            socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", len(_FILTER), ctypes.addressof(self._program))
        )
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._socket.setsockopt(socket.SOL_SOCKET, 35, 1)  # SO_TIMESTAMPNS: when it crossed, not when we look

    def look(self) -> None:
        """Take what has come since."""
        offset = time.time() - time.monotonic()
        while True:
            try:
                packet, extra, _, _ = self._socket.recvmsg(64, 128)
            except BlockingIOError:
                return
            header = (packet[0] & 0x0F) * 4
            if len(packet) < header + 14:
                continue
            stamps = [struct.unpack("qq", data[:16]) for _, _, data in extra if len(data) >= 16]
            at = stamps[0][0] + stamps[0][1] / 1e9 - offset if stamps else time.monotonic()
            kind = "RST" if packet[header + 13] & 0x04 else "FIN"
            self._seen.append(Goodbye(at, socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20]), kind))

    def of(self, source: str, since: float) -> list[Goodbye]:
        """What `source` (an address) has said since then."""
        self.look()
        return [seen for seen in self._seen if seen.source == source and seen.at >= since]

    def close(self) -> None:
        self._socket.close()
