"""Finds the kit from which this program runs: its folder has kit.json, and this Python is in its folder `python`."""

from __future__ import annotations

import sys
from pathlib import Path

MANIFEST = "kit.json"


def running_kit(executable: str = sys.executable) -> Path | None:
    """The folder of the kit whose Python is `executable`; None if it belongs to no kit."""
    if not executable:
        return None
    for folder in Path(executable).resolve().parents[:3]:
        if folder.name == "python" and (folder.parent / MANIFEST).is_file():
            return folder.parent
    return None
