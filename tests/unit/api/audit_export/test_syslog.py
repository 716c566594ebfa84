"""Syslog: the formats, and servers that take messages by UDP, TCP, TLS and the socket of a PC."""

from __future__ import annotations

import re
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from masterd.api.audit_export import syslog_sink
from masterd.api.audit_export.records import ExportRecord
from masterd.api.audit_export.syslog_format import LINE_BYTES_MAX, framed, local_message, server_message
from masterd.api.audit_export.syslog_sink import local_sink, server_sink
from nodestore.support.values import Address
from tests.support.certificates import Authority

RECORD = ExportRecord("token created", 1_700_000_000.25, {"detail": "é\n"})
_WAIT_S = 10.0


def test_a_message_to_a_server_is_that_of_rfc_5424() -> None:
    """Version, time in UTC, host, program, process, kind, no structured data; then the line, in ASCII."""
    message = server_message(RECORD, "pc 1", 42)
    assert message == (
        b'<84>1 2023-11-14T22:13:20.250Z pc1 masterd 42 token-created - {"event":"token created",'
        b'"time":1700000000.25,"detail":"\\u00e9\\n"}'
    )
    command = server_message(ExportRecord("command", 1e300, {}), "", 1)
    assert re.match(rb"<85>1 8307-\S+Z - masterd 1 command - {", command)


def test_the_longest_message_has_less_than_2048_bytes() -> None:
    message = server_message(ExportRecord("x" * 99, 0.0, {"detail": "y" * 9_999}), "h" * 999, 1 << 22)
    assert len(message) < 2_048
    assert LINE_BYTES_MAX < 2_048


def test_a_message_on_a_connection_follows_its_length() -> None:
    assert framed(b"<84>1 x") == b"7 <84>1 x"


def test_a_message_to_the_socket_of_this_pc_has_the_format_of_the_c_library() -> None:
    assert re.match(rb'<84>[A-Z][a-z]{2} \d\d \d\d:\d\d:\d\d masterd\[42\]: {"event":', local_message(RECORD, 42))


def test_datagrams_arrive_one_message_each() -> None:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(_WAIT_S)
        sink = server_sink(Address("127.0.0.1", server.getsockname()[1]), udp=True)
        sink.write([RECORD, RECORD])
        assert [server.recv(4_096)[:5] for _ in range(2)] == [b"<84>1"] * 2
        sink.close()


def test_a_port_that_takes_no_datagrams_is_an_error() -> None:
    """The kernel reports it at the next message."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    sink = server_sink(Address("127.0.0.1", port), udp=True)
    with pytest.raises(OSError, match="refused"):
        sink.write([RECORD] * 50)


class Server:
    """A syslog server for one connection after another. It reads messages by their length."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.messages: list[bytes] = []
        self.arrived, self.closed = threading.Semaphore(0), threading.Semaphore(0)
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = Address("127.0.0.1", self._listener.getsockname()[1])
        self.connections: list[socket.socket] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
                served = connection if self._tls is None else self._tls.wrap_socket(connection, server_side=True)
                self.connections.append(served)
                with served.makefile("rb") as file:
                    while length := _length(file.read):
                        self.messages.append(file.read(length))
                        self.arrived.release()
                served.close()
                self.closed.release()
            except OSError:
                if self._listener.fileno() < 0:
                    return

    def close(self) -> None:
        self._listener.close()
        for connection in self.connections:
            connection.close()


def _length(read: object) -> int:
    digits = b""
    while (byte := read(1)) not in (b" ", b""):  # type: ignore[operator]
        digits += byte
    return int(digits or b"0")


@contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    with closing(Server(tls)) as server:
        yield server


def test_a_connection_carries_messages_with_their_lengths() -> None:
    with serving() as server:
        sink = server_sink(server.address)
        sink.write([RECORD, RECORD])
        sink.write([RECORD])
        for _ in range(3):
            assert server.arrived.acquire(timeout=_WAIT_S)
        assert len(server.connections) == 1
        assert all(message.endswith(b'"detail":"\\u00e9\\n"}') for message in server.messages)
        sink.close()


def test_a_connection_that_the_server_closed_is_an_error_before_anything_is_sent() -> None:
    """Else the first message after it would be lost without an error."""
    with serving() as server:
        sink = server_sink(server.address)
        sink.write([RECORD])
        assert server.arrived.acquire(timeout=_WAIT_S)
        server.connections[0].shutdown(socket.SHUT_RD)
        assert server.closed.acquire(timeout=_WAIT_S)
        with pytest.raises(OSError, match=r"closed|reset"):
            sink.sync()
        sink.write([RECORD])
        assert server.arrived.acquire(timeout=_WAIT_S)
        assert len(server.messages) == 2
        sink.close()


def test_a_server_that_reads_nothing_is_an_error_after_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syslog_sink, "_TIMEOUT_S", 0.2)
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        sink = server_sink(Address("127.0.0.1", listener.getsockname()[1]))
        long = ExportRecord("command", 1.0, {"detail": "x" * 1_700})
        with pytest.raises(OSError, match="timed out"):
            sink.write([long] * 20_000)
        sink.close()


def test_messages_over_tls_reach_only_a_server_of_the_authority(tmp_path: Path) -> None:
    ours, other = Authority(tmp_path / "ours"), Authority(tmp_path / "other")
    cert, key = ours.issue("syslog")
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(cert, key)
    with serving(served) as server:
        sink = server_sink(server.address, tls=ssl.create_default_context(cafile=ours.ca))
        sink.write([RECORD])
        sink.sync()
        sink.write([RECORD])
        for _ in range(2):
            assert server.arrived.acquire(timeout=_WAIT_S)
        sink.close()
        stranger = server_sink(server.address, tls=ssl.create_default_context(cafile=other.ca))
        with pytest.raises(ssl.SSLCertVerificationError):
            stranger.write([RECORD])


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no local syslog")
def test_messages_reach_the_socket_of_this_pc(tmp_path: Path) -> None:
    path = tmp_path / "log"
    sink = local_sink(path)
    with pytest.raises(FileNotFoundError):
        sink.write([RECORD])
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as server:
        server.bind(str(path))
        server.settimeout(_WAIT_S)
        sink.write([RECORD])
        assert server.recv(4_096).startswith(b"<84>")
        sink.close()
