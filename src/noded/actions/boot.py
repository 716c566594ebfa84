"""Which start of which PC this is: a reboot that was asked for has been done when it is another one."""

from __future__ import annotations

import sys
import time

import psutil

from nodestore.support.boot import kernel_boot_id

_TOLERANCE_S = 60
"""A boot time is counted back by the PC's clock, which may be put right in between. Nothing reboots that quickly
and then starts noded, works, and reboots again."""


def boot_id() -> str:
    """This start of the PC: the kernel's own id on Linux; elsewhere "@" and the boot time, in whole seconds since the
    Unix epoch by the PC's clock."""
    return kernel_boot_id() or f"@{round(_booted_at())}"


def _booted_at() -> float:
    if sys.platform == "win32":
        import ctypes

        ticks = ctypes.WinDLL("kernel32").GetTickCount64
        ticks.restype = ctypes.c_ulonglong
        return float(time.time() - ticks() / 1000.0)
    return float(psutil.boot_time())


def boot_record(host_id: str) -> str:
    """What an action's record keeps in `boot`: the PC, and its present start."""
    return f"{host_id}:{boot_id()}"


def has_rebooted(was: str, now: str) -> bool:
    """Whether `was` and `now`, both by `boot_record`, are surely two starts of one PC, the later one `now`."""
    host, _, old = was.rpartition(":")
    host_now, _, new = now.rpartition(":")
    if host != host_now or not old or not new or (old[0] == "@") != (new[0] == "@"):
        return False
    if old[0] != "@":
        return old != new
    try:
        return int(new[1:]) - int(old[1:]) > _TOLERANCE_S
    except ValueError:
        return False
