"""A client process on the operator's PC: it sends commands one after another and records the answers.

    python -m tests.faults.hosts.clients.caller '{"endpoints": [...], "cluster": "c", "history": "h", "name": "c1"}'

It ends when its standard input ends. It also records the leaders it learns of, to explain slow takeovers.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from nodectl import Client, CommandOutcomeUnknown, Leader
from nodectl.client.connection.results import CommandResult
from nodestore.errors import Invalid, NodectlError, NotFound, Refused, TooLarge, TooOld, Unavailable
from nodestore.support import logs
from tests.faults.checkers.history import Recorder

_LAST_S = 1.0
_AGAIN_S = (1.0, 10.0)
_AGAIN_MAX = 50
_REPEATED = 0.02
"""The part of the acknowledged commands that is repeated."""
SURELY_NOT = (Unavailable, Refused, Invalid, TooLarge, NotFound)
"""Errors after which no copy of a command has run. After all others the outcome is open, also after `TooOld`: an
earlier copy may have run so long ago that its id is forgotten."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a client process.

    `pause_s`: between an answer and the next command. `callers`: number of concurrent commands. `short`: the part of
    the commands with the short timeout. Their outcomes are often unknown; they are repeated later, like some others.
    """

    endpoints: list[str]
    history: str
    name: str
    nodes: list[str]
    cluster: str | None = None
    seed: int = 0
    callers: int = 1
    pause_s: float = 0.003
    timeout_s: float = 20.0
    short_timeout_s: float = 0.3
    short: float = 0.0
    registers: int = 0
    reader: bool = False
    stop: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True)
class PendingRepeat:
    """A command to be repeated at `due` (monotonic clock). The repeat must get the first result."""

    due: float
    id: str
    args: Mapping[str, object]
    after: int


async def commands(client: Client, settings: Settings, number: int, record: Recorder) -> None:
    """Send `node.set` commands, each with an id of its own, until stopped."""
    dice = random.Random(f"{settings.seed}-{settings.name}-{number}")
    who, sent, known = f"{settings.name}-{number}", 0, None
    again: deque[PendingRepeat] = deque(maxlen=_AGAIN_MAX)
    while not settings.stop.is_set():
        if again and again[0].due <= time.monotonic():
            await _repeat(client, record, who, again, settings.timeout_s)
        sent += 1
        text = f"{who}-{sent}"
        args = {"node": dice.choice(settings.nodes), "values": {"text": text}}
        timeout_s = settings.short_timeout_s if dice.random() < settings.short else settings.timeout_s
        repeat, due = dice.random() < _REPEATED, time.monotonic() + dice.uniform(*_AGAIN_S)
        _, told = await _sent(client, record, who, text, "node.set", args, timeout_s, after=known)
        if isinstance(told, CommandOutcomeUnknown):
            again.append(PendingRepeat(due, text, args, told.after))
        elif isinstance(told, CommandResult):
            if repeat and known is not None:
                again.append(PendingRepeat(due, text, args, known))
            known = max(known or 0, told.index)
        await asyncio.sleep(settings.pause_s)


async def _repeat(client: Client, record: Recorder, who: str, again: deque[PendingRepeat], timeout_s: float) -> None:
    one = again.popleft()
    _, told = await _sent(client, record, who, one.id, "node.set", one.args, timeout_s, after=one.after, again=True)
    if isinstance(told, (CommandOutcomeUnknown, Unavailable)):
        again.append(replace(one, due=time.monotonic() + _AGAIN_S[1]))


async def send(
    client: Client, record: Recorder, who: str, known: str, name: str, args: Mapping[str, object], timeout_s: float
) -> str:
    """Send one command, record it, and return how it ended: `ok`, `fail` or `unknown`."""
    end, _ = await _sent(client, record, who, known, name, args, timeout_s)
    return end


async def _sent(
    client: Client, record: Recorder, who: str, known: str, name: str, args: Mapping[str, object], timeout_s: float,
    *, after: int | None = None, again: bool = False,
) -> tuple[str, CommandResult | NodectlError]:  # fmt: skip
    """Send one command and record it; return how it ended, and its result or error."""
    marks = {"again": True} if again else {}
    call = record.invoke(who, "command", id=known, timeout_s=timeout_s, **marks)
    try:
        done = await client.command(name, args, id=known, after=after, timeout_s=timeout_s)
    except SURELY_NOT as error:
        record.fail(call, why=repr(error), kind=type(error).__name__)
        return "fail", error
    except NodectlError as error:
        record.unknown(call, why=repr(error), kind=type(error).__name__)
        return "unknown", error
    record.ok(call, index=done.index, result=done.result)
    return "ok", done


async def registers(client: Client, settings: Settings, number: int, record: Recorder) -> None:
    """Write and read a few documents as a whole; whether these operations are linearizable is judged later."""
    dice = random.Random(f"{settings.seed}-{settings.name}-register-{number}")
    who, sent = f"{settings.name}-r{number}", 0
    while not settings.stop.is_set():
        sent += 1
        scene = f"r{dice.randrange(3)}"
        if dice.random() < 0.5:
            await _read(client, record, who, scene, settings.timeout_s)
        else:
            await _write(client, record, who, scene, f"{who}-{sent}", settings.timeout_s)
        await asyncio.sleep(dice.uniform(0.0, 0.1))


async def _write(client: Client, record: Recorder, who: str, scene: str, known: str, timeout_s: float) -> None:
    call = record.invoke(who, "write", key=scene, value=known)
    args: Mapping[str, object] = {"name": scene, "nodes": {}, "description": known}
    end = await send(client, record, f"{who}-w", known, "scene.save", args, timeout_s)
    {"ok": record.ok, "fail": record.fail, "unknown": record.unknown}[end](call)


async def _read(client: Client, record: Recorder, who: str, scene: str, timeout_s: float) -> None:
    call = record.invoke(who, "read", key=scene)
    try:
        found = await client.documents(f"scenes/{scene}")
    except NodectlError as error:
        record.fail(call, why=str(error))
        return
    view = found.get(f"scenes/{scene}")
    record.ok(call, value=None if view is None else view["document"]["description"])


async def read_stream(client: Client, settings: Settings, record: Recorder) -> None:
    """Record the journal's stream from its begin on, until the client is closed."""
    who, after = f"{settings.name}-reader", 0
    while True:
        record.seen(who, "begin", after=after)
        try:
            async with contextlib.aclosing(client.journal(after)) as stream:
                async for told in stream:
                    epoch, _, index = str(told["position"]).partition(".")
                    record.seen(who, "event", epoch=int(epoch), index=int(index), id=told["id"])
                    after = int(index)
        except TooOld:
            record.seen(who, "gone", after=after)
            after = int((await client.get("/v1/leader"))["index"])
        except Unavailable:  # the client was closed
            return


