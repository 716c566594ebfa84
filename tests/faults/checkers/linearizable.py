"""Checks linearizability: whether an order of all calls explains their results and respects real time.

Linearizability is a property of each document by itself, so each is checked alone. The checker processes the ends of
the calls in the order of time. It keeps every *possibility*: a value of the document, and the set of open calls that
have taken effect. When a call ends, it must have taken effect. For each possibility in which it has not, the checker
lets open calls take effect before it, in any order. If no possibility is left, no order explains the history. (The
algorithm is by Wing and Gong; placing calls only when one ends is by Lowe.)

Calls of unknown outcome stay open for ever: they may take effect at any time, or never. If two possibilities differ
only in that one has used more of these calls, it is dropped, as the other allows everything that it allows. A call of
unknown outcome that has taken effect in every possibility is closed. If a document is only read, written and deleted
as a whole, such a call takes part from the begin of the first read that returned its value; before, it is irrelevant.

The work is linear in the length of the history and exponential in the number of overlapping calls on one document. The
steps for each end are bounded. If the bound is reached, the verdict is "gave up", which counts as a violation.

Memory holds the open calls, and those of unknown outcome whose value no read has returned. So a history can be
processed while it is read from a file (`Documents`).
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import and_
from typing import Any, Literal

from tests.faults.checkers.history import Call, Event

State = str
"""A document as canonical JSON, which can be compared and hashed. ABSENT if it does not exist."""
ABSENT = "null"
Step = Callable[[State, Call], State | None]
"""Returns the document after a call; None if the call cannot have had its result on this document."""

TRIES_MAX = 200_000
"""Maximum of steps for the end of one call, about a second. A run of a healthy cluster needs some hundreds."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict on one document. why: the call without a place, or the exceeded bound. tried: number of steps."""

    kind: Literal["linearizable", "violated", "gave up"]
    tried: int
    why: str = ""


