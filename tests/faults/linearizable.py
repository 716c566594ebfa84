"""Whether what clients were told of each document fits some order of all calls that respects real time.

A document by itself is linearizable or not, whatever the others are, so each is judged alone. The calls' ends are gone
through in the order of time, with every *possibility* that is left: a value that the document may have, and which of
the open calls have made it so. When a call ends it must have happened: every possibility in which it has not is tried
with open calls put before it, in any order, until it has. When no possibility is left, no order explains the history.
(The problem is Wing's and Gong's; to put calls into their places only when one ends is Lowe's idea.)

Calls of unknown outcome stay open for ever: they may happen at any time, or never. Of two possibilities that differ
only in that one has already used up more of these, it is dropped: the other can do all that it can.

The work is linear in the history and exponential in how many calls overlap on one document; it is bounded, and a
document that needs more is neither right nor wrong: the verdict is "gave up".
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tests.faults.history import Call

State = str
"""A document as canonical JSON, so that it can be compared and hashed. ABSENT: there is none."""
ABSENT = "null"
Step = Callable[[State, Call], State | None]
"""The document after a call; None: the call cannot have had the result that it had."""

TRIES_MAX = 200_000


@dataclass(frozen=True, slots=True)
class Verdict:
    """On one document. `why`: the call that fits nowhere, or what was too much. `tried`: steps that were tried."""

    kind: Literal["linearizable", "violated", "gave up"]
    tried: int
    why: str = ""


def frozen(value: Any) -> State:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def register(state: State, call: Call) -> State | None:
    """A document that is read, written and deleted as a whole, set if it is as expected, or counted up.

    write: `value`. delete. read: gives `value`. cas: `expected`, `value`, gives `done`. add: a number (absent: 0)
    grows by `by` (1), gives the sum as `value`. What a call of unknown outcome gives is not known, so it always fits.
    """
    known = call.end == "ok"
    match call.op:
        case "write":
            return frozen(call.fields["value"])
        case "delete":
            return ABSENT
        case "read":
            return state if not known or frozen(call.result["value"]) == state else None
        case "cas":
            holds = frozen(call.fields["expected"]) == state
            if known and bool(call.result["done"]) != holds:
                return None
            return frozen(call.fields["value"]) if holds else state
        case "add":
            after = (json.loads(state) or 0) + call.fields.get("by", 1)
            return frozen(after) if not known or call.result["value"] == after else None
    raise ValueError(f"a register knows no {call.op!r}")


OPERATIONS = ("write", "delete", "read", "cas", "add")


def judge(history: Iterable[Call], **more: Any) -> dict[str, Verdict]:
    """The verdict on each document, by the field `key` of the calls; calls of other operations are passed over."""
    by_key: defaultdict[str, list[Call]] = defaultdict(list)
    for call in history:
        if call.op in OPERATIONS:
            by_key[call.fields["key"]].append(call)
    return {key: check(calls, **more) for key, calls in sorted(by_key.items())}


def violations(verdicts: dict[str, Verdict]) -> list[str]:
    """What is wrong, as the other checks say it. What was given up is not wrong: see `given_up`."""
    return [f"{key} is not linearizable: {found.why}" for key, found in verdicts.items() if found.kind == "violated"]


def given_up(verdicts: dict[str, Verdict]) -> list[str]:
    """Of which nothing is known: too many calls overlap."""
    return [f"gave up on {key}: {found.why}" for key, found in verdicts.items() if found.kind == "gave up"]


def check(history: Sequence[Call], step: Step = register, start: State = ABSENT, tries_max: int = TRIES_MAX) -> Verdict:
    """The verdict on the calls of one document."""
    return _Search(_that_matter(history), step, tries_max).run(start)


def _that_matter(history: Sequence[Call]) -> list[Call]:
    """Without those that surely did not happen, reads whose answer nobody got, and, where only whole documents are
    written and read, writes of unknown outcome whose value nobody read: they may as well never have happened."""
    happened = [call for call in history if call.end != "fail" and (call.op != "read" or call.end == "ok")]
    if any(call.op not in ("read", "write", "delete") for call in happened):
        return happened
    read = {frozen(call.result["value"]) for call in happened if call.op == "read"}
    return [
        call
        for call in happened
        if call.end == "ok" or (ABSENT if call.op == "delete" else frozen(call.fields["value"])) in read
    ]


def _only_looks(call: Call) -> bool:
    """A read, or a cas that was not done."""
    return call.end == "ok" and (call.op == "read" or (call.op == "cas" and not call.result["done"]))


Possibility = tuple[State, int]
"""What the document is, and a bit for each open call that has happened."""


class _Possible:
    """Possibilities, without those that have used up more unknown calls than another which is the same otherwise."""

    def __init__(self, optional: int) -> None:
        self._optional = optional
        self._spent: defaultdict[Possibility, list[int]] = defaultdict(list)

    def add(self, state: State, used: int) -> bool:
        """False when another is as good."""
        spent = used & self._optional
        alike = self._spent[state, used & ~self._optional]
        if any(less & ~spent == 0 for less in alike):
            return False
        alike[:] = [other for other in alike if spent & ~other]
        alike.append(spent)
        return True

    def all(self) -> list[Possibility]:
        return [(state, used | spent) for (state, used), alike in self._spent.items() for spent in alike]


class _Search:
    """The search through one document's calls. Each open call has a bit; those that ended have given theirs back."""

    def __init__(self, history: Sequence[Call], step: Step, tries_max: int) -> None:
        self._calls, self._step, self._max = history, step, tries_max
        self._open: dict[int, Call] = {}
        self._looks: dict[int, Call] = {}
        """Those of the open calls that change nothing."""
        self._optional = 0
        self._tried = 0

    def run(self, start: State) -> Verdict:
        left: list[Possibility] = [(start, 0)]
        bits: dict[int, int] = {}
        for _, ends, number in self._events():
            call = self._calls[number]
            if not ends:
                bits[number] = self._begin(call)
                continue
            bit = bits.pop(number)
            after = self._after(left, bit)
            if after is None:
                return Verdict("gave up", self._tried, f"{len(self._open)} calls are open at the end of {call}")
            if not after:
                return Verdict("violated", self._tried, self._why(call, left))
            del self._open[bit]
            self._looks.pop(bit, None)
            left = after
        return Verdict("linearizable", self._tried)

    def _events(self) -> list[tuple[float, bool, int]]:
        """Beginnings and ends in the order of time; at the same time, beginnings first: then they overlap."""
        begins = [(call.invoked, False, number) for number, call in enumerate(self._calls)]
        ends = [(call.ended, True, number) for number, call in enumerate(self._calls) if call.end == "ok"]
        return sorted([*begins, *ends])

    def _begin(self, call: Call) -> int:
        """The bit that it has from now on."""
        bit = 1
        while bit in self._open:
            bit <<= 1
        self._open[bit] = call
        if _only_looks(call):
            self._looks[bit] = call
        if call.end == "unknown":
            self._optional |= bit
        return bit

    def _after(self, left: Sequence[Possibility], bit: int) -> list[Possibility] | None:
        """What is possible once the call with this bit has happened, as late as can be; None: too much to try."""
        known, done = _Possible(self._optional), _Possible(self._optional)
        todo: deque[Possibility] = deque()

        def reached(state: State, used: int) -> None:
            state, used = self._looked(state, used)
            if used & bit:
                done.add(state, used ^ bit)
            elif known.add(state, used):
                todo.append((state, used))

        for state, used in left:
            reached(state, used)
        while todo:
            state, used = todo.popleft()
            for other, call in self._open.items():
                if used & other or other in self._looks:
                    continue
                self._tried += 1
                if self._tried > self._max:
                    return None
                now = self._step(state, call)
                if now is not None:
                    reached(now, used | other)
        return done.all()

    def _looked(self, state: State, used: int) -> Possibility:
        """With all that changes nothing and fits now: to let it happen now takes nothing away from anybody."""
        for bit, call in self._looks.items():
            if not used & bit and self._step(state, call) == state:
                used |= bit
        return state, used

    def _why(self, call: Call, left: Sequence[Possibility]) -> str:
        values = sorted({state for state, _ in left})
        others = [str(one) for one in self._open.values() if one is not call]
        return (
            f"{call} fits nowhere: before it the document was {' or '.join(values[:5])}"
            f"{' or another' if len(values) > 5 else ''}; open meanwhile: {'; '.join(others[:5]) or 'nothing'}"
        )
