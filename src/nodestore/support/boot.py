"""Identifies the current boot of this PC."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path


def kernel_boot_id() -> str:
    """The kernel's id of this boot, which changes at each reboot. "" if unreadable, or not on Linux."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    return ""
