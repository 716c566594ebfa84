"""noded's connection to the leader: where and when it connects, and how it answers requests."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web

from noded.drivers.contract import Driver
from noded.program_log import log_reader, master_link, websocket
from noded.program_log.log_reader import LogReader
from noded.program_log.master_link import CALM_S, REQUESTS_MAX, MasterLink
from nodestore.errors import NodectlError, NodeUnavailable, NotFound
from nodestore.schema.models import LeaderRecord
from tests.support.waiting import eventually

TIMEOUT_S = 20.0


class Logging:
    """A driver with the log files that a test sets."""

    def __init__(self, *log_files: Path) -> None:
        self.log_files = log_files


class Unsettled:
    log_files = None


class Broken:
    @property
    def log_files(self) -> tuple[Path, ...]:
        raise ValueError("oops")


def _reader(driver: object) -> LogReader:
    return LogReader(lambda: None if driver is None else ("relay", cast(Driver, driver)))


# --- the reader -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("driver", "error", "message"),
    [
        (None, NodeUnavailable, "no driver is in effect"),
        (object(), NotFound, "driver relay keeps no log here"),
        (Logging(), NotFound, "driver relay keeps no log here"),
        (Unsettled(), NodeUnavailable, "driver relay has applied nothing yet"),
        (Broken(), NodectlError, r"driver relay: its log_files cannot be read: ValueError\('oops'\)"),
    ],
)
async def test_what_has_no_log(driver: object, error: type[NodectlError], message: str) -> None:
    with pytest.raises(error, match=message):
        await _reader(driver).last_lines(1)


async def test_it_waits_for_new_lines(tmp_path: Path) -> None:
    """And, for a moment, for the end of an incomplete one. Text that is no UTF-8 is replaced."""
    path = tmp_path / "log"
    path.write_bytes(b"one\n")
    reader = _reader(Logging(path))
    piece = await reader.last_lines(1)
    assert piece["text"] == "one\n"
    waiting = asyncio.create_task(reader.after(piece["position"], 4.0))
    await asyncio.sleep(0.05)
    with path.open("ab") as file:
        file.write(b"tw\xff\r\nthree")
    piece = await waiting
    assert piece["text"] == "tw\ufffd\n"
    assert (await reader.after(piece["position"], 4.0))["text"] == "three"


async def test_without_new_lines_the_wait_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one\n")
    reader = _reader(Logging(path))
    piece = await reader.last_lines(1)
    async with asyncio.timeout(TIMEOUT_S):
        assert (await reader.after(piece["position"], 0.1)) == {**piece, "text": ""}


async def test_a_file_that_hangs_costs_one_thread_and_bounded_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_reader, "_READ_TIMEOUT_S", 0.1)
    hanging, write = os.pipe()
    monkeypatch.setattr(log_reader, "read_tail", lambda paths, lines: os.read(hanging, 1))
    reader = _reader(Logging(tmp_path / "log"))
    try:
        for _ in range(3):
            with pytest.raises(NodeUnavailable, match=r"the log does not answer \(waited for 0\.1 s\)"):
                await reader.last_lines(1)
    finally:
        os.write(write, b"x")
        os.close(write)


# --- the connection -------------------------------------------------------------------------------------------------


class Master:
    """A masterd that accepts the connections of nodeds."""

    def __init__(self) -> None:
        self.url = ""
        self.links: list[web.WebSocketResponse] = []
        self.nonces: list[str] = []
        self.answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        link = web.WebSocketResponse()
        await link.prepare(request)
        self.links.append(link)
        self.nonces.append(request.headers["Nodectl-Nonce"])
        async for message in link:
            self.answers.put_nowait(message.json())
        self.links.remove(link)
        return link

    async def request(self, **request: Any) -> None:
        await self.links[0].send_json(request)

    async def answer(self) -> dict[str, Any]:
        async with asyncio.timeout(TIMEOUT_S):
            return await self.answers.get()


@asynccontextmanager
async def master() -> AsyncIterator[Master]:
    made = Master()
    app = web.Application()
    app.router.add_get("/v1/nodes/n1/log-link", made.serve)
    runner = web.AppRunner(app, shutdown_timeout=0.05)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{site.port}"
    try:
        yield made
    finally:
        await runner.cleanup()


class Cluster:
    """What the link knows of the cluster: the claim, and the key `leader`."""

    def __init__(self, reader: LogReader) -> None:
        self.claim_revision: int | None = 7
        self._values: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.link = MasterLink("n1", "nonce", leader_values=self._leader_values, claim=self, reader=reader)

    async def _leader_values(self) -> AsyncGenerator[bytes | None, None]:
        while True:
            yield await self._values.get()

    def lead(self, *urls: str) -> None:
        record = LeaderRecord(id="m", host="pc", urls=urls, nonce="x", since=0.0)
        self._values.put_nowait(record.encode())

    def put(self, value: bytes | None) -> None:
        self._values.put_nowait(value)

    def claim(self, revision: int | None) -> None:
        self.claim_revision = revision
        self.link.on_claim_changed()


@asynccontextmanager
async def cluster(reader: LogReader | None = None) -> AsyncIterator[Cluster]:
    found = Cluster(reader or _reader(None))
    running = asyncio.create_task(found.link.run())
    try:
        yield found
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def test_it_follows_the_leader_and_the_claim() -> None:
    """It connects to the leader only, and only while it holds the node."""
    async with master() as one, master() as two, cluster() as node:
        node.lead(one.url)
        await eventually(lambda: len(one.links) == 1, "connected to the first leader")
        assert one.nonces == ["nonce"]
        node.lead(two.url)
        await eventually(lambda: (len(one.links), len(two.links)) == (0, 1), "connected to the second leader")
        node.claim(None)
        await eventually(lambda: not two.links, "disconnected without the claim")
        node.claim(9)
        await eventually(lambda: len(two.links) == 1, "connected with the claim")
        for value in (None, b"garbage"):
            node.put(value)
            await eventually(lambda: not two.links, "disconnected without a leader")
            node.lead(two.url)
            await eventually(lambda: len(two.links) == 1, "connected again")


async def test_a_broken_connection_is_opened_again() -> None:
    """Also if the first of the leader's addresses does not answer."""
    async with master() as one, cluster() as node:
        node.lead("http://127.0.0.1:1", one.url)
        for count in (1, 2, 3):
            await eventually(lambda: len(one.links) == 1, "connected", timeout_s=TIMEOUT_S)
            assert len(one.nonces) == count
            await one.links[0].close()
            await eventually(lambda count=count: len(one.nonces) > count, "again", timeout_s=TIMEOUT_S)


