"""One PC of the lab: its power, its cable, its disk, and commands that run on it."""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

from tests.lab.image import BINDS, EMPTIED, MASKED, Image

_START_S, _COMMAND_S, _STOP_S = 60.0, 60.0, 90.0
_POLL_S = 0.05
_ANSWERING = ("initializing", "starting", "running", "degraded", "maintenance", "stopping")
_TAIL_CHARS = 400
# Runs as process 1 of the PC, in namespaces of its own. $1: its directory, $2: its host name. Each line of the file
# binds: source, target.
_BOOT = """
set -e
cd "$1"
hostname "$2"
for attempt in $(seq 100); do  # after a power cut the kernel may still hold the former mount
  mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root" 2>/dev/null && break
  sleep 0.1
done
cd "$1/root"
mountpoint -q .
while IFS="$(printf '\\t')" read -r source target; do
  if [ -d "$source" ]; then mkdir -p ".$target"; else mkdir -p "$(dirname ".$target")"; touch ".$target"; fi
  mount --bind "$source" ".$target"
done < "$1/binds"
ldconfig -r .
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
ln -s /proc/self/fd/0 dev/stdin
ln -s /proc/self/fd/1 dev/stdout
ln -s /proc/self/fd/2 dev/stderr
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs tmpfs tmp
mkdir -p old_root
pivot_root . old_root
umount -l old_root
exec env -i container=other PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
  /lib/systemd/systemd --system --unit=multi-user.target
"""


class LabError(Exception):
    """A command of the lab itself failed."""


