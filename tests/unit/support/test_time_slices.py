"""Long work in turns: its result is the same, and others get their turn."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable
from types import SimpleNamespace
from typing import Any

import pytest

from masterd.api.event_streams import write_entries
from nodestore.schema.models import CommandRecord, Entry, Paused
from nodestore.support.jsonio import dumps
from nodestore.support.time_slices import TimeSlice, dumps_in_slices

_MANY = {f"d{number}": {"index": number, "document": {"text": "ä" * number}} for number in range(100)}


async def _turns_of_others(work: Awaitable[Any]) -> int:
    """Return how often another task ran during `work`."""
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    await work
    task.cancel()
    return turns


async def test_a_long_turn_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a short one does not: giving way costs more than most steps."""
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)

    async def steps(each_s: float) -> None:
        nonlocal now
        turns = TimeSlice()
        for _ in range(100):
            now += each_s
            await turns.yield_if_used_up()

    short = await _turns_of_others(steps(0.00001))
    long = await _turns_of_others(steps(0.02))
    assert short <= 1
    assert long >= 99


def _let_each_step_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each read of the clock returns one second more than the one before."""
    clock = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))


@pytest.mark.parametrize(
    "answer",
    [
        {}, [], None, "text", {"index": 1, "documents": {}}, {"index": 1, "documents": _MANY},
        {"entries": [{"n": number} for number in range(100)], "searched": None},
        {"nodes": [Paused(actor="a", time=1.5)] * 40},
        {"a\"b": _MANY, "paused": Paused(actor="a", time=1.5)}, list(_MANY.values()),
    ],
)  # fmt: skip
async def test_an_answer_is_written_as_in_one_go(answer: Any) -> None:
    """The encoding in slices gives the same bytes as the encoding at once."""
    assert await dumps_in_slices(answer) == dumps(answer)


@pytest.mark.parametrize("items", [_MANY, list(_MANY.values())], ids=["object", "list"])
async def test_a_long_answer_is_written_in_turns(items: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others have theirs after each item that took long."""
    _let_each_step_take_long(monkeypatch)
    assert await _turns_of_others(dumps_in_slices({"items": items})) >= len(items)


async def test_a_late_reader_of_events_does_not_block_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of the journal is encoded in time slices, each command once."""
    _let_each_step_take_long(monkeypatch)
    commands = tuple(
        CommandRecord(index=index, id=f"c{index}", actor="a", time=0.0, name="do") for index in range(1, 101)
    )
    written: list[bytes] = []

    async def write(event: bytes) -> None:
        written.append(event)

    response: Any = SimpleNamespace(write=write)
    telling = write_entries(response, 1, [Entry(epoch=1, term=1, nonce="x", commands=commands)], 0)
    assert await _turns_of_others(telling) >= len(commands)
    assert len(written) == len(commands)
