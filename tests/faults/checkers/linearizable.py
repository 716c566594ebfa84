"""Whether what clients were told of each document fits some order of all calls that respects real time.

A document by itself is linearizable or not, whatever the others are, so each is judged alone. The calls' ends are gone
through in the order of time, with every *possibility* that is left: a value that the document may have, and which of
the open calls have made it so. When a call ends it must have happened: every possibility in which it has not is tried
with open calls put before it, in any order, until it has. When no possibility is left, no order explains the history.
(The problem is Wing's and Gong's; to put calls into their places only when one ends is Lowe's idea.)

Calls of unknown outcome stay open for ever: they may happen at any time, or never. Of two possibilities that differ
only in that one has already used up more of these, it is dropped: the other can do all that it can. One that has
happened in every possibility is closed. Where documents are only read, written and deleted as a whole, a call of
unknown outcome takes part from the beginning of the first read on that gave its value: before, it makes no difference.

The work is linear in the history and exponential in how many calls overlap on one document; what is tried for the end
of each call is bounded, and where that does not do, the verdict is "gave up", which counts as wrong: nothing is known.

Memory holds the calls that are open, and the unknown ones that nobody has read: histories may be fed as they are read
from a file (`Documents`).
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
"""A document as canonical JSON, so that it can be compared and hashed. ABSENT: there is none."""
ABSENT = "null"
Step = Callable[[State, Call], State | None]
"""The document after a call; None: the call cannot have had the result that it had."""

TRIES_MAX = 200_000
"""For the end of one call. A second or so; a run of a healthy cluster needs some hundreds."""


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
_WHOLE = ("write", "delete", "read")


def judge(history: Iterable[Call], **more: Any) -> dict[str, Verdict]:
    """The verdict on each document, by the field `key` of the calls; calls of other operations are passed over."""
    by_key: defaultdict[str, list[Call]] = defaultdict(list)
    for call in history:
        if call.op in OPERATIONS:
            by_key[call.fields["key"]].append(call)
    return {key: check(calls, **more) for key, calls in sorted(by_key.items())}


def violations(verdicts: dict[str, Verdict]) -> list[str]:
    """What is wrong, as the other checks say it. What was given up is wrong too: a judge that does not know must not
    pass for one that has found nothing."""
    said = {"violated": "{} is not linearizable: {}", "gave up": "gave up on {}: {}"}
    return [said[found.kind].format(key, found.why) for key, found in verdicts.items() if found.kind in said]


def check(history: Sequence[Call], step: Step = register, start: State = ABSENT, tries_max: int = TRIES_MAX) -> Verdict:
    """The verdict on the calls of one document."""
    whole = step is register and all(call.op in _WHOLE for call in history)
    search = _Search(step, tries_max, start, whole=whole)
    # At the same time, beginnings first: then they overlap.
    begins = [(call.invoked, False, number) for number, call in enumerate(history)]
    ends = [(call.ended, True, number) for number, call in enumerate(history) if call.end == "ok"]
    for _, ended, number in sorted([*begins, *ends]):
        if ended:
            search.end(number)
        else:
            search.begin(number, history[number])
    return search.verdict()


class Documents:
    """The verdicts on documents that are read, written and deleted as a whole, on a history as it is read. Holds each
    call until those that began before it have ended: only then is known what matters."""

    def __init__(self, tries_max: int = TRIES_MAX) -> None:
        self._max = tries_max
        self._feeds: dict[str, _Feed] = {}

    def begin(self, event: Event) -> None:
        """A call begins. Other operations are passed over."""
        if event.op in OPERATIONS and event.call is not None:
            key = event.fields["key"]
            if key not in self._feeds:
                self._feeds[key] = _Feed(_Search(register, self._max, ABSENT, whole=True))
            self._feeds[key].begin(event.call, event.at)

    def end(self, number: int, call: Call) -> None:
        """A call has ended, or the recording has without it."""
        if call.op in OPERATIONS:
            self._feeds[call.fields["key"]].end(number, call)

    def verdicts(self) -> dict[str, Verdict]:
        """Once all calls have ended."""
        return {key: feed.verdict() for key, feed in sorted(self._feeds.items())}


class _Feed:
    """Puts one document's calls to a search, in the order of time, once their ends are known."""

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
    """The search through one document's calls. Each open call has a bit; those that ended have given theirs back.

    whole: it is read, written and deleted as a whole, and nothing else."""

    def __init__(self, step: Step, tries_max: int, start: State, *, whole: bool) -> None:
        self._step, self._max, self._whole = step, tries_max, whole
        self._left: list[Possibility] = [(start, 0)]
        self._bits: dict[int, int] = {}
        self._open: dict[int, Call] = {}
        self._looks: dict[int, Call] = {}
        """Those of the open calls that change nothing."""
        self._unread: defaultdict[State, list[Call]] = defaultdict(list)
        """Unknown calls by what they write, while no read has given that."""
        self._optional = 0
        self._tried = 0
        self._tried_before = 0
        self._wrong: Verdict | None = None

    def verdict(self) -> Verdict:
        return self._wrong or Verdict("linearizable", self._tried_before)

    def begin(self, number: int, call: Call) -> None:
        """In the order of time. Calls that surely did not happen, and reads whose answer nobody got, are nothing."""
        if self._wrong is not None or call.end == "fail" or (call.op == "read" and call.end != "ok"):
            return
        if self._whole and call.op not in _WHOLE:
            raise ValueError(f"a document that is written as a whole knows no {call.op!r}")
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
        """In the order of time, of calls that ended well."""
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

    def _close(self, bit: int) -> None:
        del self._open[bit]
        self._looks.pop(bit, None)
        self._optional &= ~bit

    def _without_settled(self, left: list[Possibility]) -> list[Possibility]:
        """Unknown calls that have happened in every possibility are done with."""
        settled = reduce(and_, (used for _, used in left)) & self._optional
        if not settled:
            return left
        for bit in [bit for bit in self._open if bit & settled]:
            self._close(bit)
        return [(state, used & ~settled) for state, used in left]

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
