"""schedule.jsonl: the settings of a run and its faults, written line by line, so that an interrupted run can be judged,
and any run judged again."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

COMPLETE = "complete"
_SCHEDULE = "schedule.jsonl"
STORE = "store.jsonl"


@dataclass
class Window:
    """The time of a fault, on the monotonic clock. `until` is infinite if its end was not recorded."""

    name: str
    since: float
    until: float = math.inf


@dataclass
class Diary:
    """The schedule of one run. clients: those that send commands. readers: of the stream. storm: when faults began."""

    seed: int = 0
    duration_s: float = 0.0
    only: Sequence[str] = ()
    brief: bool = False
    clients: Sequence[str] = ()
    readers: Sequence[str] = ()
    storm: float | None = None
    ended: str = "without a word"
    ended_at: float | None = None
    faults: list[Window] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return self.ended == COMPLETE

    def add(self, line: dict[str, Any]) -> None:
        """Apply one line of the file."""
        if "run" in line:
            for name, value in line["run"].items():
                setattr(self, name, value)
        elif "begins" in line:
            self.faults.append(Window(line["begins"], line["at"]))
        elif "ends" in line:
            next(
                window for window in self.faults if window.until == math.inf and window.name == line["ends"]
            ).until = line["at"]
        elif "wrong" in line:
            self.wrong.append(line["wrong"])
        elif "storm" in line:
            self.storm = line["at"]
        elif "ended" in line:
            self.ended, self.ended_at = line["ended"], line["at"]


class Writer:
    """Writes the schedule. Each line is in the file before the call returns."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / _SCHEDULE

    def write(self, **line: Any) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def now(self, **line: Any) -> None:
        """Write a line with the time, on the monotonic clock."""
        self.write(**line, at=round(time.monotonic(), 6))


def read(directory: Path) -> Diary:
    """Return the schedule of a run, which may be empty. A truncated last line is skipped."""
    diary, path = Diary(), directory / _SCHEDULE
    text = path.read_text("utf-8") if path.exists() else ""
    for line in text.split("\n")[:-1]:
        diary.add(json.loads(line))
    return diary
