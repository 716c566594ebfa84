"""Commands by the number of callers: the rows of its two tables. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from bench.harness.curve import NODED, Point

_COLUMNS = (
    "callers", "commands/s", "frozen puts/s", "ratio", "session puts/s", "p50 ms", "p99 ms", "put p50", "put p99",
)  # fmt: skip
CURVE = "commands by the number of callers"
CPU_TITLE = "CPU of a command in us, as on undisturbed cores"
Before = Mapping[int, float]
"""CPU time of a command in an earlier run, by the number of callers."""


def rate_rows(points: Sequence[Point]) -> list[list[str]]:
    rows = [
        [
            str(point.callers), f"{point.rate:,.0f}", f"{point.put_rate:,.0f}", f"{point.ratio:.2f}x",
            f"{point.session_put_rate:,.0f}",
            *(f"{point.latency_ms(part):.1f}" for part in (0.5, 0.99)),
            *(f"{point.put_latency_ms(part):.1f}" for part in (0.5, 0.99)),
        ]
        for point in points
    ]  # fmt: skip
    return [list(_COLUMNS), *rows]


def cpu_rows(points: Sequence[Point], before: Before, compared: str = "recorded") -> list[list[str]]:
    """compared: what `before` is."""
    kinds = points[0].kinds if points else []
    head = ["callers", *kinds, "together", compared, "change", NODED, "slowdown of the cores"]
    rows = [head]
    for point in points:
        earlier = before.get(point.callers)
        rows.append([
            str(point.callers), *(f"{point.cpu_us(kind):.0f}" for kind in kinds), f"{point.total_us:.0f}",
            "" if earlier is None else f"{earlier:.0f}",
            "" if earlier is None else f"{point.total_us / earlier - 1:+.0%}",
            f"{point.cpu_us(NODED):.0f}", f"{point.slowdown:.2f}x",
        ])  # fmt: skip
    return rows


@dataclass(frozen=True)
class Curves:
    """What was measured by the number of callers: without TLS, while all nodeds run, and with TLS.

    before: CPU time of a command as recorded.
    """

    plain: Sequence[Point] = ()
    driven: Sequence[Point] = ()
    with_tls: Sequence[Point] = ()
    before: Before = field(default_factory=dict)

    def by_title(self) -> Iterator[tuple[str, Sequence[Point]]]:
        """Yield the curves that were measured."""
        for suffix, points in (("", self.plain), (", nine nodeds", self.driven), (", with TLS", self.with_tls)):
            if points:
                yield CURVE + suffix, points

    def tables(self) -> Iterator[tuple[str, list[list[str]]]]:
        """Yield the title and the rows of each table."""
        without = {point.callers: point.total_us for point in self.plain}
        for title, points in self.by_title():
            yield title, rate_rows(points)
            if points is self.plain:
                rows = cpu_rows(points, self.before)
            else:
                rows = cpu_rows(points, without, "without TLS" if points is self.with_tls else "without nodeds")
            yield f"{CPU_TITLE}{title.removeprefix(CURVE)}", rows


NO_CURVES = Curves()
