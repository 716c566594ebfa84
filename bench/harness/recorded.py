"""The figures of an earlier state of the project, kept in bench/recorded.json, with which a run compares its own.

`make bench RECORD=text` replaces the figures of the parts that it measures. Times of another machine cannot be
compared, so they are used only if the machine is the same.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.harness.curve import Point
from bench.harness.figures import Figure

PATH = Path("bench/recorded.json")


class Recorded:
    """Recorded medians by the name of the figure, and CPU time of a command by the number of callers."""

    def __init__(self, data: Mapping[str, Any] | None = None) -> None:
        self._data: Mapping[str, Any] = data or {}

    @property
    def cpu_us(self) -> Mapping[int, float]:
        """CPU time of a command, all processes together, by the number of callers."""
        found: Mapping[str, Any] = self._data.get("curve", {})
        return {int(callers): float(point["cpu_together_us"]) for callers, point in found.items()}

    def median(self, name: str) -> float | None:
        """Return the recorded median of a figure; None if there is none."""
        found: Mapping[str, Any] = self._data.get("figures", {})
        return float(found[name]["median"]) if name in found else None

    def with_run(self, note: str, figures: Sequence[Figure], points: Sequence[Point]) -> dict[str, Any]:
        """Return the data with the figures of this run in place of the recorded ones."""
        kept = {name: dict(self._data.get(name, {})) for name in ("figures", "curve")}
        kept["figures"] |= {
            item.name: {"median": item.median, "unit": item.unit, "ratio": item.ratio} for item in figures
        }
        kept["curve"] |= {str(point.callers): point.as_json() for point in points}
        return {"machine": machine(), "note": note, **kept}


def machine() -> str:
    """Describe the machine as far as times depend on it."""
    model = ""
    cpus = Path("/proc/cpuinfo")
    if cpus.exists():
        lines = [line for line in cpus.read_text("utf-8").splitlines() if line.startswith(("model name", "model\t"))]
        model = ", ".join(dict.fromkeys(line.partition(":")[2].strip() for line in lines))
    return f"{platform.system()} {platform.machine()}, {model}, Python {platform.python_version()}"


def load(path: Path = PATH) -> Recorded:
    """Read the recorded figures; none if there is no file, or if it is another machine's."""
    if not path.exists():
        return Recorded()
    data = json.loads(path.read_text("utf-8"))
    return Recorded(data if data["machine"] == machine() else None)


def save(note: str, figures: Sequence[Figure], points: Sequence[Point], path: Path = PATH) -> None:
    """Replace the recorded figures by those of this run."""
    path.write_text(json.dumps(load(path).with_run(note, figures, points), indent=1) + "\n", "utf-8")