def _record_leaders(client: Client, record: Recorder) -> None:
    """Record each change of the leader that this client knows, and the etcd member that it uses at that time."""
    etcd = client._etcd  # private: which member a client uses is no concern of its users, but explains a slow takeover

    def record_leader(leader: Leader | None) -> None:
        record.seen(
            "client", "leader", id=leader.id if leader else None, term=leader.term.revision if leader else 0,
            member=etcd.endpoint if etcd else "",
        )  # fmt: skip

    client.on_leader(record_leader)


async def run(settings: Settings) -> None:
    with Recorder(Path(settings.history)) as record:
        async with Client(settings.endpoints, cluster=settings.cluster) as client, asyncio.TaskGroup() as tasks:
            _record_leaders(client, record)
            for number in range(settings.callers):
                tasks.create_task(commands(client, settings, number, record))
            for number in range(settings.registers):
                tasks.create_task(registers(client, settings, number, record))
            reading = tasks.create_task(read_stream(client, settings, record)) if settings.reader else None
            await _wait_for_stop(settings)
            if reading is not None:
                await _wait_reader_caught_up(client, settings)
                reading.cancel()


async def _wait_reader_caught_up(client: Client, settings: Settings) -> None:
    """Give the reader time to receive what is committed now; the check of streams finds what is missing."""
    with contextlib.suppress(NodectlError):
        await client.command("scene.save", {"name": "end", "nodes": {}}, id=f"{settings.name}-end", timeout_s=10.0)
    await asyncio.sleep(_LAST_S)


async def _wait_for_stop(settings: Settings) -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()
    settings.stop.set()


if __name__ == "__main__":
    given = Settings(**json.loads(sys.argv[1]))
    logs.setup_logging("client", given.name, "info")
    asyncio.run(run(given))
