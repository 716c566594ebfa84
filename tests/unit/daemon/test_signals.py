"""What signals and console events do: to masterd and noded while they run, and while they start."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from nodestore.daemon.console import CTRL_CLOSE, CTRL_LOGOFF, CTRL_SHUTDOWN, ConsoleHandler
from nodestore.daemon.options import read_log_level
from nodestore.daemon.reread import reread_on_request
from nodestore.daemon.service_notifier import ServiceNotifier
from nodestore.daemon.signals import SignalEvents, hangup_handler
from nodestore.errors import Invalid
from nodestore.support import logs
from tests.support.waiting import eventually

SERVICE, DESKTOP = 0, 1
PATIENCE_S = 20.0
posix_only = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGHUP and no pseudo-terminals")

WAITS = """
import asyncio, os, sys
from nodestore.daemon.signals import handle_signals

async def main():
    events = handle_signals()
    done = open(sys.argv[1], "ab", buffering=0)
    os.write(1, b"ready" + os.linesep.encode())
    while not events.stop.is_set():
        await asyncio.wait([asyncio.create_task(e.wait()) for e in (events.stop, events.reread)],
                           return_when=asyncio.FIRST_COMPLETED)
        if events.reread.is_set():
            events.reread.clear()
            done.write(b"reread ")
    done.write(b"stopped")

asyncio.run(main())
"""


# --- SIGHUP -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("before", "then", "stops"), [(False, False, False), (True, True, False), (True, False, True)])
def test_a_hangup_stops_only_if_the_terminal_was_closed(before: bool, then: bool, stops: bool) -> None:
    """A service has no terminal; in a terminal that is still open, an operator sent the signal."""
    events, now = SignalEvents(), before
    handler = hangup_handler(events, lambda: now)
    now = then
    handler()
    assert (events.stop.is_set(), events.reread.is_set()) == (stops, not stops)


@posix_only
async def test_a_process_without_a_terminal_reads_files_again(tmp_path: Path) -> None:
    done = tmp_path / "done"
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WAITS, str(done), stdout=subprocess.PIPE, start_new_session=True
    )
    assert child.stdout is not None
    assert await child.stdout.readline() == b"ready\n"
    child.send_signal(signal.SIGHUP)
    await eventually(lambda: done.read_text() == "reread ", "it has read its files", timeout_s=PATIENCE_S)
    child.send_signal(signal.SIGTERM)
    assert await child.wait() == 0
    assert done.read_text() == "reread stopped"


@posix_only
async def test_a_closed_terminal_stops_the_process_in_order(tmp_path: Path) -> None:
    """The terminal is real: closing its other end makes the kernel send SIGHUP."""
    import pty

    done, errors = tmp_path / "done", tmp_path / "errors"
    pid, terminal = pty.fork()
    if pid == 0:
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT), 2)
        os.execv(sys.executable, [sys.executable, "-c", WAITS, str(done)])  # noqa: S606 - the child of fork
    shown = b""
    while not shown.endswith(b"\n"):  # until all of the line is there, or its write would fail
        shown += await asyncio.to_thread(os.read, terminal, 100)
    os.close(terminal)
    assert await asyncio.to_thread(os.waitpid, pid, 0) == (pid, 0), errors.read_text()
    assert done.read_text() == "stopped"


@posix_only
async def test_a_process_that_ignores_hangups_keeps_ignoring_them(tmp_path: Path) -> None:
    """As after `nohup`."""
    done = tmp_path / "done"
    ignoring = f"import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n{WAITS}"
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", ignoring, str(done), stdout=subprocess.PIPE)
    assert child.stdout is not None
    await child.stdout.readline()
    child.send_signal(signal.SIGHUP)
    child.send_signal(signal.SIGTERM)
    assert await child.wait() == 0
    assert done.read_text() == "stopped"


# --- what is read again -----------------------------------------------------------------------------------------------


async def test_the_log_level_is_read_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """From its file; a level that is none changes nothing; without the file, the level of the start is in force."""
    file, requested, root = tmp_path / "level", asyncio.Event(), logging.getLogger()
    before = root.level
    reading = asyncio.create_task(reread_on_request(requested, (), "info", file, ServiceNotifier({})))

    async def reread() -> int:
        requested.set()
        await eventually(lambda: not requested.is_set(), "it has been read")
        await asyncio.sleep(0)
        return root.level

    try:
        file.write_text("debug\n")
        assert await reread() == logging.DEBUG
        file.write_text("loud")
        assert await reread() == logging.DEBUG
        assert "'loud', which is not one of debug, info" in caplog.text
        file.unlink()
        assert await reread() == logging.INFO
    finally:
        reading.cancel()
        root.setLevel(before)


def test_a_wrong_level_in_the_file_is_invalid_at_the_start(tmp_path: Path) -> None:
    file = tmp_path / "level"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(Invalid, match="--log-level-file"):
        read_log_level(file, "info")
    assert read_log_level(tmp_path / "none", "info") == "info"
    assert set(logs.LEVELS) >= {"debug", "info"}


# --- Windows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "session", "stops"),
    [
        (CTRL_CLOSE, DESKTOP, True),
        (CTRL_LOGOFF, DESKTOP, True),
        (CTRL_SHUTDOWN, DESKTOP, True),
        (CTRL_SHUTDOWN, SERVICE, True),
        (CTRL_LOGOFF, SERVICE, False),
    ],
)
def test_console_events(event: int, session: int, stops: bool) -> None:
    """A service keeps running when somebody logs off."""
    requested: list[bool] = []
    handler = ConsoleHandler(lambda: requested.append(True), session, patience_s=0.0)
    assert handler(event)
    assert requested == [True] * stops


@pytest.mark.parametrize("event", [0, 1, 99])
def test_ctrl_c_and_unknown_events_are_left_to_others(event: int) -> None:
    assert not ConsoleHandler(lambda: pytest.fail("stops"), DESKTOP)(event)


def test_the_handler_of_a_closed_console_gives_the_process_time() -> None:
    """Windows ends the process when the handler returns."""
    requested = threading.Event()
    handler = ConsoleHandler(requested.set, DESKTOP)
    thread = threading.Thread(target=handler, args=(CTRL_CLOSE,), daemon=True)
    thread.start()
    assert requested.wait(PATIENCE_S)
    thread.join(0.2)
    assert thread.is_alive()


# --- while a program starts -------------------------------------------------------------------------------------------

SLOW_IMPORT = """
import builtins, sys, time
from {program} import __main__
real = builtins.__import__