async def test_a_lost_or_a_new_leader_is_left_alone_at_first() -> None:
    """All nodes would otherwise react at the moment of the takeover."""
    async with master() as one, master() as two, cluster() as node:
        node.lead(one.url)
        await eventually(lambda: len(one.links) == 1, "connected to the first leader")
        begun = time.monotonic()
        node.lead(two.url)
        await eventually(lambda: len(two.links) == 1, "connected to the second leader")
        assert time.monotonic() - begun >= CALM_S
        begun = time.monotonic()
        await two.links[0].close()
        await eventually(lambda: len(two.nonces) == 2, "connected again")
        assert time.monotonic() - begun >= CALM_S


async def test_a_bug_ends_neither_noded_nor_the_connection_for_good(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(master_link, "_RETRY_MAX_S", 0.05)
    real, failures = websocket.connect, [ZeroDivisionError("oops")]

    def connect(*args: Any, **options: Any) -> Any:
        if failures:
            raise failures.pop()
        return real(*args, **options)

    monkeypatch.setattr(master_link, "connect", connect)
    async with master() as one, cluster() as node:
        node.lead(one.url)
        await eventually(lambda: "connection for the program's log failed" in caplog.text, "the bug is logged")
        node.lead(one.url)
        await eventually(lambda: len(one.links) == 1, "connected")


async def test_requests_are_answered_side_by_side_and_bounded(tmp_path: Path) -> None:
    """One that waits for new lines does not hold up another one."""
    path = tmp_path / "log"
    path.write_bytes(b"one\ntwo\n")
    async with master() as one, cluster(_reader(Logging(path))) as node:
        node.lead(one.url)
        await eventually(lambda: len(one.links) == 1, "connected")
        await one.request(id=1, lines=1)
        piece = (await one.answer())["piece"]
        assert piece["text"] == "two\n"
        for number in range(2, REQUESTS_MAX + 2):
            await one.request(id=number, after=piece["position"], wait_s=3)
        await one.request(id=99, lines=1)
        refused = await one.answer()
        assert (refused["id"], refused["error"]["code"]) == (99, "unavailable")
        with path.open("ab") as file:
            file.write(b"three\n")
        answers = [await one.answer() for _ in range(REQUESTS_MAX)]
        assert {answer["id"] for answer in answers} == set(range(2, REQUESTS_MAX + 2))
        assert {answer["piece"]["text"] for answer in answers} == {"three\n"}
        await one.request(id=100, after="nonsense")
        assert (await one.answer())["error"]["code"] == "invalid"


@pytest.mark.parametrize("message", ["x", "[]", "{}", '{"id": "1"}'])
async def test_what_is_no_request_ends_the_connection(message: str) -> None:
    async with master() as one, cluster() as node:
        node.lead(one.url)
        await eventually(lambda: len(one.links) == 1, "connected")
        await one.links[0].send_str(message)
        await eventually(lambda: len(one.nonces) > 1, "connected anew", timeout_s=TIMEOUT_S)
