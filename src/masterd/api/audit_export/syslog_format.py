"""Messages of syslog.

To a server: RFC 5424. By UDP, a message is a datagram (RFC 5426). By TCP and TLS, its length precedes it (RFC 6587,
RFC 5425). To the socket of this PC: the format of the C library, because journald and rsyslog expect it there.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime

from masterd.api.audit_export.records import ExportRecord

PROGRAM = "masterd"
LINE_BYTES_MAX = 1_800
"""With the header a message has less than 2,048 bytes, which every receiver accepts (RFC 5425)."""
_AUTHPRIV = 10
_NOTICE, _WARNING = 5, 4
_ROUTINE = ("command", "login")


def priority(record: ExportRecord) -> int:
    return _AUTHPRIV * 8 + (_NOTICE if record.event in _ROUTINE else _WARNING)


def server_message(record: ExportRecord, host: str, pid: int) -> bytes:
    """The message to a server. host: this PC's name."""
    at = datetime.fromtimestamp(max(0.0, min(record.time, 2e11)), UTC).isoformat(timespec="milliseconds")
    kind = record.event.replace(" ", "-")[:32]
    head = f"<{priority(record)}>1 {at.replace('+00:00', 'Z')} {_name(host)} {PROGRAM} {pid} {kind} - "
    return (head + record.line(LINE_BYTES_MAX)).encode("ascii", "replace")


def framed(message: bytes) -> bytes:
    """A message for a connection: its length, a space, and the message."""
    return b"%d %s" % (len(message), message)


def local_message(record: ExportRecord, pid: int) -> bytes:
    """The message to the socket of this PC. The time in its head is the present one: RFC 3164 has no year."""
    at = time.strftime("%b %d %H:%M:%S")
    head = f"<{priority(record)}>{at} {PROGRAM}[{pid}]: "
    return (head + record.line(LINE_BYTES_MAX)).encode("ascii", "replace")


def _name(host: str) -> str:
    return "".join(char for char in host if "!" <= char <= "~")[:255] or "-"
