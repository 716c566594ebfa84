"""Which boot of this PC it is."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path


def kernel_boot_id() -> str:
    """The kernel's own id of this boot, another one after each reboot, on Linux; "" elsewhere or if unreadable."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    return ""
