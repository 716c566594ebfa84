"""A stream reads ahead of its user: a bounded number of messages, in order, and none is lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from grpc import StatusCode, aio

from nodestore.etcd import rpc
from nodestore.etcd.rpc import RpcFailed, RpcStream
from tests.support.waiting import eventually


class _Call:
    """A call of grpc that brings these messages. ends: whether it ends then. reads: how many messages were taken."""

    def __init__(self, *messages: str, ends: bool = True) -> None:
        self._messages, self._ends = list(messages), ends
        self._brought = asyncio.Event()
        self.reads = 0

    def bring(self, message: str) -> None:
        self._messages.append(message)
        self._brought.set()

    async def initial_metadata(self) -> None:
        await asyncio.sleep(0)

    async def read(self) -> Any:
        await asyncio.sleep(0)
        while not self._messages:
            if self._ends:
                return aio.EOF
            self._brought.clear()
            await self._brought.wait()
        self.reads += 1
        return self._messages.pop(0)

    def cancel(self) -> bool:
        return True

    def done(self) -> bool:
        return not self._messages

    async def code(self) -> StatusCode:
        return StatusCode.UNAVAILABLE

    async def details(self) -> str:
        return "the member has ended"


async def test_all_messages_come_before_the_error() -> None:
    """In order, also those that were read when the stream had already ended."""
    sent = [str(number) for number in range(3 * rpc._AHEAD_MAX)]
    stream = RpcStream("pc1:2379", _Call(*sent))
    received = [await stream.receive(5.0) for _ in sent]
    assert received == sent
    for _ in range(2):
        with pytest.raises(RpcFailed, match="the member has ended"):
            await stream.receive(5.0)
    await stream.close()


async def test_few_messages_are_read_ahead() -> None:
    """A user that takes none must not fill the memory."""
    sent = [str(number) for number in range(100)]
    call = _Call(*sent)
    stream = RpcStream("pc1:2379", call)
    assert await stream.receive(5.0) == "0"
    await eventually(lambda: call.reads >= 1 + rpc._AHEAD_MAX, "the stream reads ahead")
    await asyncio.sleep(0.01)
    assert call.reads == 1 + rpc._AHEAD_MAX
    assert [await stream.receive(5.0) for _ in sent[1:]] == sent[1:]
    await stream.close()


async def test_a_wake_of_the_reader_loses_no_message() -> None:
    """It ends the wait for a message. One that is there is returned first."""
    call = _Call("a", ends=False)
    stream = RpcStream("pc1:2379", call)
    assert await stream.receive(5.0) == "a"
    pending = asyncio.ensure_future(stream.receive(600.0))
    await asyncio.sleep(0)
    stream.wake_reader()
    assert await pending is None
    call.bring("b")
    assert await stream.receive(5.0) == "b"
    call.bring("c")
    await eventually(lambda: call.reads == 3, "the message is read")
    stream.wake_reader()
    assert await stream.receive(5.0) == "c"
    assert await stream.receive(0.001) is None
    await stream.close()
