"""The slow file system: it supports all that etcd does with its files, and delays each fsync as requested."""

from __future__ import annotations

import asyncio
import fcntl
import mmap
import os
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from tests.faults.hosts.lan import slow_disk
from tests.faults.hosts.lan.disks import DiskError, Slowable
from tests.support.waiting import eventually

SLOW_MS = (50.0, 60.0)
_PAGE = 4096


@asynccontextmanager
async def mounted(directory: Path) -> AsyncIterator[tuple[Slowable, Path]]:
    """Mount it in a separate mount namespace; return where its files are seen from outside."""
    why = slow_disk.missing() or ("it needs root" if os.geteuid() != 0 else None)
    if why or shutil.which("unshare") is None:
        pytest.skip(why or "unshare is missing: on Debian, apt-get install util-linux")
    under, path = directory / "under", directory / "disk"
    for place in (under, path):
        place.mkdir()
    disk = Slowable(under, path, "seed", directory / "disk.log", ["unshare", "--mount"])
    seen = Path(f"/proc/{disk.pid}/root{path}")
    try:
        await eventually(seen.is_mount, "it is mounted", timeout_s=20.0)
        yield disk, seen
    finally:
        disk.close()


def waited_s(handle: int) -> float:
    begun = time.monotonic()
    os.fdatasync(handle)
    return time.monotonic() - begun


async def test_it_can_do_what_etcd_does_with_files(tmp_path: Path) -> None:
    """Room made in advance, locks, pages shared with a mapping, renamed and unlinked while open, directories synced."""
    async with mounted(tmp_path) as (_, path):
        await asyncio.to_thread(_as_etcd_does, path)
    assert list((tmp_path / "under").iterdir()) == []


def _as_etcd_does(path: Path) -> None:
    (path / "wal.tmp").mkdir()
    writes = os.open(path / "wal.tmp" / "0.wal", os.O_RDWR | os.O_CREAT, 0o600)
    os.posix_fallocate(writes, 0, 16 * _PAGE)
    assert os.fstat(writes).st_size == 16 * _PAGE
    fcntl.flock(writes, fcntl.LOCK_EX)
    reads = os.open(path / "wal.tmp" / "0.wal", os.O_RDWR)
    with pytest.raises(BlockingIOError):
        fcntl.flock(reads, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with mmap.mmap(reads, 16 * _PAGE, mmap.MAP_SHARED, mmap.PROT_READ) as pages:
        assert pages[_PAGE : _PAGE + 5] == bytes(5)
        os.pwrite(writes, b"first", _PAGE)
        assert pages[_PAGE : _PAGE + 5] == b"first"
        (path / "wal.tmp").rename(path / "wal")
        os.pwrite(writes, b"again", _PAGE)
        assert pages[_PAGE : _PAGE + 5] == b"again"
    folder = os.open(path / "wal", os.O_RDONLY)
    for handle in (writes, folder):
        os.fsync(handle)
    os.ftruncate(reads, 2 * _PAGE)
    (path / "wal" / "0.wal").unlink()
    assert os.pread(reads, 5, _PAGE) == b"again"
    assert os.fstat(reads).st_size == 2 * _PAGE
    for handle in (writes, reads, folder):
        os.close(handle)
    deadline = time.monotonic() + 10.0
    while list((path / "wal").iterdir()):  # what was closed is released a moment later
        assert time.monotonic() < deadline
    (path / "wal").rmdir()


async def test_it_is_slow_when_it_is_told(tmp_path: Path) -> None:
    """Each fsync takes at least the lower bound of the range; several wait at the same time."""
    async with mounted(tmp_path) as (disk, path):
        handle = os.open(path / "file", os.O_RDWR | os.O_CREAT, 0o600)
        disk.slow(SLOW_MS)
        waits = await asyncio.gather(*(asyncio.to_thread(waited_s, handle) for _ in range(4)))
        assert all(wait * 1e3 >= SLOW_MS[0] for wait in waits)
        disk.slow((0.0, 0.0), SLOW_MS)
        begun = time.monotonic()
        await asyncio.to_thread(os.pwrite, handle, b"x", 0)
        assert (time.monotonic() - begun) * 1e3 >= SLOW_MS[0]
        disk.restore_speed()
        os.close(handle)


async def test_it_is_gone_when_it_is_closed(tmp_path: Path) -> None:
    """It is unmounted even with an open file, whose calls then fail. A later change of the delay raises an error."""
    async with mounted(tmp_path) as (disk, path):
        handle = os.open(path / "file", os.O_RDWR | os.O_CREAT, 0o600)
    assert not psutil.pid_exists(disk.pid)
    for left in (lambda: os.pwrite(handle, b"x", 0), lambda: os.close(handle)):
        with pytest.raises(OSError, match="not connected"):
            left()
    with pytest.raises((DiskError, ValueError)):
        disk.slow(SLOW_MS)
