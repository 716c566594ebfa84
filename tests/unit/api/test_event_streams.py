"""Streams over HTTP whose reader goes away, as every reader one day does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import web

from masterd.api import event_streams
from masterd.api.routes import Api
from masterd.application.wall import BuiltinApp
from masterd.roles.master import Master
from nodestore.cluster.election import LeaderSeen
from nodestore.errors import TimedOut, Unavailable
from nodestore.schema.models import Inventory, Term
from tests.support.waiting import eventually


async def _nothing_comes(index: int, timeout_s: float) -> None:
    await asyncio.sleep(0.01)
    raise TimedOut("nothing comes")


async def _closed() -> None:
    """Nothing is left to close."""


def _leading() -> Any:
    """As much of a leader as its streams look at; nothing ever happens in its cluster."""
    replica = SimpleNamespace(
        index=7, epoch=1, problem=None, wait_for=_nothing_comes, state=SimpleNamespace(inventory=Inventory())
    )
    cluster_view = SimpleNamespace(
        subscribe=lambda _: lambda: None, paused=None, epoch=1, leader=LeaderSeen(),
        candidates=SimpleNamespace(items={}), status=SimpleNamespace(items={}), alive=SimpleNamespace(items={}),
    )  # fmt: skip
    leader = SimpleNamespace(fence=SimpleNamespace(term=Term(1, 10)))
    return SimpleNamespace(
        leader=leader, replica=replica, cluster_view=cluster_view, me=SimpleNamespace(id="m1"),
        timing=SimpleNamespace(beat_s=0.01), store_scan=SimpleNamespace(close=_closed), stuck_s=0.0,
        application=BuiltinApp(), etcd=None, keys=None,
    )  # fmt: skip


@asynccontextmanager
async def serving(master: Any) -> AsyncIterator[str]:
    """The URL of this master's API."""
    runner = web.AppRunner(Api(cast(Master, master)).app, access_log=None, shutdown_timeout=0.05)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{site.port}"
    finally:
        await runner.cleanup()


def _handlers() -> list[str]:
    """The requests that are being served."""
    return [text for task in asyncio.all_tasks() if "RequestHandler.start" in (text := repr(task.get_coro()))]


@pytest.mark.parametrize("path", ["/v1/follow", "/v1/events", "/v1/cluster/watch", "/v1/live", "/v1/nodes/watch"])
async def test_a_reader_that_goes_away_is_no_error(
    path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The master notices it when it next writes, and its log does not mention it."""
    monkeypatch.setattr(event_streams, "_KEEPALIVE_COMMENT_S", 0.01)
    monkeypatch.setattr(event_streams, "_COALESCE_S", 0.01)
    caplog.set_level(logging.INFO)
    async with serving(_leading()) as url:
        async with aiohttp.ClientSession() as session, session.get(url + path) as response:
            assert await response.content.readany()
            assert len(_handlers()) == 1
        await eventually(lambda: not _handlers(), "the stream ends")
    assert caplog.messages == []


async def test_a_fault_of_the_master_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    """A connection of its own that is reset, while the one who asked still listens."""

    async def reset() -> None:
        raise ConnectionResetError

    master = _leading()
    master.leader.confirm = reset
    async with serving(master) as url, aiohttp.ClientSession() as session, session.get(url + "/v1/nodes") as response:
        assert response.status == 500
    assert [record.levelname for record in caplog.records] == ["ERROR"]


async def test_a_stream_that_fails_ends(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """An answer that has begun is not followed by another one; why it ended is in the log if it is a fault of ours."""
    monkeypatch.setattr(event_streams, "_KEEPALIVE_COMMENT_S", 0.01)
    for error, told in ((Unavailable("etcd is away"), []), (RuntimeError("oops"), ["GET /v1/events failed"])):
        master = _leading()
        async with (
            serving(master) as url,
            aiohttp.ClientSession() as session,
            session.get(url + "/v1/events") as response,
        ):
            await response.content.readuntil(b"\n\n")
            master.replica.wait_for = Raises(error)
            assert b"HTTP" not in await response.content.read()
        assert caplog.messages == told


class Raises:
    """An awaitable call that fails."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def __call__(self, *_: Any) -> None:
        raise self._error


async def test_a_stream_of_the_journal_ends_when_the_store_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its reader is told to read anew: what it has read may not be in the store any more."""
    monkeypatch.setattr(event_streams, "_KEEPALIVE_COMMENT_S", 0.01)
    master = _leading()
    async with (
        serving(master) as url,
        aiohttp.ClientSession() as session,
        session.get(url + "/v1/events", headers={"Last-Event-ID": "1.7"}) as response,
    ):
        assert b"id: 1.7\n" in await response.content.readuntil(b"\n\n")
        master.replica.epoch = 2
        rest = await response.content.read()
        assert b"event: gone\n" in rest
        assert b"epoch 2, not 1" in rest


async def test_a_position_of_another_epoch_is_refused() -> None:
    """With 410; the same index alone, or with this epoch, is not."""
    async with serving(_leading()) as url, aiohttp.ClientSession() as session:
        for after, status in (("2.7", 410), ("1.7", 200), ("7", 200), ("1.x", 400), ("1." + "9" * 20, 400)):
            async with session.get(f"{url}/v1/events?after={after}") as response:
                assert (after, response.status) == (after, status)
