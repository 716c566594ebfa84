"""Commands and puts by the number of callers, as an SVG picture: rates above, latencies below. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from bench.harness.curve import Point

CAPTION = (
    "commands a second and their latency by the number of callers, and those of frozen puts with as many in flight"
)
_WIDE, _HIGH = 640, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 34, 36
_COMMANDS, _PUTS, _INK, _GRID = "#1f6feb", "#8c959f", "#24292f", "#d0d7de"
_MARGIN = 1.15


@dataclass(frozen=True)
class _Line:
    """One line of a panel: a value for each number of callers."""

    name: str
    colour: str
    values: Sequence[float]
    is_dashed: bool = False


def svg(points: Sequence[Point]) -> str:
    """Draw the curve of at least two numbers of callers."""
    callers = [point.callers for point in points]
    rates = [
        _Line("commands a second", _COMMANDS, [point.rate for point in points]),
        _Line("frozen puts a second", _PUTS, [point.put_rate for point in points]),
    ]
    latencies = [
        _Line("a command, median", _COMMANDS, [point.latency_ms(0.5) for point in points]),
        _Line("a command, p99", _COMMANDS, [point.latency_ms(0.99) for point in points], is_dashed=True),
        _Line("a put, median", _PUTS, [point.put_latency_ms(0.5) for point in points]),
        _Line("a put, p99", _PUTS, [point.put_latency_ms(0.99) for point in points], is_dashed=True),
    ]
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDE} {2 * _HIGH}" font-family="sans-serif" '
        f'font-size="12" role="img" aria-label="{escape(CAPTION)}">',
        f'<rect width="{_WIDE}" height="{2 * _HIGH}" fill="#ffffff"/>',
        *_panel("rate (1/s), by callers", callers, rates, 0),
        *_panel("latency (ms), by callers", callers, latencies, _HIGH),
        "</svg>", "",
    ])  # fmt: skip


def _panel(title: str, callers: Sequence[int], lines: Sequence[_Line], down: int) -> Iterator[str]:
    every = [value for line in lines for value in line.values if value > 0]
    low, high = min(every) / _MARGIN, max(every) * _MARGIN
    yield f'<text x="{_LEFT}" y="{down + 20}" fill="{_INK}" font-size="13">{escape(title)}</text>'
    for value in _ticks(low, high):
        y = _y(value, low, high) + down
        yield f'<line x1="{_LEFT}" x2="{_WIDE - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{_GRID}"/>'
        yield f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" fill="{_INK}">{value:,g}</text>'
    for count in callers:
        x = _x(count, callers)
        yield f'<text x="{x:.1f}" y="{down + _HIGH - _BOTTOM + 16}" text-anchor="middle" fill="{_INK}">{count}</text>'
    for number, line in enumerate(lines):
        places = zip(callers, line.values, strict=True)
        points = " ".join(f"{_x(n, callers):.1f},{_y(value, low, high) + down:.1f}" for n, value in places)
        dashes = ' stroke-dasharray="5 4"' if line.is_dashed else ""
        yield f'<polyline fill="none" stroke="{line.colour}" stroke-width="2"{dashes} points="{points}"/>'
        x, y = _LEFT + 10 + 140 * number, down + _HIGH - 6
        yield f'<text x="{x}" y="{y}" fill="{line.colour}">{"- - " if line.is_dashed else ""}{escape(line.name)}</text>'


def _x(callers: int, every: Sequence[int]) -> float:
    low, high = math.log(min(every)), math.log(max(every))
    return _LEFT + 16 + (math.log(callers) - low) / (high - low) * (_WIDE - _LEFT - _RIGHT - 32)


def _y(value: float, low: float, high: float) -> float:
    part = (math.log(max(value, low)) - math.log(low)) / (math.log(high) - math.log(low))
    return _TOP + (1 - part) * (_HIGH - _TOP - _BOTTOM)


def _ticks(low: float, high: float) -> list[float]:
    """Return the 1, 2 and 5 of each power of ten between the ends of the axis."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [v for v in (factor * 10.0**power for power in powers for factor in (1, 2, 5)) if low <= v <= high]
