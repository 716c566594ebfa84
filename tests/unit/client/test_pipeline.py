"""The pipeline itself, where the order of steps in one turn of the event loop matters."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from nodectl.client.connection.http import Http
from nodectl.client.connection.leadership import Leader, Leadership
from nodectl.client.connection.pipeline import PendingCommand, Pipeline
from nodectl.client.connection.state import ConnectionState
from nodestore.errors import Unavailable
from nodestore.schema.models import Term


class NoHttp:
    """Nobody answers."""

    async def call(self, *_: Any, **__: Any) -> Any:
        await asyncio.Event().wait()


def leader(revision: int) -> Leader:
    return Leader(f"m{revision}", "host", ("http://127.0.0.1:1",), Term(1, revision))


async def test_a_request_superseded_before_its_first_step_leaves_nothing_behind() -> None:
    """Its task never ran, so no `finally` of it did either: the command must wait again and the way be free."""
    leadership, state = Leadership(), ConnectionState(30.0)
    pipeline = Pipeline(cast(Http, NoHttp()), leadership, state)
    leadership.publish(leader(1))
    pending = PendingCommand("c1", 0, b"{}", asyncio.get_running_loop().create_future(), lost_leaders=["m0 (term 1.0)"])
    pipeline._start([pending], leader(1))
    assert pipeline._attempts
    leadership.publish(leader(2))
    for _ in range(3):
        await asyncio.sleep(0)
    assert list(pipeline._waiting) == [pending]
    assert pipeline._may_send()
    assert not pending.maybe_received
    state.close()


class KeptHttp(NoHttp):
    """Keeps what was sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    async def call(self, *_: Any, body: bytes = b"", **__: Any) -> Any:
        self.sent.append(body)
        await asyncio.Event().wait()


async def test_a_command_that_ran_out_of_time_before_its_request_began_is_not_sent() -> None:
    """Its caller was told that it surely was not done; the others of its request are sent."""
    leadership, state, http = Leadership(), ConnectionState(30.0), KeptHttp()
    pipeline = Pipeline(cast(Http, http), leadership, state)
    leadership.publish(leader(1))
    late, other = (PendingCommand(name, 0, b'{"id":"%s"' % name.encode(), asyncio.get_running_loop().create_future())
                   for name in ("late", "other"))  # fmt: skip
    pipeline._start([late, other], leader(1))
    pipeline._expire(late, 0.3)
    await asyncio.sleep(0)
    assert isinstance(late.answer.exception(), Unavailable)
    assert [b'"late"' in body for body in http.sent] == [False]
    assert b'"other"' in http.sent[0]
    assert other.maybe_received
    for attempt in pipeline._attempts:
        assert attempt.task is not None
        attempt.task.cancel()
    await asyncio.sleep(0)
    state.close()
