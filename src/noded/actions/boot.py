"""Identifies the present boot of the PC, so that noded can find out after its restart whether the PC has rebooted."""

from __future__ import annotations

import sys
import time

import psutil

from nodestore.support.boot import kernel_boot_id

_TOLERANCE_S = 60
"""Two boot times that differ by less are the same boot: they are computed from the PC's clock, which may be adjusted
in between. No PC boots, starts noded, performs a reboot and boots again within this time."""


def boot_id() -> str:
    """Return the id of the present boot: the kernel's on Linux; elsewhere "@" and the boot time, in whole seconds
    since the Unix epoch by the PC's clock."""
    return kernel_boot_id() or f"@{round(_booted_at())}"


def _booted_at() -> float:
    if sys.platform == "win32":
        import ctypes

        ticks = ctypes.WinDLL("kernel32").GetTickCount64
        ticks.restype = ctypes.c_ulonglong
        return float(time.time() - ticks() / 1000.0)
    return float(psutil.boot_time())


def boot_record(host_id: str) -> str:
    """Return "<host_id>:<boot id>", the content of `ActionResult.boot`."""
    return f"{host_id}:{boot_id()}"


def has_rebooted(before: str, now: str) -> bool:
    """Whether the PC has rebooted between the boot records `before` and `now`. False if that is not certain."""
    host, _, old = before.rpartition(":")
    host_now, _, new = now.rpartition(":")
    if host != host_now or not old or not new or (old[0] == "@") != (new[0] == "@"):
        return False
    if old[0] != "@":
        return old != new
    try:
        return int(new[1:]) - int(old[1:]) > _TOLERANCE_S
    except ValueError:
        return False
