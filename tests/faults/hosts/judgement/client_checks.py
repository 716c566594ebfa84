"""Checks of the service that clients got. A cluster that refuses everything loses nothing, so a correct store alone
proves little."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from tests.faults.checkers.findings import Findings
from tests.faults.checkers.history import Call, Event
from tests.faults.hosts.judgement.diary import Window

RECOVERY_S = 15.0
"""A refusal within this many seconds after a fault may be its consequence."""
FLOOR_PER_S = 1.0
"""Acknowledged commands a second that each client needs on the average; usual is thirty times that."""
FAILS_PER_FAULT = 10
"""Commands of a client that may fail for each fault..."""
FAILS_UNEXPLAINED = 5
"""...and with none near, in each ten minutes begun, on a machine that does much else."""
_SPAN_S = 600.0
_PATIENT_S = 5.0  # what waits for longer must be sent once others of the same client get through
_STARVED = 5
_LATE_S = 10.0  # by which the watch of the store may tell of a truncation after a reader has met it
_REFUSALS = frozenset({"Unavailable", "NotLeader", "LeadershipLost"})
_UNKNOWN = frozenset({"OutcomeUnknown", "CommandOutcomeUnknown"})


def client_of(call: Call) -> str:
    """The client process of a caller: `c1` of `c1-0`."""
    return call.process.partition("-")[0]


class Served:
    """Checks how the commands of each client ended; `see` each call.

    A command may fail near a fault, a limited number of times, and not while later commands of the same client succeed.
    NoSpace requires a full disk. An outcome may be unknown if no answer came, or if the command was too old (a repeat;
    or `brief`: ids are soon forgotten). Any other error is a finding, because the application accepts every command.
    """

    def __init__(self, faults: Sequence[Window], *, brief: bool) -> None:
        self.findings = Findings()
        self.repeats = 0
        """Of commands, acknowledged."""
        self._faults, self._brief = faults, brief
        self._acknowledged: defaultdict[str, array[float]] = defaultdict(lambda: array("d"))
        self._waited: list[Call] = []
        self._fails: Counter[str] = Counter()
        self._far: Counter[str] = Counter()

    def see(self, call: Call) -> None:
        if call.op != "command":
            return
        if call.end == "ok":
            self._acknowledged[client_of(call)].append(call.ended)
            self.repeats += bool(call.fields.get("again"))
        elif call.end == "fail":
            self._failed(call)
        elif call.result.get("kind", "OutcomeUnknown") not in _UNKNOWN and not self._too_old(call):
            self.findings.add(f"{call}: a valid command may get no such error")

    def _too_old(self, call: Call) -> bool:
        return call.result["kind"] == "TooOld" and (self._brief or bool(call.fields.get("again")))

    def _failed(self, call: Call) -> None:
        client, kind = client_of(call), call.result.get("kind")
        self._fails[client] += 1
        if kind not in _REFUSALS and not (kind == "NoSpace" and self._near(call, "full-disk")):
            self.findings.add(f"{call}: no fault explains that")
        if not self._near(call):
            self._far[client] += 1
        if call.ended - call.invoked > _PATIENT_S:
            self._waited.append(call)

    def _near(self, call: Call, name: str = "") -> bool:
        return any(
            window.since <= call.ended and call.invoked <= window.until + RECOVERY_S
            for window in self._faults
            if not name or name in window.name.split("+")
        )

    def _starved(self, call: Call) -> bool:
        """Return whether the call waited long while later commands of its client were acknowledged."""
        times = self._acknowledged[client_of(call)]
        return bisect_left(times, call.ended - _PATIENT_S) - bisect_right(times, call.invoked + 1.0) > _STARVED

    def wrong(self, clients: Iterable[str], lasted_s: float | None) -> list[str]:
        """Return the findings after all calls. lasted_s: duration of the run, for the minimum of each client (None: no
        minimum)."""
        unexplained = FAILS_UNEXPLAINED * max(1, math.ceil((lasted_s or 0.0) / _SPAN_S))
        most = FAILS_PER_FAULT * len(self._faults) + unexplained
        found = [f"{call}, while others of its client got through" for call in self._waited if self._starved(call)]
        for client, count in sorted(self._fails.items()):
            if count > most:
                found.append(f"{count} commands of {client} failed, in {len(self._faults)} faults")
            if self._far[client] > unexplained:
                found.append(f"{self._far[client]} commands of {client} failed, and no fault was near")
        for client in clients if lasted_s is not None else ():
            floor, count = int(FLOOR_PER_S * (lasted_s or 0.0)) + 1, len(self._acknowledged[client])
            if count < floor:
                found.append(f"{client} has {count} acknowledged commands: no fewer than {floor} must be")
        return [*self.findings.lines, *found]


def wrong_gones(gones: Iterable[Event], truncations: Sequence[tuple[float, int]]) -> list[str]:
    """Find readers that got 410 although the journal was not truncated behind their position.

    truncations: time, and index up to which the journal was truncated.
    """
    found = Findings()
    for event in gones:
        after = event.fields["after"]
        cut = max((up_to for at, up_to in truncations if at <= event.at + _LATE_S), default=0)
        if after >= cut:
            found.add(
                f"{event.process} was told that the journal is not kept after index {after}: it was cut up to {cut}"
            )
    return found.lines


def missing_readers(expected: Iterable[str], heard: Mapping[str, int]) -> list[str]:
    """Find expected readers without events, and unexpected ones. heard: number of events by reader."""
    wanted = set(expected)
    wrong = [f"the reader {name} has heard nothing" for name in sorted(wanted) if not heard.get(name)]
    return wrong + [f"there is a reader {name} that nobody started" for name in sorted(heard.keys() - wanted)]
