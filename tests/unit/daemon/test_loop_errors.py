"""Errors that asyncio reports outside of any task: those for lack of descriptors do not flood the log."""

from __future__ import annotations

import asyncio
import errno
import logging
import subprocess
import sys

import pytest

from nodestore.daemon.loop_errors import LoopErrors

TOO_MANY = OSError(errno.EMFILE, "Too many open files")
# A server with few descriptors, and more clients than it can accept. All of it in one process, which ends after 3 s.
SHORT_OF_DESCRIPTORS = """
import asyncio, resource, socket
from nodestore.daemon import program

async def work():
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    clients = []
    try:
        while True:
            clients.append(socket.socket())
    except OSError:
        pass
    for client in clients:
        client.setblocking(False)
        client.connect_ex(address)
    await asyncio.sleep(3)
    server.close()  # or it accepts more while the loop is being closed

program.run("masterd", "m1", "info", work())
"""


def context(error: BaseException) -> dict[str, object]:
    return {"message": "socket.accept() out of system resource", "exception": error}


async def test_one_line_a_minute_with_the_number_of_the_others(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    loop, handler = asyncio.get_running_loop(), LoopErrors(lambda: now)
    for _ in range(2_000):
        handler(loop, context(TOO_MANY))
    now = 61.0
    handler(loop, context(TOO_MANY))
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert "Too many open files" in caplog.messages[0]
    assert "LimitNOFILE" in caplog.messages[0]
    assert "1999 more since the last such line" in caplog.messages[1]


async def test_other_errors_are_logged_by_asyncio(caplog: pytest.LogCaptureFixture) -> None:
    loop, handler = asyncio.get_running_loop(), LoopErrors()
    for error in (ValueError("bug"), OSError(errno.ECONNRESET, "reset")):
        handler(loop, context(error))
    assert len([record for record in caplog.records if record.name == "asyncio"]) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="Windows limits no descriptors")
async def test_a_server_without_descriptors_writes_one_line() -> None:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SHORT_OF_DESCRIPTORS, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    _, errors = await asyncio.wait_for(child.communicate(), 30)
    lines = errors.decode().splitlines()
    assert [line for line in lines if "cannot be accepted" in line] == lines[:1]
    assert lines[1:] == [line for line in lines if line.endswith("stopped")]
