"""A killed process with much memory: its connections break and its port refuses before the memory is freed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux frees memory before it closes files")

_SOON_S = 10.0
_PROGRAM = """
import socket, subprocess, sys, time
from nodestore.processes.quick_close import close_files_first
helper = close_files_first()
listening = socket.create_server(("127.0.0.1", 0))
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
child = subprocess.run([sys.executable, "-c", "print(7)"], capture_output=True, text=True)
print(helper, listening.getsockname()[1], child.stdout.strip(), flush=True)
if sys.argv[2] == "wait":
    time.sleep(600)
"""


@dataclass
class _Running:
    """A process that has started the helper. connection: to the process. port: where it listens."""

    process: subprocess.Popen[str]
    helper: int
    port: int
    connection: socket.socket


@contextmanager
def _running(then: str = "wait") -> Iterator[_Running]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(server.getsockname()[1]), then], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        try:
            connection, _ = server.accept()
            connection.settimeout(_SOON_S)
            helper, port, printed = process.stdout.readline().split()
            assert printed == "7", "a child process works as ever"
            with connection:
                yield _Running(process, int(helper), int(port), connection)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _eventually(check: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + _SOON_S
    while not check():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=_SOON_S).close()
    except ConnectionRefusedError:
        return True
    return False


def test_the_helper_holds_no_connection() -> None:
    """While it is suspended, and so holds the memory: the connection breaks and the port refuses nevertheless."""
    with _running() as running:
        name = Path(f"/proc/{running.helper}/comm")
        assert _eventually(lambda: name.read_text().strip() == "quick-close")
        os.kill(running.helper, signal.SIGSTOP)
        try:
            running.process.kill()
            with suppress(ConnectionResetError):
                assert running.connection.recv(1) == b""
            assert _eventually(lambda: _is_refused(running.port))  # the files are closed one after the other
            assert _is_alive(running.helper)
        finally:
            os.kill(running.helper, signal.SIGCONT)
        assert _eventually(lambda: not _is_alive(running.helper)), "the memory is freed"


@pytest.mark.parametrize("end", ["killed", "terminated", "exits"])
def test_the_helper_ends_with_its_process(end: str) -> None:
    """However that ends."""
    with _running("exit" if end == "exits" else "wait") as running:
        if end != "exits":
            running.process.send_signal(signal.SIGKILL if end == "killed" else signal.SIGTERM)
        assert (
            running.process.wait(_SOON_S) == {"killed": -signal.SIGKILL, "terminated": -signal.SIGTERM, "exits": 0}[end]
        )
        assert _eventually(lambda: not _is_alive(running.helper))


def test_signals_to_all_processes_leave_the_helper_alone() -> None:
    """A terminal and a service manager send them. The helper ends with its process, not before. If it is killed, the
    process goes on."""
    with _running() as running:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(running.helper, number)
        assert _is_alive(running.helper)
        os.kill(running.helper, signal.SIGKILL)
        assert _eventually(lambda: not _is_alive(running.helper))
        assert running.process.poll() is None
        running.process.kill()
        with suppress(ConnectionResetError):
            assert running.connection.recv(1) == b""
