"""The results of a run: as a table for the terminal, as JSON data, and as docs/benchmarks.md with pictures."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from bench.harness.figures import Figure
from bench.report import curve_picture
from bench.report.curve import CURVE, NO_CURVES, Curves
from bench.report.picture import caption, drawable, svg

DATA = Path("build/bench.json")
PARTIAL = Path("build/bench-partial.json")
"""The data of a run of some parts; it does not replace that of a complete run."""
PAGE = Path("docs/benchmarks.md")
PICTURES = Path("docs/benchmarks")

_COLUMNS = ("what", "n", "median", "p99", "worst", "baseline", "ratio", "goal", "met")
_P99_FROM = 100
_CURVE_POINTS_MIN = 2
_NONE = "–"
TLS_TITLE = "with TLS"

_INTRODUCTION = (
    "# Benchmarks\n\n"
    "Written by `make bench` from its last complete run; not edited by hand. Everything runs on one machine, over "
    "loopback, including etcd's three members, and shares its cores, so absolute times depend on that machine.\n\n"
    "Times can be compared between machines only as ratios, in the rows that have a `baseline`. Trials of the baseline "
    "and of what is compared with it alternate in the same run, so that noise of the machine affects both; but 100 "
    "nodes are measured right before the 1,000. A frozen put is one of bench/harness/frozen_put.py: a program of its "
    "own that uses grpc.aio and nothing of this project, and that does not change.\n\n"
    "CPU times of a command repeat within some 12 % on the same machine while other work runs. What a process uses at "
    "rest is subtracted. They are divided by the slowdown of the cores that a probe measures in the same seconds.\n\n"
    "`n` is the number of trials, or of processes; `37 of 100`: the series broke off. `p99` and `worst` are on the bad "
    "side: for a rate, the value that 99 % of the trials exceed, and the slowest trial. With fewer than 100 trials p99 "
    "equals the worst trial; it is shown only if there is a goal for it, and is judged by that goal.\n\n"
    "A figure without a goal is reported, not judged. A goal such as `at most 1.5x` applies to the ratio. A goal in "
    "the unit of its row that names neither median nor p99 applies to each trial, so the worst is judged.\n"
)


def describe_machine() -> str:
    """Describe the machine. To be called before the run, because the load average is part of it."""
    load = f", load average before the run {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}{load}"


def table(figures: Sequence[Figure]) -> Table:
    """Return the results as a table for a terminal."""
    return _table("this run", [_COLUMNS, *map(_cells, figures)])


def curve_tables(curves: Curves) -> list[Table]:
    """Return the tables of the curves for a terminal: rates and latencies, and CPU time by process."""
    return [_table(title, rows) for title, rows in curves.tables()]


def tls_table(figures: Sequence[Figure], plain: Sequence[Figure]) -> Table:
    """Return the results with TLS as a table for a terminal."""
    return _table(TLS_TITLE, tls_rows(figures, plain))


def _table(title: str, rows: Sequence[Sequence[str]]) -> Table:
    """Return a table for a terminal. rows: its head first."""
    shown = Table(*rows[0], title=title)
    for row in rows[1:]:
        shown.add_row(*row)
    return shown


def tls_rows(figures: Sequence[Figure], plain: Sequence[Figure]) -> list[list[str]]:
    """Return the rows of the results with TLS, each with the median of the same figure without TLS. None is judged."""
    without = {item.name: item for item in plain}
    rows = [[*_COLUMNS[:-2], "without TLS", "times that"]]
    for item in figures:
        other = without.get(item.name)
        times = f"{item.median / other.median:.2f}" if other is not None and other.median else ""
        rows.append([*_cells(item)[:-2], f"{other.median:.4g} {other.unit}" if other is not None else "", times])
    return rows


def _cells(item: Figure) -> list[str]:
    n = f"{item.n} of {item.planned}" if item.is_incomplete else str(item.n)
    median = f"{item.median:.4g} {item.unit}".rstrip()
    base = f"{item.baseline_name}: {item.baseline:.3g} {item.unit}" if item.baseline is not None else item.baseline_name
    ratio = f"{item.ratio:.2f}x" if item.ratio is not None else ""
    met = {True: "yes", False: "no", None: ""}[item.met]
    return [item.name, n, median, _p99(item), f"{item.worst:.4g}", base, ratio, item.goal, met]


def _p99(item: Figure) -> str:
    judged = any(goal.of == "p99" for goal in item.goals)
    return f"{item.p99:.4g}" if item.n >= _P99_FROM or judged else _NONE


def write_data(
    figures: Sequence[Figure], path: Path, curves: Curves = NO_CURVES, with_tls: Sequence[Figure] = ()
) -> None:
    """Write the results as JSON to `path` (DATA or PARTIAL)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data: dict[str, object] = {item.name: item.as_json() for item in figures}
    data |= {title: {str(point.callers): point.as_json() for point in found} for title, found in curves.by_title()}
    if with_tls:
        data[TLS_TITLE] = {item.name: item.as_json() for item in with_tls}
    path.write_text(json.dumps(data, indent=1) + "\n", "utf-8")


def write_page(
    figures: Sequence[Figure],
    settings: Sequence[str],
    notes: Sequence[str],
    missing: Mapping[str, str],
    curves: Curves = NO_CURVES,
    with_tls: Sequence[Figure] = (),
) -> None:
    """Write docs/benchmarks.md and its pictures. missing: why a figure was not measured, by its name."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    for old in PICTURES.glob("*.svg"):
        old.unlink()
    lines = [_INTRODUCTION, "## Settings", "", *(f"- {line}" for line in settings), "", "## Results", ""]
    lines += [_row(_COLUMNS), "| --- " * len(_COLUMNS) + "|"]
    lines += [_row(_cells(item)) for item in figures]
    for name, why in missing.items():
        lines.append(_row([name, "", "", "", "", f"not measured: {why.replace('|', '/')}", "", "", ""]))
    lines += ["", *_tls_lines(with_tls, figures), *_curve_lines(curves), *(f"{note}\n" for note in notes)]
    lines += ["## Each of them", ""]
    for item in figures:
        lines += [f"### {item.name}", ""]
        lines += [item.how, ""] if item.how else []
        if drawable(item):
            path = PICTURES / f"{slug(item.name)}.svg"
            path.write_text(svg(item), "utf-8")
            lines += [f"![{caption(item)}]({PICTURES.name}/{path.name})", ""]
    PAGE.write_text("\n".join(lines).rstrip() + "\n", "utf-8")


def _tls_lines(figures: Sequence[Figure], plain: Sequence[Figure]) -> list[str]:
    if not figures:
        return []
    what = "The same with TLS between all processes, the frozen put included. Goals apply without TLS only."
    return ["## With TLS", "", what, "", *_rows(tls_rows(figures, plain)), ""]


def _curve_lines(curves: Curves) -> list[str]:
    if len(curves.plain) < _CURVE_POINTS_MIN:
        return []
    path = PICTURES / f"{slug(CURVE)}.svg"
    path.write_text(curve_picture.svg(curves.plain), "utf-8")
    picture = f"![{curve_picture.CAPTION}]({PICTURES.name}/{path.name})"
    lines = [f"## {CURVE.capitalize()}", "", picture, ""]
    for title, rows in curves.tables():
        lines += [title + ":", "", *_rows(rows), ""]
    return lines


def _rows(rows: Sequence[Sequence[str]]) -> list[str]:
    return [_row(rows[0]), "| --- " * len(rows[0]) + "|", *(_row(row) for row in rows[1:])]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
