"""A cumulative distribution as an SVG picture: the part of the trials that are no larger than a value. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

from bench.harness.figures import Figure

_WIDE, _HIGH = 640, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 34, 40
_POINTS_MAX = 160
_TIMES = ("us", "ms", "s")
_OURS, _BARE, _INK, _GRID = "#1f6feb", "#8c959f", "#24292f", "#d0d7de"


def drawable(figure: Figure) -> bool:
    """Return whether a picture makes sense: more than one value, and one above zero, as the axis is logarithmic."""
    return len(figure.values) > 1 and max(figure.values) > 0


def caption(figure: Figure) -> str:
    """Return the alternative text of the picture. It speaks of trials for a time or a rate, else of values."""
    if figure.unit in _TIMES:
        shown = "the part of the trials that took no longer"
    elif figure.better == "higher":
        shown = "the part of the trials that were no faster"
    else:
        shown = "the part of the values that are no larger"
    return f"{figure.name}: {shown}"


def svg(figure: Figure) -> str:
    """Draw one figure, and its baseline, if it has one."""
    every = [value for value in (*figure.values, *figure.baselines) if value > 0]
    low, high = _span(min(every), max(every))
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDE} {_HIGH}" font-family="sans-serif" '
        f'font-size="12" role="img" aria-label="{escape(caption(figure))}">',
        f'<rect width="{_WIDE}" height="{_HIGH}" fill="#ffffff"/>',
        f'<text x="{_LEFT}" y="20" fill="{_INK}" font-size="13">{escape(figure.name)} ({escape(figure.unit)})</text>',
        *_axes(low, high),
    ]
    if figure.baselines:
        lines.append(_curve(figure.baselines, low, high, _BARE))
        lines.append(_legend(figure.baseline_name, _BARE, 0))
    lines.append(_curve(figure.values, low, high, _OURS))
    lines.append(_legend(f"ours, n = {figure.n}", _OURS, 1))
    return "\n".join([*lines, "</svg>", ""])


def _span(low: float, high: float) -> tuple[float, float]:
    """Return the range of the axis: some space on both sides, and never empty."""
    return (low / 1.15, high * 1.15) if high > low * 1.01 else (low / 1.5, high * 1.5)


def _x(value: float, low: float, high: float) -> float:
    part = (math.log(max(value, low)) - math.log(low)) / (math.log(high) - math.log(low))
    return _LEFT + part * (_WIDE - _LEFT - _RIGHT)


def _y(part: float) -> float:
    return _TOP + (1 - part) * (_HIGH - _TOP - _BOTTOM)


def _curve(values: Sequence[float], low: float, high: float, colour: str) -> str:
    """Draw the distribution as a step function: each value raises it by 1 / count."""
    ordered = sorted(values)
    count = len(ordered)
    step = max(1, count // _POINTS_MAX)
    kept = [*range(0, count, step), count - 1]
    points = [f"{_x(ordered[0], low, high):.1f},{_y(0):.1f}"]
    before = 0.0
    for position in dict.fromkeys(kept):
        x, part = _x(ordered[position], low, high), (position + 1) / count
        points += [f"{x:.1f},{_y(before):.1f}", f"{x:.1f},{_y(part):.1f}"]
        before = part
    return f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{" ".join(points)}"/>'


def _legend(text: str, colour: str, row: int) -> str:
    y = _HIGH - _BOTTOM - 12 - 16 * row
    return f'<text x="{_WIDE - _RIGHT - 4}" y="{y}" text-anchor="end" fill="{colour}">{escape(text)}</text>'


def _axes(low: float, high: float) -> Iterator[str]:
    for part, label in ((0.0, "0 %"), (0.5, "median"), (0.99, "99 %")):
        y = _y(part)
        yield f'<line x1="{_LEFT}" x2="{_WIDE - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{_GRID}"/>'
        yield f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" fill="{_INK}">{label}</text>'
    for value in _ticks(low, high):
        x = _x(value, low, high)
        yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HIGH - _BOTTOM}" stroke="{_GRID}"/>'
        yield f'<text x="{x:.1f}" y="{_HIGH - _BOTTOM + 16}" text-anchor="middle" fill="{_INK}">{value:g}</text>'


def _ticks(low: float, high: float) -> list[float]:
    """Return round values on a logarithmic axis (1, 2, 5 of each power of ten), or the ends if there are none."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    inside = [value for value in found if low <= value <= high]
    return inside if len(inside) > 1 else [float(f"{low:.3g}"), float(f"{high:.3g}")]
