"""A cluster of masters that are only HTTP, and `nodectl` as a function that runs in the test's process."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from nodectl.__main__ import run
from tests.support.cli import CallNodectl, Ran
from tests.support.fakes.masterd import FakeCluster, fake_cluster

WAIT_S = 30.0


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    """Two masters, served from a thread, because each command of the CLI has a loop of its own."""
    started: Future[FakeCluster] = Future()
    ended: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        async with fake_cluster() as found:
            over = asyncio.Event()
            ended.set_result((asyncio.get_running_loop(), over))
            started.set_result(found)
            await over.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        yield started.result(WAIT_S)
    finally:
        loop, over = ended.result(WAIT_S)
        loop.call_soon_threadsafe(over.set)
        thread.join(WAIT_S)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("NODECTL_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NODECTL_CONFIG", str(tmp_path / "config.yaml"))


@pytest.fixture
def nodectl(cluster: FakeCluster, capsys: pytest.CaptureFixture[str]) -> CallNodectl:
    def call(*args: str) -> Ran:
        code = run(["--endpoints", ",".join(cluster.urls), "--request-timeout", "10", *args])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return Ran(code, out, err)

    return call
