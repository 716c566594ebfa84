"""Streams over HTTP whose reader goes away, as every reader one day does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import aiohttp
import pytest

from masterd.api import event_streams
from masterd.replication import desired_states
from masterd.state_machine.state import AdoptedConfig
from nodestore.errors import Unavailable
from nodestore.etcd.session import Etcd
from nodestore.schema.models import CommandRecord, ConfigRecord, Entry, Inventory, SpecMark
from tests.support.fakes.etcd import SETTINGS, FakeEtcd
from tests.support.fakes.masterd_parts import KEYS, FakeMasterd, serving
from tests.support.waiting import eventually


def _leading() -> FakeMasterd:
    """A leader in whose cluster nothing happens."""
    masterd = FakeMasterd()
    masterd.lead()
    return masterd


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
    """If a connection of masterd itself is reset while the client is connected, the answer is 500 and the error is
    logged."""
    masterd = FakeMasterd()
    masterd.lead().confirm_error = ConnectionResetError()
    async with serving(masterd) as url, aiohttp.ClientSession() as session, session.get(url + "/v1/nodes") as response:
        assert response.status == 500
    assert [record.levelname for record in caplog.records] == ["ERROR"]


async def test_a_stream_that_fails_ends(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """After the headers were sent, the stream just ends: no second response is sent. An error of masterd is logged."""
    monkeypatch.setattr(event_streams, "_KEEPALIVE_COMMENT_S", 0.01)
    for error, told in ((Unavailable("etcd is away"), []), (RuntimeError("oops"), ["GET /v1/events failed"])):
        masterd = _leading()
        async with (
            serving(masterd) as url,
            aiohttp.ClientSession() as session,
            session.get(url + "/v1/events") as response,
        ):
            await response.content.readuntil(b"\n\n")
            masterd.replica.wait_error = error
            assert b"HTTP" not in await response.content.read()
        assert caplog.messages == told


async def test_a_stream_of_the_journal_ends_when_the_store_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader gets an event to read everything again, because the store may not hold what it has read."""
    monkeypatch.setattr(event_streams, "_KEEPALIVE_COMMENT_S", 0.01)
    masterd = _leading()
    async with (
        serving(masterd) as url,
        aiohttp.ClientSession() as session,
        session.get(url + "/v1/events", headers={"Last-Event-ID": "1.7"}) as response,
    ):
        assert b"id: 1.7\n" in await response.content.readuntil(b"\n\n")
        masterd.replica.shown_epoch = 2
        rest = await response.content.read()
        assert b"event: gone\n" in rest
        assert b"its epoch is 2, the position is of epoch 1" in rest


async def test_a_commit_wakes_the_stream_of_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """It changes a node's document and the generation that is desired, although no key that is watched changes."""
    monkeypatch.setattr(event_streams, "_KEEPALIVE_COMMENT_S", 0.6)
    monkeypatch.setattr(desired_states, "_READ_S", 0.01)  # etcd does not answer
    masterd = _leading()
    inventory = Inventory.model_validate({"nodes": {"n1": {"address": "192.0.2.1"}}})
    masterd.replica.state.adopted = AdoptedConfig(
        ConfigRecord(version=1, actor="test", time=0.0, inventory={}), 1, 1, inventory
    )
    record = CommandRecord(
        index=8, id="c-8", actor="a", time=1.0, name="n", args={}, specs={"n1": SpecMark(generation=8, hash="h")}
    )
    entry = Entry(epoch=1, term=1, nonce="n", commands=(record,), floor=0)
    async with serving(masterd) as url:
        async with aiohttp.ClientSession() as session, session.get(url + "/v1/nodes/watch") as response:
            assert b'"desired":null' in await response.content.readuntil(b"\n\n")
            await asyncio.sleep(2 * event_streams._COALESCE_S)  # now the stream waits for a change
            await masterd.replica.apply(entry, entry.encode())
            async with asyncio.timeout(event_streams._KEEPALIVE_COMMENT_S / 2):
                assert b'"desired":{"generation":8,' in await response.content.readuntil(b"\n\n")
        await eventually(lambda: not _handlers(), "the stream ends")


async def test_a_position_of_another_epoch_is_refused() -> None:
    """With 410; the same index alone, or with this epoch, is not."""
    async with serving(_leading()) as url, aiohttp.ClientSession() as session:
        for after, status in (("2.7", 410), ("1.7", 200), ("7", 200), ("1.x", 400), ("1." + "9" * 20, 400)):
            async with session.get(f"{url}/v1/events?after={after}") as response:
                assert (after, response.status) == (after, status)


@asynccontextmanager
async def _url_with_entries(first: int, last: int) -> AsyncIterator[str]:
    """A leader at index 7 that holds no entry in memory; etcd holds those from `first` to `last`."""
    masterd = _leading()
    await masterd.sources.etcd.close()
    async with Etcd(SETTINGS, connect=FakeEtcd().connect) as etcd:
        for index in range(first, last + 1):
            command = CommandRecord(index=index, id=f"c-{index}", actor="a", time=1.0, name="n", args={})
            entry = Entry(epoch=1, term=1, nonce="n", commands=(command,), floor=0)
            await etcd.put(KEYS.entry(index), entry.encode())
        masterd.sources = replace(masterd.sources, etcd=etcd)
        masterd.parts = replace(masterd.parts, read_sources=masterd.sources)
        async with serving(masterd) as url:
            yield url


@pytest.mark.parametrize(("after", "status"), [(0, 410), (3, 410), (4, 200), (6, 200)])
async def test_a_position_before_the_oldest_entry_is_refused(after: int, status: int) -> None:
    """With 410: the stream cannot send all commands after it, and a client must not miss any."""
    async with (
        _url_with_entries(5, 7) as url,
        aiohttp.ClientSession() as session,
        session.get(f"{url}/v1/events?after={after}") as response,
    ):
        assert response.status == status


async def test_no_command_is_sent_before_this_master_has_applied_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A read that follows the event sees its effect."""
    monkeypatch.setattr(event_streams, "_KEEPALIVE_COMMENT_S", 0.01)
    async with (
        _url_with_entries(5, 9) as url,
        aiohttp.ClientSession() as session,
        session.get(f"{url}/v1/events?after=4") as response,
    ):
        received = b""
        while b"still here" not in received:
            received += await response.content.readuntil(b"\n\n")
        numbers = [line for line in received.splitlines() if line.startswith(b"id: ")]
        assert numbers == [b"id: 1.4", b"id: 1.5", b"id: 1.6", b"id: 1.7"]
