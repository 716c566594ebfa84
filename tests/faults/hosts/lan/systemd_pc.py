"""A PC made of namespaces with a real systemd as process 1, to try the unit files that are shipped.

Its disk is this machine's root file system with an overlay in memory, so nothing that it does remains. It has no
network but the loopback interface. When its process 1 is killed, the kernel removes all of it.
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
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

CHECKOUT = Path(__file__).parents[4]
SYSTEMD = Path("/lib/systemd/systemd")
_OWN_DIRECTORIES = ("/tmp", "/run")  # noqa: S108 - on these the PC mounts file systems of its own, which are empty
_START_S = 30.0
_ASK_S = 20.0
_MASKED = (
    "systemd-udevd.service", "systemd-udev-trigger.service", "systemd-udevd-control.socket",
    "systemd-udevd-kernel.socket", "systemd-logind.service", "dbus.service", "dbus.socket", "getty.target",
    "console-getty.service", "systemd-timesyncd.service", "systemd-networkd.service", "systemd-resolved.service",
    "systemd-modules-load.service", "systemd-sysctl.service", "systemd-random-seed.service",
    "systemd-remount-fs.service", "systemd-update-utmp.service", "systemd-user-sessions.service",
    "sys-kernel-config.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount", "dev-hugepages.mount",
    "dev-mqueue.mount", "proc-sys-fs-binfmt_misc.automount", "systemd-binfmt.service", "remote-fs.target",
)  # fmt: skip
# Runs as process 1 of the PC, in namespaces of its own. $1: a directory for mounts, $2: the files of the PC.
_BOOT = """
set -e
mount -t tmpfs -o mode=755 tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
cd "$1/root"
rm -rf etc/systemd/system/*.wants
: > etc/fstab
cp -a "$2/." .
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t tmpfs none sys/fs/cgroup
umount sys/fs/cgroup
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do touch "dev/$device"; mount --bind "/dev/$device" "dev/$device"; done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs tmpfs tmp
ip link set lo up
mkdir -p old_root
pivot_root . old_root
umount -l old_root
exec env -i container=other PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
  /lib/systemd/systemd --system --unit=multi-user.target
"""


class SystemdPc:
    """One PC. `files`: contents by path, which its disk has in addition; `links`: targets by path.

    Skips the test, with the reason, where this machine cannot run it. Fails it if the checkout, its Python or a target
    is where the PC has a file system of its own.
    """

    def __init__(self, directory: Path, files: Mapping[str, bytes], links: Mapping[str, str]) -> None:
        self._directory = directory
        self._cgroup = _cgroup_parent() / f"nodectl-test-{secrets.token_hex(4)}"
        check_visible([str(CHECKOUT), sys.prefix, *links.values()])
        self._process: subprocess.Popen[bytes] | None = None
        self._init = 0
        disk = directory / "disk"
        for path, content in files.items():
            _write(disk / path.lstrip("/"), content)
        _write(disk / "etc/machine-id", f"{secrets.token_hex(16)}\n".encode())
        masked = {f"/etc/systemd/system/{unit}": "/dev/null" for unit in _MASKED}
        for path, target in {**masked, **links}.items():
            link = disk / path.lstrip("/")
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(target)

    def __enter__(self) -> Self:
        mounts = self._directory / "mounts"
        mounts.mkdir()
        self._cgroup.mkdir()
        unshare = "unshare --net --mount --uts --ipc --pid --cgroup --fork --kill-child --propagation private"
        start = f'echo $$ > {self._cgroup}/cgroup.procs; exec {unshare} bash -c "$0" boot "$@"'
        with (self._directory / "boot.log").open("wb") as log:
            self._process = subprocess.Popen(
                ["bash", "-c", start, _BOOT, str(mounts), str(self._directory / "disk")],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        try:
            self._wait_for_systemd()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self._init:
            print(self.run("journalctl --no-pager -n 80"), file=sys.stderr)  # noqa: T201 - pytest shows it
        self.close()

    def close(self) -> None:
        """Cut its power."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._init or self._process.pid, signal.SIGKILL)
            self._process.kill()
            self._process.wait()
        deadline = time.monotonic() + _START_S
        while self._cgroup.exists() and time.monotonic() < deadline:
            for folder in sorted(self._cgroup.rglob("*/"), reverse=True):
                with contextlib.suppress(OSError):
                    folder.rmdir()
            with contextlib.suppress(OSError):
                self._cgroup.rmdir()
            time.sleep(0.05)

    def run(self, command: str) -> str:
        """The output of a shell command on the PC, whatever its exit code."""
        done = subprocess.run(
            ["nsenter", f"--target={self._init}", "--mount", "--net", "--uts", "--ipc", "--pid", "--cgroup", "--root",
             "--wd", "bash", "-c", command],
            capture_output=True, text=True, timeout=_ASK_S, check=False,
        )  # fmt: skip
        return done.stdout + done.stderr

    def is_active(self, unit: str) -> bool:
        return self.run(f"systemctl is-active {unit}").strip() == "active"

    def _wait_for_systemd(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _START_S
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError, ValueError, IndexError):
                child = int(children.read_text().split()[0])
                if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                    self._init = child
                    if "running" in self.run("systemctl is-system-running") or self.run("systemctl list-units"):
                        return
            time.sleep(0.05)
        pytest.skip(f"systemd does not start here: {(self._directory / 'boot.log').read_text()[-300:]}")


def _cgroup_parent() -> Path:
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("a PC with systemd needs Linux and root")
    if not SYSTEMD.exists() or shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("a PC with systemd needs systemd, util-linux and iproute2")
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(place)
    pytest.skip("a PC with systemd needs cgroups of version 2")


def check_visible(paths: Iterable[str]) -> None:
    """Fail the test if a PC cannot see one of these absolute paths of this machine. Relative ones are ignored."""
    for path in filter(os.path.isabs, paths):
        for directory in _OWN_DIRECTORIES:
            if any(Path(form).is_relative_to(directory) for form in (path, os.path.realpath(path))):
                pytest.fail(
                    f"{path} is below {directory}, where a PC with systemd has a file system of its own: "
                    "use a checkout, a Python and an etcd in other directories",
                    pytrace=False,
                )


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