class Pc:
    """PC `number`. Its state is in files, so that another process can go on with it.

    anchor: the process whose namespaces hold the lab. enter: the prefix of a command that runs in them. directory: of
    this PC, below the file system in memory that only the anchor sees. cgroup: the group of its processes.
    """

    def __init__(self, number: int, anchor: int, enter: list[str], directory: Path, cgroup: Path) -> None:
        self.number, self.name, self.address = number, f"pc{number}", f"10.77.0.{number}"
        self._enter, self._directory, self._cgroup = enter, directory, cgroup
        self._seen = Path(f"/proc/{anchor}/root", *directory.parts[1:])
        """`directory`, as processes outside see it."""
        self._process: subprocess.Popen[bytes] | None = None
        """The process that holds the PC, if this object switched it on."""

    # --- disk ---

    def format(self, image: Image) -> None:
        """Give the PC, which must be off, an empty disk with this image."""
        if self.is_on:
            raise LabError(f"{self.name} is on: switch it off first")
        shutil.rmtree(self._seen, ignore_errors=True)
        for name in ("upper", "work", "root"):
            (self._seen / name).mkdir(parents=True)
        (self._seen / BINDS).write_text("".join(f"{source}\t{target}\n" for target, source in image.binds.items()))
        for path in EMPTIED:
            self.disk(path).mkdir(parents=True)
            os.setxattr(self.disk(path), "trusted.overlay.opaque", b"y")
        for unit in MASKED:
            self.disk(f"/etc/systemd/system/{unit}").symlink_to("/dev/null")
        files = {"/etc/hostname": self.name, "/etc/machine-id": secrets.token_hex(16), "/etc/fstab": ""}
        hosts = f"127.0.0.1 localhost\n{self.address} {self.name}\n"
        for path, text in {**files, "/etc/hosts": hosts}.items():
            self.put(path, f"{text}\n".encode())
        for path, content in image.files.items():
            self.put(path, content, 0o755 if content.startswith(b"#!") else 0o644)
        for path, target in image.links.items():
            self.disk(path).parent.mkdir(parents=True, exist_ok=True)
            self.disk(path).symlink_to(target)

    def disk(self, path: str) -> Path:
        """Where this machine sees `path` of the PC's own disk, if the PC has written it. For a PC that is off."""
        return self._seen / "upper" / path.lstrip("/")

    def put(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """Write a file on the disk, whether the PC is on or off."""
        place = Path(f"/proc/{self.init}/root{path}") if self.is_on else self.disk(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        place.chmod(mode)

    # --- power ---

    @property
    def init(self) -> int:
        """The pid, on this machine, of the PC's process 1; 0 if the PC is off."""
        with contextlib.suppress(OSError, ValueError):
            pid, started = (self._seen / "init").read_text().split()
            if _start_time(int(pid)) == started:
                return int(pid)
        return 0

    @property
    def is_on(self) -> bool:
        return self.init != 0

    def on(self) -> None:
        """Switch the PC on; return when its systemd answers. Raises LabError if that takes a minute."""
        if self.is_on:
            return
        self._replace_network()
        self._cgroup.mkdir(exist_ok=True)
        spaces = f"--net=/run/netns/{self.name}"
        unshare = "unshare --mount --uts --ipc --pid --cgroup --fork --kill-child --propagation private"
        start = f'echo $$ > {self._cgroup}/cgroup.procs; exec nsenter {spaces} {unshare} bash -c "$0" boot "$@"'
        with Path(self._seen, "boot.log").open("wb") as log:
            self._process = subprocess.Popen(
                [*self._enter, "bash", "-c", start, _BOOT, str(self._directory), self.name],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self._wait_for_systemd(self._process)

    def power_off(self) -> None:
        """Cut its power: the cable goes dead first, so that no packet tells others of it."""
        self.unplug()
        if (pid := self.init) != 0:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._wait_off(_STOP_S)

    def shut_down(self) -> None:
        """Shut down in order."""
        self.run("systemctl poweroff --no-block")
        self._wait_off(_STOP_S)

    def reboot(self) -> None:
        """Shut down in order, and start again."""
        self.shut_down()
        self.on()

    # --- cable ---

    def unplug(self) -> None:
        """Pull its cable: no packet reaches or leaves it, and no connection is closed."""
        subprocess.run([*self._enter, "ip", "link", "set", self.name, "down"], capture_output=True, check=False)

    def plug(self) -> None:
        self._ip("link", "set", self.name, "up")

    def _replace_network(self) -> None:
        """A new network card, so that no packet of an earlier life of this PC is sent."""
        for words in (("link", "del", self.name), ("netns", "del", self.name)):
            subprocess.run([*self._enter, "ip", *words], capture_output=True, check=False)
        self._ip("netns", "add", self.name)
        self._ip("link", "add", self.name, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        self._ip("-n", self.name, "link", "set", "eth0", "address", f"02:00:0a:4d:00:{self.number:02x}")
        self._ip("link", "set", self.name, "master", "lan", "up")
        for line in (f"addr add {self.address}/24 dev eth0", "link set eth0 up", "link set lo up"):
            self._ip("-n", self.name, *line.split())

    def _ip(self, *words: str) -> None:
        done = subprocess.run([*self._enter, "ip", *words], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise LabError(f"ip {' '.join(words)}: {done.stderr.strip()}")

    # --- commands ---

    def enter(self, command: str) -> list[str]:
        """The command line, on this machine, that runs a shell command on the PC as root."""
        if not self.is_on:
            raise LabError(f"{self.name} is off")
        clean = ["env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root",
                 "LANG=C.UTF-8", "TERM=dumb", "COLUMNS=80"]  # fmt: skip
        spaces = ["--mount", "--net", "--uts", "--ipc", "--pid", "--cgroup", "--root", "--wd"]
        return ["nsenter", f"--target={self.init}", *spaces, *clean, "bash", "-c", command]

    def run(self, command: str, *, timeout_s: float = _COMMAND_S) -> subprocess.CompletedProcess[str]:
        """Run a shell command on the PC, whatever its exit code."""
        return subprocess.run(
            self.enter(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def check(self, command: str, *, timeout_s: float = _COMMAND_S) -> str:
        """Run a shell command on the PC; return its output. Raises LabError if it fails."""
        done = self.run(command, timeout_s=timeout_s)
        if done.returncode != 0:
            raise LabError(f"{self.name}: {command}: exit code {done.returncode}: {done.stderr[-_TAIL_CHARS:]}")
        return done.stdout

    def show(self, unit: str, property_name: str) -> str:
        """A property of a unit, such as ActiveState."""
        return self.check(f"systemctl show --value -p {property_name} {shlex.quote(unit)}").strip()

    def is_active(self, unit: str) -> bool:
        return self.is_on and self.show(unit, "ActiveState") == "active"

    def journal(self, unit: str, lines: int = 80) -> str:
        return self.run(f"journalctl --no-pager -o cat -n {lines} -u {shlex.quote(unit)}").stdout

    # --- waiting ---

    def _wait_for_systemd(self, process: subprocess.Popen[bytes]) -> None:
        def answers() -> bool:
            if (pid := _systemd_below(process.pid)) == 0:
                return False
            (self._seen / "init").write_text(f"{pid} {_start_time(pid)}")
            return self.run("systemctl is-system-running").stdout.strip() in _ANSWERING  # not: offline, unknown

        deadline = time.monotonic() + _START_S
        while not answers():
            if process.poll() is not None or time.monotonic() > deadline:
                log = (self._seen / "boot.log").read_text(errors="replace")
                raise LabError(f"{self.name} does not start: {log[-_TAIL_CHARS:]}")
            time.sleep(_POLL_S)

    def _wait_off(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while self.is_on or not self._remove_cgroup():
            if time.monotonic() > deadline:
                raise LabError(f"{self.name} is still on")
            time.sleep(_POLL_S)
        if self._process is not None:
            self._process.wait(_STOP_S)
            self._process = None

    def _remove_cgroup(self) -> bool:
        for folder in sorted(self._cgroup.rglob("*/"), reverse=True):
            with contextlib.suppress(OSError):
                folder.rmdir()
        with contextlib.suppress(OSError):
            self._cgroup.rmdir()
        return not self._cgroup.exists()


def _start_time(pid: int) -> str:
    """When a process began; empty if it has ended. A pid may belong to another process later."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _systemd_below(pid: int) -> int:
    """The first descendant of a process that is systemd; 0 if there is none."""
    with contextlib.suppress(OSError):
        for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
            if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                return child
            if found := _systemd_below(child):
                return found
    return 0
