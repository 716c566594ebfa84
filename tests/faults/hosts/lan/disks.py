"""The disks of etcd's members: small, so that they can be filled, and slow on demand if the run has that fault.

A slow disk is a tmpfs with `slow_disk` over it. That costs a member 0.1 ms a write, so only runs with this fault have
it.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.faults.hosts.lan.namespaces import ROOT
from tests.support.waiting import eventually

_BYTES = "512m"
_MOUNTED_S = 20.0
_OBEYS_S = 10.0
_END_S = 10.0
_FSYNCS = re.compile(r"^etcd_disk_wal_fsync_duration_seconds_(sum|count) (\S+)$", re.MULTILINE)


class DiskError(Exception):
    """A slow disk did not confirm a setting, or its file system has ended."""


@dataclass(frozen=True)
class Fsyncs:
    """A member's metrics of its WAL's fsyncs since its start."""

    count: int
    sum_s: float

    def since(self, before: Fsyncs) -> Fsyncs:
        return Fsyncs(self.count - before.count, self.sum_s - before.sum_s)

    @property
    def mean_ms(self) -> float:
        return self.sum_s / self.count * 1e3 if self.count > 0 else 0.0


def fsyncs(metrics: str) -> Fsyncs:
    """Read the metrics from the text of etcd's /metrics. Raises KeyError if they are missing."""
    found = dict(_FSYNCS.findall(metrics))
    return Fsyncs(int(float(found["count"])), float(found["sum"]))


def mount_small(path: Path) -> None:
    """Mount a small tmpfs at `path`."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_BYTES}", "none", str(path)], check=True, timeout=_END_S)


class Slowable:
    """One slow disk: a file system over the directory `under`, mounted at `path`."""

    def __init__(self, under: Path, path: Path, seed: str, log: Path, through: Sequence[str] = ()) -> None:
        """through: the prefix of its command line."""
        self.under, self.path = under, path
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*through, sys.executable, "-m", "tests.faults.hosts.lan.slow_disk", str(under), str(path), seed],
                cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def mounted(self) -> bool:
        if self._process.poll() is not None:
            raise DiskError(f"the file system of {self.path} ended with code {self._process.returncode}")
        return self.path.is_mount()

    def slow(self, sync_ms: tuple[float, float], write_ms: tuple[float, float] = (0.0, 0.0)) -> None:
        """Delay each fsync and each write by a time of these ranges. Raises DiskError if that is not confirmed."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write(json.dumps({"sync_ms": sync_ms, "write_ms": write_ms}).encode() + b"\n")
            stdin.flush()
        except OSError as error:
            raise DiskError(f"the file system of {self.path} is gone: {error}") from None
        ready, _, _ = select.select([stdout], [], [], _OBEYS_S)
        if not ready or not os.read(stdout.fileno(), 100):
            raise DiskError(f"the file system of {self.path} did not obey within {_OBEYS_S:g} s")

    def restore_speed(self) -> None:
        self.slow((0.0, 0.0))

    def close(self) -> None:
        """Unmount it in any state; files that are still open on it fail from then on."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(_END_S)
        # no longer mounted, or the file system was killed and left its mount behind: that cannot be asked
        subprocess.run(["umount", "--lazy", str(self.path)], check=False, capture_output=True, timeout=_END_S)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


class Disks:
    """One for each member's host, at `directory`/disk/<host>/etcd. `async with`: they are there then."""

    def __init__(self, directory: Path, hosts: Iterable[str], *, slowable: bool, seed: int = 0) -> None:
        self._directory = directory
        self._hosts = tuple(hosts)
        self._slowable = slowable
        self._seed = seed
        self.slow: dict[str, Slowable] = {}

    async def __aenter__(self) -> Self:
        try:
            for host in self._hosts:
                await self._bring(host)
        except BaseException:
            self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    async def _bring(self, host: str) -> None:
        path = self._directory / "disk" / host / "etcd"
        path.mkdir(parents=True, exist_ok=True)
        if not self._slowable:
            mount_small(path)
            return
        under = self._directory / "under" / host
        under.mkdir(parents=True, exist_ok=True)
        mount_small(under)
        disk = self.slow[host] = Slowable(under, path, f"{self._seed}-{host}", self._directory / f"disk-{host}.log")
        await eventually(lambda: disk.mounted, f"{path} is mounted", timeout_s=_MOUNTED_S)

    def _close(self) -> None:
        for disk in self.slow.values():
            disk.close()
        self.slow.clear()
