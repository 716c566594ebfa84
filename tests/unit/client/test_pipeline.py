"""The pipeline itself, where the order of steps in one turn of the event loop matters."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from nodectl.client.connection.errors import Broken, CommandOutcomeUnknown
from nodectl.client.connection.http import Http
from nodectl.client.connection.leadership import Leader, Leadership
from nodectl.client.connection.pipeline import Pipeline
from nodectl.client.connection.state import ConnectionState
from nodestore.errors import TooOld, Unavailable
from nodestore.schema.models import Term
from nodestore.support.jsonio import loads

WAIT_S = 20.0


def leader(epoch: int, revision: int) -> Leader:
    return Leader(f"m{revision}", "host", (f"http://m{revision}",), Term(epoch, revision))


class ScriptedHttp:
    """Answers every request but those to `unanswered`; `before_batch` runs when the index is asked for.

    The pipeline asks for the index right before it takes the first commands of an epoch from its queue.
    """

    def __init__(self) -> None:
        self.posts: list[tuple[str, list[str]]] = []
        self.unanswered: set[str] = set()
        self.before_batch: Callable[[str], None] = lambda url: None
        self.index = 0
        self.afters: list[int] = []
        self.floor = 0
        """Commands whose `after` is below it are refused as too old."""
        self.unavailable = ""
        """"whole": each request is refused as unavailable; "each": each command of it is."""

    async def call(self, method: str, url: str, *, body: bytes = b"", **_: Any) -> Any:
        host = url.split("/")[2]
        if method == "GET":
            self.before_batch(host)
            await asyncio.sleep(0)
            return {"index": self.index}
        commands = loads(body)["commands"]
        ids = [command["id"] for command in commands]
        self.afters += [command["after"] for command in commands]
        self.posts.append((host, ids))
        if host in self.unanswered:
            raise Broken(f"{host} is gone", sent=True)
        if self.unavailable == "whole":
            raise Unavailable("no commands now")
        if self.unavailable == "each":
            return {"results": [{"problem": {"code": "unavailable", "detail": "not now"}} for _ in ids], "index": 500}
        too_old = {"problem": {"code": "too_old", "detail": "too old"}}
        results = [{"index": 1, "id": name} if after >= self.floor else too_old for name, after in
                   zip(ids, self.afters[-len(ids) :], strict=True)]  # fmt: skip
        return {"results": results, "index": max(1, self.index)}


@asynccontextmanager
async def running(http: ScriptedHttp, leadership: Leadership) -> AsyncIterator[Pipeline]:
    state = ConnectionState(30.0)
    pipeline = Pipeline(cast(Http, http), leadership, state)
    task = asyncio.create_task(pipeline.run())
    try:
        async with asyncio.timeout(WAIT_S):
            yield pipeline
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        state.close()


async def test_a_request_superseded_before_its_first_step_leaves_nothing_behind() -> None:
    """Its task never ran, so no `finally` of it did either: the quarantined command must be sent to the next leader.

    m1 is lost under the command. m2, of another epoch, is asked for the index, and replaced before the request to it
    has begun. So only m3 gets the command a second time.
    """
    http, leadership = ScriptedHttp(), Leadership()
    http.unanswered = {"m1"}

    def replace(host: str) -> None:
        if host == "m2":  # two turns later: the task of the request was made in the one before
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, leadership.publish, leader(2, 3))

    http.before_batch = replace
    async with running(http, leadership) as pipeline:
        leadership.publish(leader(1, 1))
        command = asyncio.create_task(pipeline.submit("c1", None, b'{"id":"c1"', WAIT_S))
        while not http.posts:
            await asyncio.sleep(0)
        leadership.publish(leader(2, 2))
        assert (await command).id == "c1"
    assert http.posts == [("m1", ["c1"]), ("m3", ["c1"])]


async def test_a_command_that_ran_out_of_time_before_its_request_began_is_not_sent() -> None:
    """Its caller got an error that says it was not run, so only the other commands of the request are sent."""
    http, leadership = ScriptedHttp(), Leadership()
    http.before_batch = lambda host: time.sleep(0.05)  # the time runs out in the turn in which the request is made
    async with running(http, leadership) as pipeline:
        late = asyncio.create_task(pipeline.submit("late", None, b'{"id":"late"', 0.03))
        other = asyncio.create_task(pipeline.submit("other", None, b'{"id":"other"', WAIT_S))
        await asyncio.sleep(0)
        leadership.publish(leader(1, 1))
        with pytest.raises(Unavailable):
            await late
        assert (await other).id == "other"
    assert http.posts == [("m1", ["other"])]


async def test_the_index_of_a_first_attempt_is_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that was idle fetches the index again: results of its last one's time may be forgotten."""
    http, leadership = ScriptedHttp(), Leadership()
    leadership.publish(leader(1, 10))
    async with running(http, leadership) as pipeline:
        await pipeline.submit("a", None, b'{"id":"a"', WAIT_S)
        http.index = http.floor = 500
        monkeypatch.setattr("nodectl.client.connection.pipeline._INDEX_AGE_MAX_S", -1.0)
        await pipeline.submit("b", None, b'{"id":"b"', WAIT_S)
    assert http.afters == [0, 500]


