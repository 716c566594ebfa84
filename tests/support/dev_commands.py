"""Running `nodectl dev` and `nodectl demo` as a user does, and finding the processes that they leave behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

SABOTAGED = Path(__file__).parents[1] / "faults" / "sabotaged_masterd.py"
_TIMEOUT_S = 110.0


@dataclass(frozen=True)
class CompletedCommand:
    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


def argv(*args: str | Path) -> list[str]:
    return [sys.executable, "-m", "nodectl", *map(str, args)]


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    return {**os.environ, **(extra or {})}


def nodectl(*args: str | Path, env: Mapping[str, str] | None = None) -> CompletedCommand:
    """Run `nodectl` to its end."""
    done = subprocess.run(
        argv(*args), env=environment(env), capture_output=True, encoding="utf-8", timeout=_TIMEOUT_S, check=False
    )
    return CompletedCommand(done.returncode, done.stdout, done.stderr)


def sabotaged(what: str) -> dict[str, str]:
    """Return the variables with which masterd runs without the guarantee `what` (see `sabotaged_masterd`)."""
    return {"NODECTL_DEV_MASTERD": f'"{sys.executable}" "{SABOTAGED}" {what}'}


def left_behind(directory: Path) -> list[str]:
    """Return the command lines of processes with `directory` in their arguments or as their working directory."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        line = process.info["cmdline"] or []
        cwd = process.info["cwd"] or ""
        if process.pid != os.getpid() and (str(directory) in " ".join(line) or cwd.startswith(str(directory))):
            found.append(" ".join(line))
    return found