def frozen(value: Any) -> State:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def register(state: State, call: Call) -> State | None:
    """The step function of a document that is read, written, deleted, compared-and-set or incremented.

    write: `value`. delete. read: returns `value`. cas: `expected`, `value`, returns `done`. add: increments a number
    (absent: 0) by `by` (default 1) and returns the sum as `value`. A call of unknown outcome fits with any result.
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
    raise ValueError(f"a register has no operation {call.op!r}")


OPERATIONS = ("write", "delete", "read", "cas", "add")
_WHOLE = ("write", "delete", "read")


def judge(history: Iterable[Call], **more: Any) -> dict[str, Verdict]:
    """The verdict on each document, by the field `key` of the calls. Calls of other operations are skipped."""
    by_key: defaultdict[str, list[Call]] = defaultdict(list)
    for call in history:
        if call.op in OPERATIONS:
            by_key[call.fields["key"]].append(call)
    return {key: check(calls, **more) for key, calls in sorted(by_key.items())}


def violations(verdicts: dict[str, Verdict]) -> list[str]:
    """The violations as lines. "gave up" counts too: an unknown result must not count as a correct one."""
    templates = {"violated": "{} is not linearizable: {}", "gave up": "gave up on {}: {}"}
    return [
        templates[verdict.kind].format(key, verdict.why)
        for key, verdict in verdicts.items()
        if verdict.kind in templates
    ]


def check(history: Sequence[Call], step: Step = register, start: State = ABSENT, tries_max: int = TRIES_MAX) -> Verdict:
    """The verdict on the calls of one document."""
    whole = step is register and all(call.op in _WHOLE for call in history)
    search = _Search(step, tries_max, start, whole=whole)
    # Of begins and ends at the same time, begins come first, so that the calls overlap.
    begins = [(call.invoked, False, number) for number, call in enumerate(history)]
    ends = [(call.ended, True, number) for number, call in enumerate(history) if call.end == "ok"]
    for _, ended, number in sorted([*begins, *ends]):
        if ended:
            search.end(number)
        else:
            search.begin(number, history[number])
    return search.verdict()


class Documents:
    """Checks documents that are read, written and deleted as a whole, while the history is read.

    Holds each call until the calls that began before it have ended, as the search needs their results.
    """

    def __init__(self, tries_max: int = TRIES_MAX) -> None:
        self._max = tries_max
        self._feeds: dict[str, _Feed] = {}

    def begin(self, event: Event) -> None:
        """Add the begin of a call. Other operations are skipped."""
        if event.op in OPERATIONS and event.call is not None:
            key = event.fields["key"]
            if key not in self._feeds:
                self._feeds[key] = _Feed(_Search(register, self._max, ABSENT, whole=True))
            self._feeds[key].begin(event.call, event.at)

    def end(self, number: int, call: Call) -> None:
        """Add the end of a call, or a call that has no end in the history."""
        if call.op in OPERATIONS:
            self._feeds[call.fields["key"]].end(number, call)

    def verdicts(self) -> dict[str, Verdict]:
        """The verdicts after all calls were ended."""
        return {key: feed.verdict() for key, feed in sorted(self._feeds.items())}


class _Feed:
    """Passes the calls of one document to a search in the order of time, once their ends are known."""

    def __init__(self, search: _Search) -> None:
        self._search = search
        self._waiting: deque[tuple[float, bool, int]] = deque()
        self._ended: dict[int, Call] = {}
        self._now = 0.0

    def begin(self, number: int, at: float) -> None:
        self._now, behind = at, []
        while self._waiting and self._waiting[-1][:2] == (at, True):  # at the same time: they overlap
            behind.append(self._waiting.pop())
        self._waiting.append((at, False, number))
        self._waiting.extend(reversed(behind))
        self._put()

    def end(self, number: int, call: Call) -> None:
        self._ended[number] = call
        if call.end == "ok":
            self._now = call.ended
            self._waiting.append((call.ended, True, number))
        self._put()

    def verdict(self) -> Verdict:
        self._now = float("inf")
        self._put()
        return self._search.verdict()

    def _put(self) -> None:
        waiting = self._waiting
        while waiting:
            at, ends, number = waiting[0]
            early = at >= self._now if ends else number not in self._ended
            if early:
                return
            waiting.popleft()
            if ends:
                self._search.end(number)
                continue
            call = self._ended.pop(number)
            self._search.begin(number, call)


def _only_looks(call: Call) -> bool:
    """Whether the call changes nothing: a read, or a cas that was not done."""
    return call.end == "ok" and (call.op == "read" or (call.op == "cas" and not call.result["done"]))


Possibility = tuple[State, int]
"""The value of the document, and a bit for each open call that has taken effect."""


class _Possible:
    """A set of possibilities, without those that equal another one but have used more calls of unknown outcome."""

    def __init__(self, optional: int) -> None:
        self._optional = optional
        self._spent: defaultdict[Possibility, list[int]] = defaultdict(list)

    def add(self, state: State, used: int) -> bool:
        """Add a possibility; return False if another one allows everything that it allows."""
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
    """The search through the calls of one document. Each open call has a bit, which is reused after its end.

    whole: the document is only read, written and deleted as a whole.
    """

    def __init__(self, step: Step, tries_max: int, start: State, *, whole: bool) -> None:
        self._step, self._max, self._whole = step, tries_max, whole
        self._left: list[Possibility] = [(start, 0)]
        self._bits: dict[int, int] = {}
        self._open: dict[int, Call] = {}
        self._looks: dict[int, Call] = {}
        """The open calls that change nothing."""
        self._unread: defaultdict[State, list[Call]] = defaultdict(list)
        """Calls of unknown outcome by the value that they write, while no read has returned it."""
        self._optional = 0
        self._tried = 0
        self._tried_before = 0
        self._wrong: Verdict | None = None

    def verdict(self) -> Verdict:
        return self._wrong or Verdict("linearizable", self._tried_before)

    def begin(self, number: int, call: Call) -> None:
        """Add the begin of a call, in the order of time. Failed calls and reads without a result are ignored."""
        if self._wrong is not None or call.end == "fail" or (call.op == "read" and call.end != "ok"):
            return
        if self._whole and call.op not in _WHOLE:
            raise ValueError(f"a document that is written as a whole has no operation {call.op!r}")
        if self._whole and call.op == "read":
            for late in self._unread.pop(frozen(call.result["value"]), ()):
                self._open_up(late)
        if self._whole and call.end == "unknown":
            value = ABSENT if call.op == "delete" else frozen(call.fields["value"])
            if not any(look.op == "read" and frozen(look.result["value"]) == value for look in self._looks.values()):
                self._unread[value].append(call)
                return
        self._bits[number] = self._open_up(call)

    def end(self, number: int) -> None:
        """Process the end of a successful call, in the order of time."""
        if self._wrong is not None:
            return
        bit = self._bits.pop(number)
        call = self._open[bit]
        self._tried = 0
        after = self._after(self._left, bit)
        self._tried_before += self._tried
        if after is None:
            why = f"{len(self._open)} calls are open at the end of {call}"
            self._wrong = Verdict("gave up", self._tried_before, why)
        elif not after:
            self._wrong = Verdict("violated", self._tried_before, self._why(call, self._left))
        else:
            self._close(bit)
            self._left = self._without_settled(after)

    def _open_up(self, call: Call) -> int:
        """Assign a bit to an open call and return it."""
        bit = 1
        while bit in self._open:
            bit <<= 1
        self._open[bit] = call
        if _only_looks(call):
            self._looks[bit] = call
        if call.end == "unknown":
            self._optional |= bit
        return bit

    def _close(self, bit: int) -> None:
        del self._open[bit]
        self._looks.pop(bit, None)
        self._optional &= ~bit

    def _without_settled(self, left: list[Possibility]) -> list[Possibility]:
        """Close the calls of unknown outcome that have taken effect in every possibility."""
        settled = reduce(and_, (used for _, used in left)) & self._optional
        if not settled:
            return left
        for bit in [bit for bit in self._open if bit & settled]:
            self._close(bit)
        return [(state, used & ~settled) for state, used in left]

    def _after(self, left: Sequence[Possibility], bit: int) -> list[Possibility] | None:
        """The possibilities in which this call has taken effect, as late as possible; None if the bound is exceeded."""
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
        """Let all calls that change nothing and fit now take effect: that excludes no other order."""
        for bit, call in self._looks.items():
            if not used & bit and self._step(state, call) == state:
                used |= bit
        return state, used

    def _why(self, call: Call, left: Sequence[Possibility]) -> str:
        values = sorted({state for state, _ in left})
        others = [str(other_call) for other_call in self._open.values() if other_call is not call]
        return (
            f"{call} fits nowhere: before it the document was {' or '.join(values[:5])}"
            f"{' or another' if len(values) > 5 else ''}; open meanwhile: {'; '.join(others[:5]) or 'nothing'}"
        )
