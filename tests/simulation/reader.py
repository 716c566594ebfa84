"""A reader of the event stream of the journal, over all its reconnects. It calls masterd's handler without HTTP."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from aiohttp.abc import AbstractStreamWriter
from aiohttp.test_utils import make_mocked_request

from masterd.api.event_streams import stream_journal
from nodestore.errors import NodectlError, TooOld

if TYPE_CHECKING:
    from tests.simulation.world import Pc, World

_RETRY_S = 0.05
_STAY_S = (0.1, 4.0)


class Pipe(AbstractStreamWriter):
    """The writer of a response. on_event: called with each event's name, id and data."""

    def __init__(self, on_event: Any) -> None:
        self._on_event = on_event

    async def write(self, chunk: bytes | bytearray | memoryview) -> None:
        lines = bytes(chunk).decode().splitlines()
        fields = dict(line.split(": ", 1) for line in lines if not line.startswith(":") and ": " in line)
        if "event" in fields:
            self._on_event(fields["event"], fields.get("id", ""), json.loads(fields["data"]))

    async def write_eof(self, chunk: bytes = b"") -> None: ...

    async def drain(self) -> None: ...

    def enable_compression(self, *args: Any, **kwargs: Any) -> None: ...

    def enable_chunking(self) -> None: ...

    async def write_headers(self, status_line: str, headers: Any) -> None: ...


class Reader:
    """Reads from a random masterd for a while, then from another, and continues at its index. Starts at index 0."""

    def __init__(self, world: World, name: str, seed: int) -> None:
        self._world, self.name = world, name
        self._dice = random.Random(seed)
        self._after = "0"
        self.index = 0
        self._life = asyncio.get_running_loop().create_task(self._live(), name=f"reader {name}")

    async def _live(self) -> None:
        while True:
            running = list(self._world.running.values())
            if running:
                await self._read(self._dice.choice(running))
            await asyncio.sleep(_RETRY_S)

    async def _read(self, pc: Pc) -> None:
        self._world.record_event(self.name, "begin", after=self.index)
        reading = asyncio.ensure_future(self._stream(pc))
        try:
            async with asyncio.timeout(self._dice.uniform(*_STAY_S)):
                while not pc.crashed and not reading.done():
                    await asyncio.wait((reading,), timeout=_RETRY_S)
        except TimeoutError:
            return
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _stream(self, pc: Pc) -> None:
        def on_event(name: str, number: str, data: Any) -> None:
            if not pc.crashed:
                self._on_event(name, number, data)

        request = make_mocked_request("GET", f"/v1/events?after={self._after}", writer=Pipe(on_event))
        try:
            await stream_journal(pc.parts.read_sources, request)
        except TooOld:
            self._gone()
        except NodectlError:
            return

    def _on_event(self, name: str, number: str, data: Any) -> None:
        if name == "gone":
            self._gone()
            return
        epoch, _, index = number.partition(".")
        self._world.record_event(self.name, "event", epoch=int(epoch), index=int(index), id=data["id"])
        self._after, self.index = number, int(index)

    def _gone(self) -> None:
        """Continue at the leader's index, as a client does that reads the whole state again."""
        leader = self._world.leader
        if leader is None:
            return
        self._world.record_event(self.name, "gone")
        self.index = leader.parts.replica.index
        self._after = str(self.index)

    async def end(self) -> None:
        self._life.cancel()
        with suppress(asyncio.CancelledError):
            await self._life
