"""Waterfall charts: a table of steps with durations, times, and bars that each begin where the previous one ends.

All times of a table are rounded to one unit before they are subtracted, so that the displayed durations add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

from nodectl.reports.takeover import Takeover, TakeoverStep
from nodectl.terminal.output import Cell, Output, Table, display_width, is_terminal

BLOCKS = " ▏▎▍▌▋▊▉█"
HASHES = " #"
_PIPE_COLUMNS = 100
_BAR_MIN, _BAR_MAX = 6, 40
_GAP = 2
_LONG_S = 10.0


def canvas(out: Output) -> tuple[int, str]:
    """Columns of the terminal, and the characters of bars: eighth blocks if stdout can encode them, else `#`."""
    columns = _PIPE_COLUMNS
    if is_terminal(out.stdout):
        from rich.console import Console

        columns = Console(file=out.stdout).width
    return columns, BLOCKS if _can_encode(out.stdout, BLOCKS) else HASHES


def _can_encode(stream: TextIO, text: str) -> bool:
    try:
        text.encode(getattr(stream, "encoding", None) or "utf-8")
    except (UnicodeError, LookupError):
        return False
    return True


def bar(begin: float, length: float, whole: float, columns: int, signs: str) -> str:
    """A bar of `length` that begins at `begin`, scaled so that `whole` fills `columns` columns.

    A bar of a length above zero is never empty. `signs` are the characters from empty to full.
    """
    if whole <= 0 or length <= 0:
        return ""
    fine = len(signs) - 1
    cells = columns * fine
    start = min(int(begin / whole * columns), columns - 1)
    parts = min(max(1, round(length / whole * cells)), cells - start * fine)
    full, rest = divmod(parts, fine)
    return " " * start + signs[-1] * full + (signs[rest] if rest else "")


@dataclass(frozen=True, slots=True)
class TotalRow:
    """The last row of a waterfall: its text, its length and its begin, in seconds."""

    what: str
    length_s: float
    begin_s: float = 0.0


def waterfall(steps: Sequence[TakeoverStep], whole: TotalRow, columns: int, signs: str) -> Table:
    """A table with a row for each step, the longest one highlighted, then the row `whole`."""
    unit = _unit(max([whole.length_s, *(step.at_s for step in steps)]))
    at = [unit.count(step.at_s) for step in steps]
    took = [now - before for before, now in zip([0, *at], at, strict=False)]
    length = unit.count(whole.length_s)
    rows = [(step.what, unit.shown(t) if n else "", unit.shown(a))
            for n, (step, t, a) in enumerate(zip(steps, took, at, strict=True))]  # fmt: skip
    rows.append((whole.what, unit.shown(length), ""))
    widths = [max(display_width(row[column]) for row in rows) for column in range(3)]
    room = max(_BAR_MIN, min(_BAR_MAX, columns - sum(widths) - 3 * _GAP - 1))
    begins = [*(a - t for a, t in zip(at, took, strict=True)), unit.count(whole.begin_s)]
    lengths, longest = [*took, length], max(took, default=0)
    styles = ["yellow" if t and t == longest else "cyan" for t in took]
    table = Table(("WHAT HAPPENED", "TOOK".rjust(widths[1]), "AT".rjust(widths[2]), ""))
    for (what, t, a), begin, count, style in zip(rows, begins, lengths, [*styles, "bold"], strict=True):
        strong = style if style == "bold" else ""
        drawn = Cell(bar(begin, count, max([length, *at]), room, signs), style)
        table.add(Cell(what, strong), Cell(t.rjust(widths[1]), strong), a.rjust(widths[2]), drawn)
    return table


@dataclass(frozen=True, slots=True)
class _Unit:
    """A unit of time. `step_s`: the smallest displayed difference, in seconds."""

    name: str
    step_s: float
    decimals: int

    def count(self, seconds: float) -> int:
        return round(seconds / self.step_s)

    def shown(self, count: int) -> str:
        return f"{count / 10**self.decimals:.{self.decimals}f} {self.name}"


def _unit(longest_s: float) -> _Unit:
    return _Unit("s", 1e-3, 3) if longest_s >= _LONG_S else _Unit("ms", 1e-4, 1)


def duration(seconds: float | None) -> str:
    """Format seconds as `85.2 ms` or, from ten seconds on, `12.345 s`; None as `?`."""
    if seconds is None:
        return "?"
    unit = _unit(seconds)
    return unit.shown(unit.count(seconds))


def takeover_tables(found: Takeover, columns: int, signs: str) -> list[Table]:
    """Tables of a takeover: masters, time and cause, then the waterfall of its steps if they were recorded."""
    from nodectl.terminal.format import format_age, local_time

    who = f"{found.master} took over from {found.taken_from}" if found.taken_from else f"{found.master} leads"
    head = Table((f"TERM {found.term}", who))
    head.add("when", f"{local_time(found.since)} ({format_age(found.since)} ago)")
    head.add("cause", Cell(found.cause, "bold"))
    head.add("why", found.why)
    if found.suspected_by:
        head.add("challenged by", ", ".join(found.suspected_by))
    if found.ended:
        head.add("ended", found.ended)
    whole_s = found.whole_s
    if whole_s is None:
        head.add("times", Cell(found.note, "yellow"))
        return [head]
    return [head, waterfall(found.steps, TotalRow("total", whole_s), columns, signs)]


def list_table(found: Sequence[Takeover], columns: int, signs: str) -> Table:
    """A table with one row for each takeover, and bars that compare their total times."""
    from nodectl.terminal.format import local_time

    rows = [
        ("newest" if back == 0 else f"-{back}", item.term, local_time(item.since), item.taken_from or "?", item.master,
         item.cause, duration(item.whole_s))
        for back, item in enumerate(found)
    ]  # fmt: skip
    heads = ("", "TERM", "WHEN", "FROM", "TO", "CAUSE", "TOOK")
    widths = [max(display_width(row[column]) for row in [heads, *rows]) for column in range(len(heads))]
    room = max(_BAR_MIN, min(_BAR_MAX, columns - sum(widths) - len(heads) * _GAP - 1))
    longest = max((item.whole_s or 0.0 for item in found), default=0.0)
    table = Table((*heads[:-1], "TOOK".rjust(widths[-1]), ""))
    for row, item in zip(rows, found, strict=True):
        mark = Cell(bar(0, item.whole_s or 0.0, longest, room, signs), "cyan")
        table.add(*row[:-1], row[-1].rjust(widths[-1]), mark)
    return table
