"""The drill itself: look whether it may be, send marks, strike, watch, look everything up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nodectl.drill.marks import Mark, Marks
from nodectl.drill.report import Report, Seen, judged
from nodectl.drill.strikes import Strike
from nodectl.reports.takeover import Takeover, find
from nodectl.workload.verdicts import Line, Repeat
from nodestore.errors import Conflict, NodectlError, NotFound, TimedOut, Unavailable

if TYPE_CHECKING:
    from nodectl.client import Client, Leader

_BEFORE = 20
_AFTERWARDS = 20
_REPEATED = 20
_BEGIN_S = 10.0
_RECORD_S = 6.0
_POLL_S = 0.05
_PAGE = 1_000
_PAGES_MAX = 100


@dataclass(frozen=True, slots=True)
class Ready:
    """Who leads, who could take over, and what is wrong already."""

    leader: Leader
    standbys: tuple[str, ...]
    problems: tuple[str, ...]
    index: int


async def ready(client: Client) -> Ready:
    """Conflict while takeovers are paused, Unavailable without a standby: nobody could take over."""
    leader, masters, status = await client.leader(), await client.masters(), await client.status()
    if status["paused"] is not None:
        raise Conflict("takeovers are paused: nobody would take over; nothing was done (nodectl master resume)")
    standbys = tuple(master["id"] for master in masters if master["id"] != leader.id)
    if not standbys:
        raise Unavailable(f"there is no standby: nobody would take over from {leader.id}; nothing was done")
    index = (await client.history(limit=1))["index"]
    return Ready(leader, standbys, tuple(status["problems"]), index)


async def drill(
    client: Client, how: str, strike: Strike, at: Ready, timeout_s: float, say: Callable[[str], None]
) -> Report:
    """TimedOut when nobody took over, or nothing was acknowledged, within `timeout_s`."""
    found: list[float] = []

    afterwards = ""

    def look(leader: Leader | None) -> None:
        if leader is not None and leader.term > at.leader.term:
            found.append(time.monotonic())

    client.on_leader(look)
    async with Marks(client, at.index, timeout_s) as marks:
        say("sending commands that change nothing")
        await marks.more(_BEFORE, _BEGIN_S)
        struck = time.monotonic()
        say(f"{at.leader.id} {strike.told}")
        await strike.begin(at.leader)
        try:
            new = await _newer(client, at.leader, timeout_s)
            say(f"{new.id} leads: {new.why}")
            await marks.more(_AFTERWARDS, timeout_s)
        finally:
            afterwards = await strike.end(at.leader)
        await marks.more(_AFTERWARDS, timeout_s)  # a leader that was frozen is awake by now
    say("looking everything up in the history")
    takeover = await _record(client, new)
    lines = await _lines(client, at.index)
    last, first = gap(marks.acknowledged, {line.index: line.term for line in lines}, at.leader.term)
    report = Report(
        how, strike.told, at.leader.id, takeover, Seen(last, struck, min(found, default=None), first),
        afterwards=afterwards,
    )  # fmt: skip
    repeats = await _repeats(marks, last)
    acknowledged = {mark.id: mark.index for mark in marks.acknowledged}
    failed = [f"{mark.id}: {mark.error}" for mark in marks.sent if mark.error is not None]
    lines = await _lines(client, at.index)  # with what the repeats did, should they have done anything
    report.promises = judged(acknowledged, failed, repeats, lines, takeover, at.leader.id, report.seen.gap_s)
    return report


def gap(marks: Sequence[Mark], terms: Mapping[int, tuple[int, int]], old: tuple[int, int]) -> tuple[float, float]:
    """When the last answer of the old term came and the first of a later one. `terms`: of the indexes in the history.
    A mark that was recognised as a repeat had been committed by the one and was answered by the other."""
    answers = [(mark.acknowledged, mark.repeated or terms.get(mark.index, old) > old)
               for mark in marks if mark.acknowledged is not None]  # fmt: skip
    last = max((at for at, later in answers if not later), default=None)
    first = min((at for at, later in answers if later and (last is None or at > last)), default=None)
    if last is None or first is None:
        raise NodectlError("the history does not tell which leader committed which command: was it truncated?")
    return last, first


async def _newer(client: Client, old: Leader, timeout_s: float) -> Leader:
    deadline, last = time.monotonic() + timeout_s, f"{old.id} still leads"
    while (left_s := deadline - time.monotonic()) > 0:
        try:
            now = await client.leader(timeout_s=left_s)
        except Unavailable as error:
            last = str(error)
        else:
            if now.term > old.term:
                return now
        await asyncio.sleep(_POLL_S)
    raise TimedOut(f"nobody took over from {old.id} within {timeout_s:g} s: {last}")


async def _record(client: Client, new: Leader) -> Takeover:
    """The term's record, once its leader has written how the takeover went; as it is if it does not in time."""
    deadline = time.monotonic() + _RECORD_S
    while True:
        try:
            found = find(await client.terms(), str(new.term), time.time())
        except NotFound:
            found = None
        if found is not None and (found.steps or time.monotonic() > deadline):
            return found
        if time.monotonic() > deadline:
            raise NodectlError(f"term {new.term} is not in the history (nodectl why --list)")
        await asyncio.sleep(_POLL_S)


async def _repeats(marks: Marks, begin: float) -> list[Repeat]:
    """Those around the gap, sent once more, as by a client that lost the answers."""

    def distance(mark: Mark) -> float:
        return abs((mark.acknowledged or 0.0) - begin)

    nearest = sorted(marks.acknowledged, key=distance)[:_REPEATED]
    return [Repeat(mark.id, mark.index, index, repeated, error)
            for mark, index, repeated, error in await marks.again(nearest)]  # fmt: skip


async def _lines(client: Client, after: int) -> list[Line]:
    """Every command since index `after`."""
    lines: list[Line] = []
    for _ in range(_PAGES_MAX):
        entries = (await client.history(after=after, limit=_PAGE))["entries"]
        lines += [Line(item["index"], item["index"], item["id"], item["actor"], (item["epoch"], item["term"]))
                  for item in entries if "problem" not in item]  # fmt: skip
        if len(entries) < _PAGE:
            return lines
        after = lines[-1].index
    return lines
