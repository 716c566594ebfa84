"""The drill: check preconditions, send probe commands, inject the fault, wait for the takeover, check the history."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nodectl.drill.marks import ProbeCommand, ProbeCommands
from nodectl.drill.report import ClientTimes, Report, judge_promises
from nodectl.drill.strikes import LeaderFault
from nodectl.reports.takeover import Takeover, find_takeover
from nodectl.workload.verdicts import JournalLine, Repeat
from nodestore.errors import Conflict, NodectlError, NotFound, TimedOut, Unavailable

if TYPE_CHECKING:
    from nodectl.client import Client, Leader

_COMMANDS_BEFORE = 20
_COMMANDS_AFTER = 20
_REPEATS = 20
_FIRST_ANSWERS_S = 10.0
_RECORD_S = 6.0
_POLL_S = 0.05
_PAGE = 1_000
_PAGES_MAX = 100


@dataclass(frozen=True, slots=True)
class Preconditions:
    """The state of the cluster before the drill. `index`: the last index of the journal."""

    leader: Leader
    standbys: tuple[str, ...]
    problems: tuple[str, ...]
    index: int


async def check_preconditions(client: Client) -> Preconditions:
    """Check that a standby could take over. Raises Conflict if takeovers are paused, Unavailable without a standby."""
    leader, masters, status = await client.leader(), await client.masters(), await client.status()
    if status["paused"] is not None:
        raise Conflict("takeovers are paused: no standby would take over; nothing was done (nodectl master resume)")
    standbys = tuple(master["id"] for master in masters if master["id"] != leader.id)
    if not standbys:
        raise Unavailable(f"there is no standby that could take over from {leader.id}; nothing was done")
    index = (await client.history(limit=1))["index"]
    return Preconditions(leader, standbys, tuple(status["problems"]), index)


async def run_drill(
    client: Client,
    how: str,
    fault: LeaderFault,
    preconditions: Preconditions,
    timeout_s: float,
    report_step: Callable[[str], None],
) -> Report:
    """Inject `fault` into the leader under load, and report the takeover. `report_step` receives a line for each step.

    Raises TimedOut if no standby took over, or no command was acknowledged, within `timeout_s` seconds.
    """
    found: list[float] = []

    afterwards = ""

    def on_leader(leader: Leader | None) -> None:
        if leader is not None and leader.term > preconditions.leader.term:
            found.append(time.monotonic())

    client.on_leader(on_leader)
    async with ProbeCommands(client, preconditions.index, timeout_s) as marks:
        report_step("sending commands that change nothing")
        await marks.wait_acknowledged(_COMMANDS_BEFORE, _FIRST_ANSWERS_S)
        injected_at = time.monotonic()
        report_step(f"{preconditions.leader.id} {fault.description}")
        await fault.inject(preconditions.leader)
        try:
            new = await _wait_for_newer(client, preconditions.leader, timeout_s)
            report_step(f"{new.id} leads: {new.why}")
            await marks.wait_acknowledged(_COMMANDS_AFTER, timeout_s)
        finally:
            afterwards = await fault.revert(preconditions.leader)
        await marks.wait_acknowledged(_COMMANDS_AFTER, timeout_s)  # by now a leader that was frozen runs again
    report_step("checking the history")
    takeover = await _fetch_record(client, new)
    lines = await _fetch_lines(client, preconditions.index)
    last, first = answer_gap(marks.acknowledged, {line.index: line.term for line in lines}, preconditions.leader.term)
    report = Report(
        how, fault.description, preconditions.leader.id, takeover,
        ClientTimes(last, injected_at, min(found, default=None), first), afterwards=afterwards,
    )  # fmt: skip
    repeats = await _send_repeats(marks, last)
    acknowledged = {mark.id: mark.index for mark in marks.acknowledged}
    failed = [f"{mark.id}: {mark.error}" for mark in marks.sent if mark.error is not None]
    # Fetched again: if a repeat was run instead of recognised, the history now shows it.
    lines = await _fetch_lines(client, preconditions.index)
    report.promises = judge_promises(
        acknowledged, failed, repeats, lines, takeover, preconditions.leader.id, report.client_times.gap_s
    )
    return report


def answer_gap(
    marks: Sequence[ProbeCommand], terms: Mapping[int, tuple[int, int]], old: tuple[int, int]
) -> tuple[float, float]:
    """Return when the last answer of the old term and the first answer of a later term arrived.

    `terms`: the term of each index in the history. Raises NodectlError if one of the two answers is missing.
    """
    # A command recognised as a repeat was committed in the old term, but the new leader answered it.
    answers = [(mark.acknowledged, mark.repeated or terms.get(mark.index, old) > old)
               for mark in marks if mark.acknowledged is not None]  # fmt: skip
    last = max((at for at, later in answers if not later), default=None)
    first = min((at for at, later in answers if later and (last is None or at > last)), default=None)
    if last is None or first is None:
        raise NodectlError("the history does not show which leader committed which command: was it truncated?")
    return last, first


async def _wait_for_newer(client: Client, old: Leader, timeout_s: float) -> Leader:
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
    raise TimedOut(f"no standby took over from {old.id} within {timeout_s:g} s: {last}")


async def _fetch_record(client: Client, new: Leader) -> Takeover:
    """Return the record of the new term once it has the takeover's steps, or without them after 6 s."""
    deadline = time.monotonic() + _RECORD_S
    while True:
        try:
            found = find_takeover(await client.terms(), str(new.term), time.time())
        except NotFound:
            found = None
        if found is not None and (found.steps or time.monotonic() > deadline):
            return found
        if time.monotonic() > deadline:
            raise NodectlError(f"term {new.term} is not in the history (nodectl why --list)")
        await asyncio.sleep(_POLL_S)


async def _send_repeats(marks: ProbeCommands, begin: float) -> list[Repeat]:
    """Send the commands nearest to the gap once more, like a client that lost the answers."""

    def distance(mark: ProbeCommand) -> float:
        return abs((mark.acknowledged or 0.0) - begin)

    nearest = sorted(marks.acknowledged, key=distance)[:_REPEATS]
    return [Repeat(mark.id, mark.index, index, repeated, error)
            for mark, index, repeated, error in await marks.repeat(nearest)]  # fmt: skip


async def _fetch_lines(client: Client, after: int) -> list[JournalLine]:
    """Return every command after index `after`."""
    lines: list[JournalLine] = []
    for _ in range(_PAGES_MAX):
        entries = (await client.history(after=after, limit=_PAGE))["entries"]
        lines += [JournalLine(item["index"], item["index"], item["id"], item["actor"], (item["epoch"], item["term"]))
                  for item in entries if "problem" not in item]  # fmt: skip
        if len(entries) < _PAGE:
            return lines
        after = lines[-1].index
    return lines
