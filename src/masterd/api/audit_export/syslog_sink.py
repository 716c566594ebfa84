"""Exports to syslog: over UDP, TCP or TLS to a server, or to the socket of this PC.

Syslog has no acknowledgement. UDP may lose each message. Over TCP, what was sent before a connection broke may be lost,
so the last commands are sent again over the next one.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from masterd.api.audit_export.records import ExportRecord
from masterd.api.audit_export.syslog_format import framed, local_message, server_message
from nodestore.support.values import Address

LOCAL_SOCKET = Path("/dev/log")
_TIMEOUT_S = 5.0
_SEND_BUFFER_BYTES = 64 << 10
_REPEATS = 1_000
"""More than fit in the buffer of a connection, at the size of usual records."""

Pack = Callable[[ExportRecord], bytes]
Connect = Callable[[], socket.socket]


class SyslogSink:
    """Sends each record as one message. connect: opens a connection, on which pack's bytes are sent.

    repeats: see `sinks.Sink`. probes: whether the other end sends nothing, so that a readable connection has ended.
    """

    def __init__(self, connect: Connect, pack: Pack, *, repeats: int = 0, probes: bool = False) -> None:
        self._connect, self._pack, self.repeats, self._probes = connect, pack, repeats, probes
        self._socket: socket.socket | None = None

    def write(self, records: Sequence[ExportRecord]) -> None:
        try:
            if self._socket is None:
                self._socket = self._connect()
            elif self._probes:
                _check_open(self._socket)
            for record in records:
                self._socket.sendall(self._pack(record))
        except OSError:
            self.close()
            raise

    def sync(self) -> None:
        """Raise OSError if the connection was closed meanwhile."""
        if self._socket is not None and self._probes:
            try:
                _check_open(self._socket)
            except OSError:
                self.close()
                raise

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _check_open(connection: socket.socket) -> None:
    """Raise OSError if the other end has closed the connection: then what was sent before may be lost."""
    connection.setblocking(False)
    try:
        while True:
            if not connection.recv(1 << 12):
                raise ConnectionResetError(errno.ECONNRESET, "the server has closed the connection")
    except (BlockingIOError, ssl.SSLWantReadError):
        pass
    finally:
        connection.settimeout(_TIMEOUT_S)


def server_sink(address: Address, *, udp: bool = False, tls: ssl.SSLContext | None = None) -> SyslogSink:
    """A sink for a syslog server: by UDP, or by TCP, with TLS if a context is given."""
    host, pid = socket.gethostname(), os.getpid()

    def datagrams() -> socket.socket:
        family, kind, protocol, _, where = socket.getaddrinfo(*address, type=socket.SOCK_DGRAM)[0]
        opened = socket.socket(family, kind, protocol)
        opened.settimeout(_TIMEOUT_S)
        return _connected(opened, where)

    def stream() -> socket.socket:
        opened = socket.create_connection((address.host, address.port), _TIMEOUT_S)
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
            return opened if tls is None else tls.wrap_socket(opened, server_hostname=address.host)
        except OSError:
            opened.close()
            raise

    if udp:
        return SyslogSink(datagrams, lambda record: server_message(record, host, pid))
    return SyslogSink(stream, lambda record: framed(server_message(record, host, pid)), repeats=_REPEATS, probes=True)


def local_sink(path: Path = LOCAL_SOCKET) -> SyslogSink:
    """A sink for the syslog of this PC."""
    pid = os.getpid()

    def local() -> socket.socket:
        if sys.platform == "win32":
            raise OSError("this system has no local syslog")
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        opened.settimeout(_TIMEOUT_S)
        return _connected(opened, str(path))

    return SyslogSink(local, lambda record: local_message(record, pid))


def _connected(opened: socket.socket, where: object) -> socket.socket:
    try:
        opened.connect(where)  # type: ignore[arg-type]
    except OSError:
        opened.close()
        raise
    return opened
