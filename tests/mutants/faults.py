"""The list of faults, read from `lists/*.toml`, and the rules that it must follow."""

from __future__ import annotations

import random
import tomllib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_LISTS = Path(__file__).with_name("lists")
FILES = (
    "missed",
    "tls",
    "commits",
    "repeats",
    "takeovers",
    "suspicion",
    "views",
    "snapshots",
    "nodes",
    "clients",
    "store",
    "identity",
    "admission",
    "access",
)
"""The files, without `.toml`, in this order. `missed` holds faults that no test noticed when they were first tried."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. old: text that occurs exactly once in `file`; new: what replaces it.

    tests: node ids of pytest, of which at least one must fail. why: what the replaced text protects.
    """

    id: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    why: str


def load() -> list[Fault]:
    """All faults, in the order of FILES."""
    return [
        Fault(**{**item, "tests": tuple(item["tests"])})
        for name in FILES
        for item in tomllib.loads((_LISTS / f"{name}.toml").read_text("utf-8")).get("fault", [])
    ]


def mistakes(faults: Sequence[Fault], root: Path = ROOT) -> list[str]:
    """What is wrong with the list: duplicate ids, texts that do not occur exactly once, tests that do not exist."""
    doubled = [f"{name}: is listed twice" for name, count in Counter(fault.id for fault in faults).items() if count > 1]
    return doubled + [f"{fault.id}: {line}" for fault in faults for line in _mistakes_of(fault, root)]


def _mistakes_of(fault: Fault, root: Path) -> Iterable[str]:
    count = _text(root / fault.file).count(fault.old)
    if count != 1:
        yield f"`old` occurs {count} times in {fault.file}, not once: adapt it to the present text"
    if fault.new == fault.old:
        yield "`new` equals `old`"
    if not fault.tests or not fault.why:
        yield "names no test, or not why it matters"
    for test in fault.tests:
        path, _, name = test.partition("::")
        if f"def {name.partition('[')[0]}(" not in _text(root / path):
            yield f"there is no test {test}"


def _text(path: Path) -> str:
    return path.read_text("utf-8") if path.is_file() else ""


def part_of(faults: Sequence[Fault], part: str) -> list[Fault]:
    """The part `<number>/<parts>` of the faults, such as 3/12. ValueError if there is no such part."""
    number, _, parts = part.partition("/")
    if not (number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts)):
        raise ValueError(f"PART must be <number>/<parts>, such as 3/12, not {part!r}")
    return list(faults[int(number) - 1 :: int(parts)])


def shuffled(faults: Sequence[Fault], seed: str) -> list[Fault]:
    """All faults in an order that the seed decides."""
    drawn = list(faults)
    random.Random(seed).shuffle(drawn)
    return drawn
