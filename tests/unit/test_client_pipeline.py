"""The pipeline itself, where the order of steps in one turn of the event loop matters."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from nodectl.client.http import Http
from nodectl.client.leadership import Leader, Leadership
from nodectl.client.pipeline import Pending, Pipeline
from nodectl.client.state import ConnectionState
from nodestore.models import Term


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
    pending = Pending("c1", 0, b"{}", asyncio.get_running_loop().create_future(), lost=["m0 (term 1.0)"])
    pipeline._start([pending], leader(1))
    assert pipeline._attempts
    leadership.publish(leader(2))
    for _ in range(3):
        await asyncio.sleep(0)
    assert list(pipeline._waiting) == [pending]
    assert pipeline._has_room()
    assert not pending.maybe_received
    state.close()
