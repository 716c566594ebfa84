"""Whether a program does its work: the checks, and what driver `process` makes of them."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from noded.drivers.builtin.process import ProcessDriver, ProcessSettings
from noded.drivers.contract import Actual, DriverError, parse_settings
from noded.drivers.support.command import FinishedCommand
from noded.drivers.support.health import Health, HealthSettings
from nodestore.schema.models import Spec
from tests.support.noded.driver_rig import TIMEOUT_S, Woken, driver, until


async def no_command(argv: Sequence[str], timeout_s: float) -> FinishedCommand:
    raise AssertionError("no command is to be run")


def health(**settings: Any) -> tuple[Health, list[str]]:
    """A Health, and the states at its wakes."""
    wakes: list[str] = []
    made = Health(HealthSettings(**{"every_s": 0.1, **settings}), no_command, lambda: wakes.append(made.state))
    return made, wakes


# --- what becomes of results -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("results", "state", "sick", "wakes"),
    [
        ([], "starting", False, []),
        ([(1, None)], "healthy", False, ["healthy"]),
        ([(1, "a"), (9, "b")], "starting", False, []),
        ([(9, "a"), (10, "b")], "unhealthy", False, ["unhealthy"]),
        ([(10, "a"), (11, "b"), (12, "c")], "unhealthy", True, ["unhealthy", "unhealthy"]),
        ([(1, None), (2, "a"), (3, "b")], "unhealthy", False, ["healthy", "unhealthy"]),
        ([(1, None), (2, "a"), (3, "b"), (4, "c"), (5, "d")], "unhealthy", True, ["healthy", "unhealthy", "unhealthy"]),
        ([(1, None), (2, "a"), (3, "b"), (4, None), (5, "c")], "unhealthy", False, ["healthy", "unhealthy"] * 2),
        ([(10, "a"), (11, "b"), (12, "c"), (13, None)], "healthy", False, ["unhealthy", "unhealthy", "healthy"]),
    ],
)
def test_results(results: list[tuple[float, str | None]], state: str, sick: bool, wakes: list[str]) -> None:
    """Failures count after start_s or the first success, and in a row only; each change wakes noded once."""
    made, told = health(tcp="127.0.0.1:1", failures=3, start_s=10)
    for age_s, problem in results:
        made.record_check(problem, age_s)
    assert (made.state, made.is_unhealthy, told) == (state, sick, wakes)


def test_the_error_stays_while_it_is_unhealthy() -> None:
    """A reason with a clock in it would be written to etcd at every check."""
    made, _ = health(tcp="127.0.0.1:1", failures=1, start_s=0)
    made.record_check("at 12:00:01\nno picture", 1)
    made.record_check("at 12:00:02 no picture", 2)
    assert made.error == r"at 12:00:01\nno picture"
    made.record_check(None, 3)
    assert made.error == ""


# --- how it asks -----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def answering(answer: bytes | None) -> AsyncIterator[int]:
    """Serve a port. answer: sent to any request before the connection is closed; None: nothing is ever sent."""
    asked: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.add(writer)
        with contextlib.suppress(OSError):
            if answer is None:
                await reader.read()
            else:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(answer)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in asked:
            writer.transport.abort()
        await asyncio.sleep(0)


async def first_result(made: Health) -> str:
    """What the first check found: "" for healthy."""
    results: list[str] = []
    note = made.record_check

    def noted(problem: str | None, age_s: float) -> None:
        note(problem, age_s)
        results.append(problem or "")

    made.record_check = noted  # type: ignore[method-assign]
    watch = asyncio.ensure_future(made.check_forever())
    await until(lambda: results, "a result")
    watch.cancel()
    await asyncio.wait({watch})
    return results[0]


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", ""),
        (b"HTTP/1.0 302 Found\r\n\r\n", ""),
        (b"HTTP/1.1 204\r\n\r\n", ""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n" + b"x" * 100_000, ""),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "the answer was HTTP status 503"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "the answer was HTTP status 404"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "the answer is not HTTP"),
        (b"HTTP/1.1 2000 OK\r\n", "the answer is not HTTP"),
        (b"x" * 100_000, "the answer is not HTTP"),
        (b"", "the answer is not HTTP"),
        (None, "no answer within 0.3 s"),
    ],
)
async def test_http(answer: bytes | None, found: str) -> None:
    """Status 2xx and 3xx are healthy; any other answer is reported unchanged."""
    async with answering(answer) as port:
        made, _ = health(http=f"http://localhost:{port}/health?deep=1", timeout_s=0.3 if answer is None else TIMEOUT_S)
        assert await first_result(made) == found


async def test_tcp() -> None:
    """A port that accepts a connection is healthy."""
    async with answering(None) as port:
        made, _ = health(tcp=f"127.0.0.1:{port}", timeout_s=TIMEOUT_S)
        assert await first_result(made) == ""
    made, _ = health(tcp=f"127.0.0.1:{port}", timeout_s=TIMEOUT_S)
    assert (await first_result(made)).startswith("no connection: ")


async def test_a_check_that_breaks_has_failed() -> None:
    """An exception in a check is a failed check, and does not end noded."""
    made, _ = health(argv=["x"])
    assert await first_result(made) == "the check failed: AssertionError: no command is to be run"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "^driver setting health: give exactly one of argv, tcp and http$"),
        ({"tcp": "127.0.0.1:1", "argv": ["x"]}, "give exactly one of"),
        ({"tcp": "127.0.0.1"}, "health.tcp: '127.0.0.1' is not host:port"),
        ({"tcp": "127.0.0.1:99999"}, "health.tcp"),
        ({"tcp": "example.org:80"}, "health.tcp: the host must be an IP address or localhost"),
        ({"tcp": "[::1:80"}, "health.tcp"),
        ({"http": "https://127.0.0.1/"}, "health.http"),
        ({"http": "http://example.org/"}, "health.http: the host must be"),
        ({"http": "http://127.0.0.1/a b"}, "health.http"),
        ({"http": "http://127.0.0.1/\r\nHost: x"}, "health.http"),
        ({"http": "http://user:pw@127.0.0.1/"}, "health.http"),
        ({"tcp": "127.0.0.1:1", "every_s": 0}, "health.every_s"),
        ({"tcp": "127.0.0.1:1", "failures": 0}, "health.failures"),
        ({"tcp": "127.0.0.1:1", "interval": 1}, "health.interval"),
    ],
)
def test_settings_that_make_no_sense(settings: Any, says: str) -> None:
    """They are named, and refused before anything is touched."""
    with pytest.raises(DriverError, match=says) as caught:
        parse_settings(ProcessSettings, {"argv": ["x"], "health": settings})
    assert not caught.value.retryable


@pytest.mark.parametrize("url", ["http://127.0.0.1", "http://[::1]:8080/x", "http://localhost/?a=1"])
def test_urls(url: str) -> None:
    """What is a URL is taken."""
    HealthSettings(http=url)


# --- a program and its checks ----------------------------------------------------------------------------------------

SLEEP = "import time; open('runs', 'a').write('x'); time.sleep(600)"
WELL = ["{python}", "-c", "import os, sys; os.path.exists('well') or sys.exit('no picture')"]


def program(code: str = SLEEP, **health: Any) -> Spec:
    health = {"argv": WELL, "every_s": 0.1, "timeout_s": TIMEOUT_S, "failures": 2, "start_s": 0, **health}
    settings = {"argv": ["{python}", "-c", code], "grace_s": 0, "settle_s": 0.5, "health": health}
    return Spec(driver="process", settings=settings)


async def looked(process: ProcessDriver, woken: Woken, state: str, *, drift: bool = False) -> Actual:
    """What it finds, at its wakes, once the health is that."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            actual = await process.inspect()
            if actual.state.get("health") == state and (actual.drift is not None) == drift:
                return actual
            await woken.wait()


