"""`Lab`: the namespaces that hold the PCs, their switch and their disks.

One process, the anchor, owns a process, mount and network namespace. When it ends, in whatever way, the kernel kills
all PCs and removes their disks and their network, so nothing remains on the machine. Several labs run at once: each has
the same addresses, on a switch of its own.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.lab.image import CHECKOUT, Image
from tests.lab.pc import LabError, Pc

OPERATOR = "10.77.0.254"
"""The address, on the switch, of a PC that never fails: of the lab itself."""
_PCS_MAX = 20
_START_S, _COMMAND_S = 20.0, 60.0
_POLL_S = 0.05
_OWN_DIRECTORIES = ("/tmp", "/run")  # noqa: S108 - on these a PC mounts file systems of its own, which are empty
_NEEDED = {"/lib/systemd/systemd": "systemd", "unshare": "util-linux", "nsenter": "util-linux", "ip": "iproute2"}
# Dies with the process that started it, if that is wanted; it may have ended already. The setting survives exec.
_TRAMPOLINE = """
import ctypes, os, sys
parent = int(sys.argv[1])
if parent:
    ctypes.CDLL(None).prctl(1, 9)
    if os.getppid() != parent:
        sys.exit(0)
os.execvp(sys.argv[2], sys.argv[2:])
"""
_PREPARE = f"""
set -e
mount -t tmpfs -o mode=755 tmpfs "$1"
mkdir -p /run/netns
mount -t tmpfs none /run/netns
ip link set lo up
ip link add lan type bridge forward_delay 0
ip addr add {OPERATOR}/24 dev lan
ip link set lan up
touch "$1/ready"
exec sleep infinity
"""


class LabMissing(LabError):
    """This machine cannot run a lab. The message says why."""


class Lab:
    """A lab in `directory`, which is only a place for its files. Use it as a context manager, or `start` and `close`.

    image: what each PC's disk has. The lab ends with this process, unless `outlives` is given to `start`.
    """

    def __init__(self, directory: Path, image: Image | None = None) -> None:
        self._directory, self._image = directory.absolute(), image or Image()
        self._cgroups = check_machine(self._image)
        self._process: subprocess.Popen[bytes] | None = None
        self._pcs: dict[int, Pc] = {}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self, *, outlives: bool = False) -> None:
        """Start the lab, without any PC. outlives: it lives on after this process, until `close`."""
        if self._anchor:
            raise LabError(f"a lab runs in {self._directory} already")
        self._directory.mkdir(parents=True, exist_ok=True)
        disks = self._directory / "disks"
        disks.mkdir(exist_ok=True)
        parent = "0" if outlives else str(os.getpid())
        unshare = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        with (self._directory / "lab.log").open("wb") as log:
            self._process = process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _TRAMPOLINE, parent, *unshare,
                 "bash", "-c", _PREPARE, "lab", str(disks)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        (self._directory / "anchor").write_text(f"{process.pid} {secrets.token_hex(4)}")
        deadline = time.monotonic() + _START_S
        while not self._is_ready():
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                process.wait()
                raise LabMissing(f"no lab here: {(self._directory / 'lab.log').read_text()[-300:].strip()}")
            time.sleep(_POLL_S)

    def close(self) -> None:
        """End the lab and everything in it."""
        for number in self.numbers:
            with contextlib.suppress(LabError):
                self.pc(number).power_off()
        if anchor := self._outer:
            with contextlib.suppress(ProcessLookupError):
                os.kill(anchor, signal.SIGKILL)
        if self._process is not None:
            self._process.wait(_START_S)
        for name in ("anchor", "lab.log", "disks"):
            place = self._directory / name
            shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)

    def pc(self, number: int) -> Pc:
        """PC `number`, from 1 on: off and with a fresh disk if it is new."""
        if not 1 <= number <= _PCS_MAX:
            raise LabError(f"a PC's number is from 1 to {_PCS_MAX}, not {number}")
        if not self._anchor:
            raise LabError(f"no lab runs in {self._directory}")
        if number in self._pcs:
            return self._pcs[number]
        directory = self._directory / "disks" / f"pc{number}"
        group = (self._directory / "anchor").read_text().split()[1]
        pc = Pc(number, self._anchor, self.enter, directory, self._cgroups / f"nodectl-lab-{group}-pc{number}")
        if number not in self.numbers:
            pc.format(self._image)
        self._pcs[number] = pc
        return pc

    @property
    def numbers(self) -> list[int]:
        """The numbers of all PCs."""
        if not self._anchor:
            return []
        disks = Path(f"/proc/{self._anchor}/root{self._directory}/disks")
        return sorted(int(path.name.removeprefix("pc")) for path in disks.glob("pc*"))

    def wipe(self, number: int) -> None:
        """Give a PC, which must be off, a new and empty disk."""
        self.pc(number).format(self._image)

    def run(self, command: str, *, timeout_s: float = _COMMAND_S) -> subprocess.CompletedProcess[str]:
        """Run a shell command of this machine in the network of the lab, where it is a PC that never fails."""
        return subprocess.run(
            [*self.enter, "bash", "-c", command],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip

    # --- the anchor ---

    @property
    def enter(self) -> list[str]:
        """The prefix of a command line that runs in the network of the lab."""
        return ["nsenter", f"--target={self._anchor}", "--mount", "--net", "--pid"]

    @property
    def _outer(self) -> int:
        """The process whose end ends the lab; 0 if it has ended."""
        with contextlib.suppress(OSError, ValueError):
            pid = int((self._directory / "anchor").read_text().split()[0])
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if b"--kill-child" in words and os.fsencode(self._directory / "disks") in words:  # not of another lab
                return pid
        return 0

    @property
    def _anchor(self) -> int:
        """The process in whose namespaces the lab is; 0 if there is none."""
        with contextlib.suppress(OSError, ValueError):
            outer = self._outer
            children = Path(f"/proc/{outer}/task/{outer}/children").read_text().split() if outer else []
            return int(children[0]) if children else 0
        return 0

    def _is_ready(self) -> bool:
        return bool(self._anchor) and Path(f"/proc/{self._anchor}/root{self._directory}/disks/ready").exists()


def check_machine(image: Image) -> Path:
    """Return where cgroups of version 2 are. Raises LabMissing if this machine cannot run PCs with `image`."""
    if sys.platform != "linux" or os.geteuid() != 0:
        raise LabMissing("a PC with systemd needs Linux and root")
    for program, package in _NEEDED.items():
        if shutil.which(program) is None:
            raise LabMissing(f"{program} is missing: on Debian, apt-get install {package}")
    check_visible([CHECKOUT, *image.binds.values()])
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(place)
    raise LabMissing("a PC with systemd needs cgroups of version 2")


def check_visible(paths: list[Path]) -> None:
    """Raise LabError if a PC cannot see one of these absolute paths of this machine."""
    for path in paths:
        for directory in _OWN_DIRECTORIES:
            if any(form.is_relative_to(directory) for form in (path, path.resolve())):
                raise LabError(
                    f"{path} is below {directory}, where a PC with systemd has a file system of its own: use a "
                    "checkout, a Python and an etcd in other directories"
                )
