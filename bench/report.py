"""What was measured, as a table for the terminal, as docs/benchmarks.md with pictures, and as data."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from bench.figures import Figure
from bench.picture import drawable, svg

DATA = Path("build/bench.json")
PAGE = Path("docs/benchmarks.md")
PICTURES = Path("docs/benchmarks")

_INTRODUCTION = (
    "# Benchmarks\n\n"
    "Written by `make bench` from what it measured last; not edited by hand. Everything runs on one machine, over "
    "loopback, etcd's three members included, and shares its cores, so absolute times are that machine's. What can be "
    "compared is the ratio: ours and the bare etcd operation take turns in the same run. A figure without a goal is "
    "reported, not judged.\n\n"
    "`p99` and `worst` are those of the bad side: of a rate, what 99 % of the trials surpass, and the slowest trial.\n"
)


def machine() -> str:
    load = f", load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}{load}"


def table(figures: Sequence[Figure]) -> Table:
    """For a terminal."""
    shown = Table("what", "n", "median", "p99", "worst", "beside", "ratio", "goal", title="measured just now")
    for item in figures:
        shown.add_row(*_cells(item))
    return shown


def _cells(item: Figure) -> list[str]:
    base = f"{item.beside}: {item.baseline:.3g} {item.unit}" if item.baseline is not None else item.beside
    ratio = f"{item.ratio:.2f}x" if item.ratio is not None else ""
    median = f"{item.median:.4g} {item.unit}".rstrip()
    return [item.name, str(item.n), median, f"{item.p99:.4g}", f"{item.max:.4g}", base, ratio, item.goal]


def write_data(figures: Sequence[Figure]) -> None:
    """build/bench.json."""
    DATA.parent.mkdir(parents=True, exist_ok=True)
    DATA.write_text(json.dumps({item.name: item.as_json() for item in figures}, indent=1) + "\n", "utf-8")


def write_page(
    figures: Sequence[Figure], settings: Sequence[str], notes: Sequence[str], missing: Mapping[str, str]
) -> None:
    """docs/benchmarks.md and its pictures. missing: why something was not measured, by its name."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    for old in PICTURES.glob("*.svg"):
        old.unlink()
    lines = [_INTRODUCTION, "## Settings", "", *(f"- {line}" for line in settings), "", "## Results", ""]
    lines += ["| what | n | median | p99 | worst | beside | ratio | goal |", "| --- " * 8 + "|"]
    lines += ["| " + " | ".join(_cells(item)) + " |" for item in figures]
    lines += [f"| {name} | | | | | not measured: {why.replace('|', '/')} | | |" for name, why in missing.items()]
    lines += ["", *(f"{note}\n" for note in notes), "## Each of them", ""]
    for item in figures:
        lines += [f"### {item.name}", ""]
        lines += [item.how, ""] if item.how else []
        if drawable(item):
            path = PICTURES / f"{slug(item.name)}.svg"
            path.write_text(svg(item), "utf-8")
            lines += [f"![{item.name}: the part of the trials that took no longer]({PICTURES.name}/{path.name})", ""]
    PAGE.write_text("\n".join(lines).rstrip() + "\n", "utf-8")


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
