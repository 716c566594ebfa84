"""A disk with adjustable speed: a file system over a directory that delays its operations.

    python -m tests.faults.hosts.lan.slow_disk UNDER MOUNTPOINT SEED

Settings are JSON lines on standard input, such as `{"sync_ms": [20, 400], "write_ms": [0, 5]}`. Each is answered by a
line once it is in force. Each fsync, fdatasync and write is then delayed by a random time of that range. SIGTERM ends
the program and unmounts. It needs the package mfusepy, libfuse, /dev/fuse and root.
"""

from __future__ import annotations

import ctypes.util
import errno
import json
import os
import random
import sys
import threading
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

DEVICE = Path("/dev/fuse")
NAME = "slow-disk"
"""Of the file system, in /proc/mounts."""
_STAT = ("st_mode", "st_ino", "st_nlink", "st_uid", "st_gid", "st_size", "st_blocks")
_STATVFS = (
    "f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree", "f_favail", "f_flag", "f_namemax",
)  # fmt: skip
_AT_ONCE = (0.0, 0.0)


def missing() -> str | None:
    """Return why a slow disk is impossible on this machine, and what to do; None if it is possible."""
    if not DEVICE.exists():
        return f"{DEVICE} is missing: the kernel has no FUSE, or this container is not given it"
    if find_spec("mfusepy") is None:
        return "the package mfusepy is missing: pip install 'nodectl[faults]'"
    if ctypes.util.find_library("fuse3") is None and ctypes.util.find_library("fuse") is None:
        return "libfuse is missing: on Debian, apt-get install fuse3"
    return None


class SlowDisk:
    """The file system. Threads of libfuse call its methods; an OSError that they raise is the answer.

    The kernel handles locks (flock, fcntl) and mapped files, which are not defined here. libfuse keeps a file that is
    unlinked while it is open under a hidden name until it is closed.
    """

    use_ns = True  # read by mfusepy

    def __init__(self, under: Path, seed: str) -> None:
        self._under = str(under)
        self._dice = random.Random(seed)
        self._sync_ms = self._write_ms = _AT_ONCE

    def obey(self, order: Mapping[str, Any]) -> None:
        """Set the delays of each fsync and each write, as ranges in milliseconds."""
        self._sync_ms, self._write_ms = tuple(order["sync_ms"]), tuple(order["write_ms"])

    def _wait(self, span_ms: tuple[float, float]) -> None:
        if span_ms[1] > 0:
            time.sleep(self._dice.uniform(*span_ms) / 1e3)

    # --- delayed operations ---

    def write(self, path: str, data: bytes, offset: int, handle: int) -> int:
        self._wait(self._write_ms)
        return os.pwrite(handle, data, offset)

    def fsync(self, path: str, data_only: int, handle: int) -> None:
        self._wait(self._sync_ms)
        (os.fdatasync if data_only else os.fsync)(handle)

    fsyncdir = fsync

    # --- operations without delay ---

    def getattr(self, path: str, handle: int | None = None) -> dict[str, int]:
        found = os.fstat(handle) if handle else os.lstat(self._under + path)
        times = {name: getattr(found, f"{name}_ns") for name in ("st_atime", "st_mtime", "st_ctime")}
        return times | {name: getattr(found, name) for name in _STAT}

    def statfs(self, path: str) -> dict[str, int]:
        found = os.statvfs(self._under + path)
        return {name: getattr(found, name) for name in _STATVFS}

    def open(self, path: str, flags: int) -> int:
        return os.open(self._under + path, flags & ~os.O_APPEND)  # the kernel says where each write goes

    def create(self, path: str, mode: int, flags: int) -> int:
        return os.open(self._under + path, (flags | os.O_CREAT) & ~os.O_APPEND, mode)

    def opendir(self, path: str) -> int:
        return os.open(self._under + path, os.O_RDONLY | os.O_DIRECTORY)

    def release(self, path: str, handle: int) -> None:
        os.close(handle)

    releasedir = release

    def read(self, path: str, size: int, offset: int, handle: int) -> bytes:
        return os.pread(handle, size, offset)

    def readdir(self, path: str, handle: int) -> list[str]:
        return [".", "..", *os.listdir(self._under + path)]

    def truncate(self, path: str, length: int, handle: int | None = None) -> None:
        os.truncate(handle or self._under + path, length)

    def fallocate(self, path: str, mode: int, offset: int, size: int, handle: int) -> None:
        if mode != 0:
            raise OSError(errno.EOPNOTSUPP, "only to make room")
        os.posix_fallocate(handle, offset, size)

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(self._under + path, mode)

    def rename(self, old: str, new: str) -> None:
        os.rename(self._under + old, self._under + new)

    def unlink(self, path: str) -> None:
        os.unlink(self._under + path)

    def rmdir(self, path: str) -> None:
        os.rmdir(self._under + path)

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(self._under + path, mode)


def _listen(disk: SlowDisk) -> None:
    for line in sys.stdin:
        disk.obey(json.loads(line))
        sys.stdout.write("in force\n")
        sys.stdout.flush()


def main(under: str, mountpoint: str, seed: str) -> None:
    from mfusepy import FUSE  # here: it fails without libfuse, and `missing` must be importable then

    disk = SlowDisk(Path(under).resolve(), seed)
    threading.Thread(target=_listen, args=(disk,), daemon=True).start()
    try:
        FUSE(disk, mountpoint, foreground=True, fsname=NAME)
    except RuntimeError as ended:  # libfuse's exit code: 8 after SIGTERM, the regular end
        sys.exit(int(str(ended)) % 8)


if __name__ == "__main__":
    main(*sys.argv[1:])
