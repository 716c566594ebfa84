"""Readers of the journal's stream that behave like browsers, one for each master, standbys included.

    python -m tests.faults.hosts.clients.raw_readers '{"masters": {"h1": "http://10.77.0.1:8401"}, "directory":
    "/tmp/run"}'

Each stays at its master and records every event as it came, with repetitions and gaps, in stream-<name>.jsonl. After a
broken connection it continues from the last event, by Last-Event-ID or `after` in turn. After its standard input ends,
the process goes on until each reader has received the index given there, for at most 30 s.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from tests.faults.checkers.history import Recorder

_AGAIN_S = 0.5
_LAST_S = 30.0
_LOOK_S = 0.05
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=1.0, sock_read=6.0)
_SHORT = aiohttp.ClientTimeout(total=2.0)


@dataclass
class Reader:
    """A reader. `position`: the last event's id, or the index to begin after; None: the state must be read again."""

    name: str
    url: str
    record: Recorder
    position: str | None = "0"
    turns: int = field(default=0)

    @property
    def index(self) -> int:
        return int((self.position or "0").rpartition(".")[2])

    async def read(self, session: aiohttp.ClientSession) -> None:
        """Read the stream until cancelled."""
        while True:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                if self.position is None:
                    await self._anew(session)
                await self._stream(session)
            await asyncio.sleep(_AGAIN_S)

    async def _anew(self, session: aiohttp.ClientSession) -> None:
        async with session.get(f"{self.url}/v1/leader?consistency=local", timeout=_SHORT) as answer:
            answer.raise_for_status()
            self.position = str(int((await answer.json())["index"]))

    async def _stream(self, session: aiohttp.ClientSession) -> None:
        assert self.position is not None
        self.turns += 1
        self.record.seen(self.name, "begin", after=self.index)
        headers, after = {"Accept": "text/event-stream"}, {}
        if self.turns % 2:
            after["after"] = self.position
        else:
            headers["Last-Event-ID"] = self.position
        async with session.get(f"{self.url}/v1/events", params=after, headers=headers, timeout=_TIMEOUT) as response:
            if response.status == 410:
                self._gone()
            if response.status == 200:
                await self._take(response)

    async def _take(self, response: aiohttp.ClientResponse) -> None:
        rest = b""
        async for chunk in response.content.iter_any():
            *blocks, rest = (rest + chunk).split(b"\n\n")
            for block in blocks:
                self.hear(block)
            if self.position is None:
                return

    def hear(self, block: bytes) -> None:
        """Process one block of the stream."""
        fields = dict(line.partition(b": ")[::2] for line in block.split(b"\n") if not line.startswith(b":"))
        if fields.get(b"event") == b"gone":
            self._gone()
        elif fields.get(b"event") == b"command":
            self.position = fields.get(b"id", b"").decode()
            epoch, _, index = self.position.partition(".")
            known = json.loads(fields[b"data"])["id"]
            self.record.seen(self.name, "event", epoch=int(epoch), index=int(index), id=known)

    def _gone(self) -> None:
        self.record.seen(self.name, "gone", after=self.index)
        self.position = None


async def run(masters: Mapping[str, str], directory: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        readers = [
            Reader(name, url, stack.enter_context(Recorder(directory / f"stream-{name}.jsonl")))
            for name, url in masters.items()
        ]
        async with asyncio.TaskGroup() as tasks:
            reading = [tasks.create_task(reader.read(session)) for reader in readers]
            up_to = await _told()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LAST_S):
                    while any(reader.position is None or reader.index < up_to for reader in readers):
                        await asyncio.sleep(_LOOK_S)
            for task in reading:
                task.cancel()


async def _told() -> int:
    """Return the index that was written to standard input, once that has ended."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return int(await reader.read() or b"0")


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    asyncio.run(run(given["masters"], Path(given["directory"])))
