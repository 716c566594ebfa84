"""Messages to the service manager, received on a socket as systemd's."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from nodestore.daemon.service_notifier import ServiceNotifier
from tests.support.etcd_cluster import free_ports
from tests.support.waiting import eventually

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets")

_LIMIT_US = "200000"
_PATIENCE_S = 20.0


class Manager:
    """Receives what a service sends."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.setblocking(False)
        self.received: list[str] = []

    def read(self) -> list[str]:
        """All lines that have arrived."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self.received += self._socket.recv(65536).decode().split("\n")
        return self.received

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    name = f"@nodectl-test-{secrets.token_hex(8)}"
    made = Manager(str(tmp_path / "notify") if request.param == "path" else name)
    yield made
    made.close()


@contextlib.asynccontextmanager
async def running(notifier: ServiceNotifier, status: Callable[[], str] = lambda: "") -> AsyncIterator[None]:
    task = asyncio.create_task(notifier.run(status))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_ready_status_and_beats(manager: Manager) -> None:
    """Ready once, the status at each change only, and a beat several times within the limit."""
    environ = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": _LIMIT_US, "WATCHDOG_PID": str(os.getpid()), "A": "b"}
    status = ["standby"]
    notifier = ServiceNotifier(environ)
    assert environ == {"A": "b"}  # a program that this one starts must not send in its name
    async with running(notifier, lambda: status[0]):
        await eventually(lambda: manager.read().count("WATCHDOG=1") >= 3)
        status[0] = "leader\nof term 7"
        await eventually(lambda: "STATUS=leader\\nof term 7" in manager.read())
    assert [line for line in manager.read() if line != "WATCHDOG=1"] == [
        "READY=1", "STATUS=standby", "STATUS=leader\\nof term 7",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "limit", [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "-5"}, {"WATCHDOG_USEC": "200000", "WATCHDOG_PID": "1"}]
)
async def test_without_a_limit_of_its_own_there_are_no_beats(manager: Manager, limit: dict[str, str]) -> None:
    notifier = ServiceNotifier({"NOTIFY_SOCKET": manager.address, **limit}, pid=4711)
    async with running(notifier):
        await eventually(lambda: "READY=1" in manager.read())
    assert "WATCHDOG=1" not in manager.read()


async def test_a_loop_that_hangs_sends_no_beat_and_a_busy_one_does(manager: Manager) -> None:
    """Beats come from the event loop. Callbacks of 20 ms in a row delay them, and do not stop them."""
    notifier = ServiceNotifier({"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": _LIMIT_US})
    async with running(notifier):
        await eventually(lambda: "WATCHDOG=1" in manager.read())
        manager.received.clear()
        time.sleep(4 * notifier.pause_s)  # noqa: ASYNC251 - the loop hangs
        assert manager.read() == []
        until = time.monotonic() + 10 * notifier.pause_s
        while time.monotonic() < until:
            time.sleep(0.02)  # noqa: ASYNC251 - the loop is busy
            await asyncio.sleep(0)
        assert manager.read().count("WATCHDOG=1") >= 3


async def test_reload_and_stop(manager: Manager) -> None:
    notifier = ServiceNotifier({"NOTIFY_SOCKET": manager.address})
    with notifier.reloading():
        assert manager.read() == ["RELOADING=1"]
    notifier.stopping()
    assert manager.read() == ["RELOADING=1", "READY=1", "STOPPING=1", "STATUS=stopping"]


async def test_ready_is_repeated_until_it_is_taken(tmp_path: Path) -> None:
    """While systemd is replaced by a newer one, its socket is away for a moment."""
    address = str(tmp_path / "notify")
    notifier = ServiceNotifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": _LIMIT_US})
    async with running(notifier, lambda: "standby"):
        await asyncio.sleep(0)
        with contextlib.closing(Manager(address)) as manager:
            await eventually(lambda: "READY=1" in manager.read())
            assert "STATUS=standby" in manager.read()


async def test_a_manager_that_reads_nothing_delays_nothing(manager: Manager) -> None:
    """Its queue is full after some messages. Sending goes on without waiting."""
    notifier = ServiceNotifier({"NOTIFY_SOCKET": manager.address})
    begun = time.monotonic()
    for _ in range(2_000):
        notifier.stopping()
    assert time.monotonic() - begun < _PATIENCE_S


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": "vsock:2:1234"}, {"NOTIFY_SOCKET": "/" + "x" * 200}])
async def test_without_a_usable_socket_it_runs_and_sends_nothing(environ: dict[str, str]) -> None:
    notifier = ServiceNotifier({**environ, "WATCHDOG_USEC": _LIMIT_US})
    task = asyncio.create_task(notifier.run())
    await asyncio.wait([task], timeout=3 * notifier.pause_s)
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


# --- the programs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", ["masterd", "noded"])
async def test_a_program_without_etcd_becomes_ready_and_says_that_it_stops(program: str, tmp_path: Path) -> None:
    """Readiness does not wait for a quorum: at a boot of this PC alone, it would never come."""
    nowhere = "127.0.0.1:1"
    arguments = {
        "masterd": ["--id", "pc1", "--listen", f"127.0.0.1:{free_ports(1)[0]}"],
        "noded": ["--node", "pc1", "--work-dir", str(tmp_path / "work")],
    }[program]
    with contextlib.closing(Manager(str(tmp_path / "notify"))) as manager:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", program, "--cluster", "wall", "--endpoints", nowhere, *arguments,
            env={**os.environ, "NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": _LIMIT_US},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            await eventually(lambda: manager.read().count("WATCHDOG=1") >= 3, timeout_s=_PATIENCE_S)
            assert manager.received.count("READY=1") == 1
            process.terminate()
            async with asyncio.timeout(_PATIENCE_S):
                _, log = await process.communicate()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        assert manager.read()[-2:] == ["STOPPING=1", "STATUS=stopping"], log.decode()
        assert process.returncode == 0