async def test_process_is_restarted_when_it_is_unhealthy(tmp_path: Path) -> None:
    """The status reports the failed checks, then drift.

    The restart starts a new program, and its first good check ends the drift.
    """
    async with driver(ProcessDriver, tmp_path) as (process, woken):
        (tmp_path / "well").touch()
        spec = program()
        await process.apply(spec, None)
        first = await looked(process, woken, "healthy")
        assert "health_error" not in first.state
        assert process.settle_s == 0.5
        (tmp_path / "well").unlink()
        sick = await looked(process, woken, "unhealthy", drift=True)
        assert sick.state["health_error"] == "no picture"
        assert (sick.drift, sick.failed) == ("the program is unhealthy: no picture", True)
        assert process.settle_s == math.inf
        await process.apply(spec, spec)
        (tmp_path / "well").touch()
        second = await looked(process, woken, "healthy")
        assert second.state["pid"] != first.state["pid"]
        assert second.state["restarts"] == 1
        assert not psutil.pid_exists(first.state["pid"])


async def test_process_that_recovers_is_left_alone(tmp_path: Path) -> None:
    """While noded waits for its turn the program may come back by itself."""
    async with driver(ProcessDriver, tmp_path) as (process, woken):
        spec = program()
        await process.apply(spec, None)
        sick = await looked(process, woken, "unhealthy", drift=True)
        (tmp_path / "well").touch()
        well = await looked(process, woken, "healthy")
        await process.apply(spec, spec)
        assert well.state["pid"] == sick.state["pid"] == (await process.inspect()).state["pid"]


async def test_a_starting_program_has_time(tmp_path: Path) -> None:
    """Failures in start_s are neither shown nor counted."""
    async with driver(ProcessDriver, tmp_path) as (process, woken):
        await process.apply(program(start_s=600), None)
        await asyncio.sleep(0.5)  # time in which it must *not* be found unhealthy
        actual = await process.inspect()
        assert (actual.state["health"], actual.drift) == ("starting", None)
        (tmp_path / "well").touch()
        await looked(process, woken, "healthy")


async def test_a_check_that_hangs_is_a_failure_and_ends_with_its_program(tmp_path: Path) -> None:
    """Nothing of a check outlives the program: no process, no task (the test's end sees that), no thread."""
    threads = threading.active_count()
    hang = "import os, time; open('check', 'w').write(str(os.getpid())); time.sleep(600)"
    async with driver(ProcessDriver, tmp_path) as (process, woken):
        spec = program(argv=["{python}", "-c", hang], timeout_s=1.5, failures=1)
        await process.apply(spec, None)
        sick = await looked(process, woken, "unhealthy", drift=True)
        assert sick.state["health_error"] == "the command did not end within 1.5 s"
        (tmp_path / "check").unlink(missing_ok=True)
        pid = int(await until(lambda: (tmp_path / "check").exists() and (tmp_path / "check").read_text(), "a check"))
        await process.stop()
        assert not psutil.pid_exists(pid)
    await until(lambda: _own_threads() <= threads, "the threads to end")


def _own_threads() -> int:
    return sum(not thread.name.startswith("asyncio") for thread in threading.enumerate())


async def test_a_program_that_ends_is_asked_no_more(tmp_path: Path) -> None:
    """The end of the program is reported, not the checks that fail because of it."""
    async with driver(ProcessDriver, tmp_path) as (process, woken):
        (tmp_path / "well").touch()
        await process.apply(program("import sys; sys.exit('gone')"), None)
        async with asyncio.timeout(TIMEOUT_S):
            while (actual := await process.inspect()).state["running"]:
                await woken.wait()
        assert actual.failed
        assert "health" not in actual.state