def slow(name, *rest, **more):
    if name == "{program}":
        print("importing", flush=True)
        time.sleep(60)
    return real(name, *rest, **more)

builtins.__import__ = slow
sys.exit(__main__.main())
"""


@pytest.mark.parametrize("program", ["masterd", "noded"])
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
async def test_a_stop_during_the_imports_ends_quietly(program: str, name: str) -> None:
    """Without a traceback; the exit code is that of a program which was asked to stop."""
    code, errors = await _signalled_while_starting(program, lambda child: child.send_signal(getattr(signal, name)))
    assert (code, errors) == (0, b"")


@posix_only
async def test_a_hangup_during_the_imports_changes_nothing() -> None:
    def signals(child: asyncio.subprocess.Process) -> None:
        child.send_signal(signal.SIGHUP)
        child.send_signal(signal.SIGTERM)

    assert await _signalled_while_starting("noded", signals) == (0, b"")


async def _signalled_while_starting(
    program: str, send: Callable[[asyncio.subprocess.Process], None]
) -> tuple[int, bytes]:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SLOW_IMPORT.format(program=program), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdout is not None
    assert await child.stdout.readline() == b"importing\n"
    send(child)
    _, errors = await asyncio.wait_for(child.communicate(), PATIENCE_S)
    assert child.returncode is not None
    return child.returncode, errors