async def test_a_first_attempt_that_is_too_old_is_sent_again_with_a_new_index() -> None:
    """The only attempt was refused, so nothing has run. Its caller does not notice."""
    http, leadership = ScriptedHttp(), Leadership()
    leadership.publish(leader(1, 10))
    async with running(http, leadership) as pipeline:
        await pipeline.submit("a", None, b'{"id":"a"', WAIT_S)
        http.index = http.floor = 500
        result = await pipeline.submit("b", None, b'{"id":"b"', WAIT_S)
    assert (result.id, http.afters) == ("b", [0, 1, 500])


async def test_what_may_have_run_keeps_its_index_and_is_refused() -> None:
    """After an attempt without an answer, or with an `after` of its caller, too old is the answer."""
    http, leadership = ScriptedHttp(), Leadership()
    http.floor = 500
    leadership.publish(leader(1, 10))
    async with running(http, leadership) as pipeline:
        with pytest.raises(TooOld):
            await pipeline.submit("a", 3, b'{"id":"a"', WAIT_S)
        http.unanswered.add("m10")
        waiting = asyncio.create_task(pipeline.submit("b", None, b'{"id":"b"', WAIT_S))
        while len(http.posts) < 2:
            await asyncio.sleep(0.001)
        http.index = 500
        http.unanswered.clear()
        with pytest.raises(TooOld):
            await waiting
    assert set(http.afters) <= {0, 1, 3}
    assert len(http.afters) == 3


async def test_a_leader_that_refuses_a_fresh_index_is_asked_no_third_time() -> None:
    """Its answer then reaches the caller: no endless loop."""
    http, leadership = ScriptedHttp(), Leadership()
    http.floor = 500
    leadership.publish(leader(1, 10))
    async with running(http, leadership) as pipeline:
        with pytest.raises(TooOld):
            await pipeline.submit("a", None, b'{"id":"a"', WAIT_S)
    assert len(http.afters) == 2


@pytest.mark.parametrize("unavailable", ["whole", "each"])
async def test_unavailable_says_nothing_about_an_earlier_attempt(unavailable: str) -> None:
    """The first attempt got no answer, so its outcome stays unknown; and all attempts have the `after` of the first."""
    http, leadership = ScriptedHttp(), Leadership()
    http.unanswered.add("m10")
    leadership.publish(leader(1, 10))
    async with running(http, leadership) as pipeline:
        waiting = asyncio.create_task(pipeline.submit("a", None, b'{"id":"a"', 1.5))
        while not http.posts:
            await asyncio.sleep(0.001)
        http.unanswered.clear()
        http.unavailable = unavailable
        with pytest.raises(CommandOutcomeUnknown):
            await waiting
    assert len(http.posts) > 2
    assert set(http.afters) == {0}
