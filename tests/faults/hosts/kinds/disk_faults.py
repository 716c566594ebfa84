"""Faults of the disk of an etcd member: full, or slow."""

from __future__ import annotations

import asyncio
import errno
from dataclasses import dataclass
from pathlib import Path

from tests.faults.hosts.kinds.fault import Fault
from tests.faults.hosts.lan.disks import Fsyncs
from tests.faults.hosts.lan.pc import Pc
from tests.support.waiting import eventually

_FILLER = "filler"
_NOTICED_S = 60.0
_ROOM_BYTES = 1 << 20
_NO_ROOM = b"no space left on device"


@dataclass
class FullDisk(Fault):
    """The disk of an etcd member is full for a while."""

    victim: str = ""
    member: int | None = None
    """The pid of the member before the fault."""
    said: int = 0
    """The size of its log before the fault, in bytes."""

    async def begin(self) -> None:
        self.victim = self.told = self.dice.choice(self.hosts.site.members)
        pc = self.hosts.pcs[self.victim]
        await self.runs(pc, "etcd")
        self.member, self.said = pc.pid("etcd"), pc.log("etcd").stat().st_size
        await eventually(self.noticed, f"etcd of {self.victim} has noticed its full disk", timeout_s=_NOTICED_S)

    async def noticed(self) -> bool:
        """Fill the disk again; return whether etcd has ended or logged that its disk is full."""
        await asyncio.to_thread(fill, self._filler)
        pc = self.hosts.pcs[self.victim]
        with pc.log("etcd").open("rb") as log:
            log.seek(self.said)
            why = "said so" if _NO_ROOM in log.read() else "ended" if not self._lives(pc) else ""
        if why:
            self.told = f"{self.victim}, whose etcd {why}"
        return bool(why)

    def _lives(self, pc: Pc) -> bool:
        return pc.alive("etcd") and pc.pid("etcd") == self.member

    async def end(self) -> None:
        if self.victim:
            self._filler.unlink(missing_ok=True)
            room = self.hosts.pcs[self.victim].room_bytes()
            assert room >= _ROOM_BYTES, f"the disk of {self.victim} was to have room again, and has {room} bytes"

    @property
    def _filler(self) -> Path:
        slow = self.hosts.disks.get(self.victim)  # filling it through the slow file system would take seconds
        place = self.hosts.pcs[self.victim].disk / "etcd" if slow is None else slow.under
        return place / _FILLER


@dataclass
class SlowDisk(Fault):
    """The fsyncs of an etcd member's disk are slow, each by another random time."""

    victim: str = ""
    kind: str = ""
    before: Fsyncs | None = None

    async def begin(self) -> None:
        members = self.hosts.site.members
        leading = await self.hosts.etcd_leading() if self.dice.random() < 0.5 else None
        self.victim = leading or self.dice.choice(members)
        self.kind = self.dice.choice(sorted(SLOW_MS))
        sync_ms, write_ms = SLOW_MS[self.kind]
        self.told = f"{self.victim}, {self.kind}: an fsync takes {sync_ms[0]:g} to {sync_ms[1]:g} ms"
        self.hosts.disks[self.victim].slow(sync_ms, write_ms)
        self.before = await self.hosts.fsyncs(self.victim)

    async def end(self) -> None:
        try:
            if self.before is not None:
                self.check_slow((await self.hosts.fsyncs(self.victim)).since(self.before))
        finally:
            if self.victim:
                self.hosts.disks[self.victim].restore_speed()

    def check_slow(self, seen: Fsyncs) -> None:
        """Raise AssertionError unless etcd's own metrics show that the disk was slow."""
        self.told += f"; {seen.count} of its WAL, {seen.mean_ms:.0f} ms each by its own measure"
        low_ms = SLOW_MS[self.kind][0][0]
        assert seen.count > 0, f"etcd of {self.victim} wrote nothing while its disk was to be slow"
        assert seen.mean_ms >= low_ms, f"the disk was to be slow, and was not: {self.told}"


SLOW_MS = {
    "worn": ((20.0, 80.0), (0.0, 1.0)),
    "slow": ((20.0, 400.0), (0.0, 5.0)),
    "dying": ((200.0, 900.0), (0.0, 20.0)),
}
"""The added time of an fsync and of a write, as ranges in milliseconds."""


def fill(path: Path) -> None:
    """Append to the file until its (small) disk is full. Raises OSError for any other error."""
    with path.open("ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
