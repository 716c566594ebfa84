"""Default paths of development clusters."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path


def default_directory(environ: Mapping[str, str] | None = None) -> Path:
    """Return NODECTL_DEV_DIR, else `nodectl/dev` in the system's directory for a user's state."""
    environ = os.environ if environ is None else environ
    if named := environ.get("NODECTL_DEV_DIR"):
        return Path(named).absolute()
    if sys.platform == "win32":
        local = environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "nodectl" / "dev"
    state = environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "nodectl" / "dev"


def wall_inventory() -> Path:
    """Return the inventory of the example wall, which is part of the package."""
    return Path(__file__).with_name("wall.yaml")
