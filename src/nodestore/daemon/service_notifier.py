"""Notifies the service manager that started this program: systemd, by the protocol of sd_notify(3).

| message | when |
| --- | --- |
| `READY=1` | the program does its job, with or without etcd |
| `STATUS=` | one line for `systemctl status`, when it changes |
| `RELOADING=1`, then `READY=1` | files are read again |
| `STOPPING=1` | the program begins to stop |
| `WATCHDOG=1` | the event loop runs. If the message fails to come for `WatchdogSec=`, systemd kills the program |

Without NOTIFY_SOCKET, as on Windows, in a container or a terminal, nothing is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import socket
import sys
from collections.abc import Callable, Iterator, MutableMapping
from typing import NoReturn

from nodestore.support.logs import RateLimitedLog, one_line

log = logging.getLogger(__name__)

_PAUSE_MAX_S = 2.0
_STATUS_CHARS_MAX = 200
_BEATS_PER_LIMIT = 4
"""A beat may come late by three quarters of the limit, because the PC is busy, before systemd kills the program."""
_PAUSE_MIN_S = 0.05


class ServiceNotifier:
    """Sends the messages of one process. Create it before the process starts threads or children.

    It removes its variables from `environ`: a program that this process starts must not send in its name. A message
    that systemd does not take at once is dropped, so nothing here ever waits. `READY=1` is repeated until it was taken.
    """

    def __init__(self, environ: MutableMapping[str, str] | None = None, pid: int | None = None) -> None:
        environ = os.environ if environ is None else environ
        address, limit, of_pid = (environ.pop(name, "") for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"))
        self._failures = RateLimitedLog(log, math.inf)
        self._address = self._checked(address)
        self._limit_s = _watchdog_s(limit, of_pid, os.getpid() if pid is None else pid)
        self._is_ready = False
        self._status = ""

    @property
    def pause_s(self) -> float:
        """The interval of the messages of `run`."""
        return _PAUSE_MAX_S if self._limit_s is None else _pause_s(self._limit_s)

    async def run(self, status: Callable[[], str] = lambda: "") -> NoReturn:
        """Report that the program is ready, then send beats and the changes of its status until cancelled.

        status: returns one line about the state of the program.
        """
        if self._address is None:
            await asyncio.Event().wait()
        while True:
            self._report(one_line(status(), _STATUS_CHARS_MAX))
            await asyncio.sleep(self.pause_s)

    @contextlib.contextmanager
    def reloading(self) -> Iterator[None]:
        """Report that the program reads its files again, and at the end that it is ready as before."""
        self._send("RELOADING=1")
        try:
            yield
        finally:
            self._is_ready = self._send("READY=1")

    def stopping(self) -> None:
        """Report that the program begins to stop. systemd then waits for no further beat."""
        self._send("STOPPING=1", "STATUS=stopping")

    def _report(self, status: str) -> None:
        ready = [] if self._is_ready else ["READY=1"]
        changed = [f"STATUS={status}"] if status != self._status else []
        beat = ["WATCHDOG=1"] if self._limit_s is not None else []
        if (lines := [*ready, *changed, *beat]) and self._send(*lines):
            self._is_ready, self._status = True, status

    def _send(self, *lines: str) -> bool:
        """Send one message; return whether it was taken."""
        if sys.platform == "win32" or self._address is None:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as own:
                own.sendto("\n".join(lines).encode("utf-8", "backslashreplace"), self._address)
        except OSError as error:  # its queue is full, or it is being replaced by a newer systemd
            self._failures.log(logging.WARNING, f"the service manager takes no message: {error.strerror or error}")
            return False
        return True

    def _checked(self, address: str) -> str | None:
        """The address to send to; None if there is none. `@name` stands for an abstract address."""
        if sys.platform == "win32" or not address:
            return None
        if address[0] not in "/@":  # vsock:..., from outside a virtual machine
            self._failures.log(logging.WARNING, f"NOTIFY_SOCKET {address!r} is no Unix socket: nothing is sent to it")
            return None
        return f"\0{address[1:]}" if address[0] == "@" else address


def _watchdog_s(limit_us: str, of_pid: str, pid: int) -> float | None:
    """The limit of the watchdog in seconds; None if there is none, or if it is another process's."""
    if not limit_us.isdecimal() or int(limit_us) == 0 or (of_pid and of_pid != str(pid)):
        return None
    return int(limit_us) / 1e6


def _pause_s(limit_s: float) -> float:
    return max(min(limit_s / _BEATS_PER_LIMIT, _PAUSE_MAX_S), _PAUSE_MIN_S)
