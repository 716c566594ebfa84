"""Where a run takes place: network, mount and process namespaces of its own, so that nothing of it can be left over.

The first process of a process namespace takes all others along when it ends, however it ends; network namespaces,
tmpfs and mounts that only they had go with them. So nothing has to be swept up, and nobody else's can be hit.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

CANNOT = 77
"""Exit code: this machine does not let us, as the reason says."""
INSIDE = "NODECTL_FAULTS_INSIDE"
ROOT = Path(__file__).parents[4]
NAMES = Path("/run/netns")
_NEEDED = {"unshare": "util-linux", "nsenter": "util-linux", "ip": "iproute2", "iptables": "iptables"}
_TRY_S = 20.0
_LAST_WORDS_S = 180.0
# Die with the parent, however that ends; it may be gone already. A property of the process that survives exec.
_TRAMPOLINE = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() != int(sys.argv[1]):
    sys.exit(0)
os.execv(sys.argv[2], sys.argv[2:])
"""
_TRY = f"mkdir -p {NAMES} && mount -t tmpfs none {NAMES} && ip netns add try && ip link add try type bridge"


class CannotRun(Exception):
    """This machine does not let us; what to do."""


def _unshare() -> list[str]:
    return ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]


def check() -> None:
    """CannotRun with the reason, in one line."""
    if sys.platform != "linux":
        raise CannotRun("hosts as network namespaces need Linux")
    if os.geteuid() != 0:
        raise CannotRun("hosts as network namespaces need root")
    for program, package in _NEEDED.items():
        if shutil.which(program) is None:
            raise CannotRun(f"{program} is missing: on Debian, apt-get install {package}")
    tried = subprocess.run([*_unshare(), "sh", "-c", _TRY], capture_output=True, text=True, timeout=_TRY_S)
    if tried.returncode != 0:
        raise CannotRun(f"no namespaces here: {tried.stderr.strip() or tried.returncode}")


def inside(module: str, arguments: Sequence[str]) -> int:
    """Run a module of ours in namespaces of its own, as this process; its exit code. CannotRun when there are none."""
    check()
    environment = {**os.environ, INSIDE: "1", "PYTHONUNBUFFERED": "1"}
    trampoline = [sys.executable, "-I", "-S", "-c", _TRAMPOLINE, str(os.getpid()), str(shutil.which("unshare"))]
    process = subprocess.Popen(
        [*trampoline, *_unshare()[1:], sys.executable, "-m", module, *arguments],
        cwd=ROOT, env=environment, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        return wait_for(process)
    except BaseException:
        process.send_signal(signal.SIGKILL)  # --kill-child: its child goes with it, and all that one has started
        process.wait()
        raise


def wait_for(process: subprocess.Popen[bytes]) -> int:
    """Its exit code. Ctrl-C is for it at first: it has some time to say what it has found."""
    try:
        return process.wait()
    except KeyboardInterrupt:
        for child in _children(process.pid):
            os.kill(child, signal.SIGINT)  # a terminal has told it, others tell us only; it heeds the first one alone
        try:
            return process.wait(_LAST_WORDS_S)
        except subprocess.TimeoutExpired:
            raise KeyboardInterrupt from None


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def settle() -> None:
    """Within: names of network namespaces are our own, and shared memory, which libfaketime names by process ids that
    others have too and leaves behind when it is killed; an order to end ends us in order."""
    NAMES.mkdir(parents=True, exist_ok=True)
    for place in (NAMES, Path("/dev/shm")):
        subprocess.run(["mount", "-t", "tmpfs", "none", str(place)], check=True)
    for ended_by in (
        signal.SIGTERM,
        signal.SIGHUP,
    ):  # the first process of its namespace is deaf to what it has no handler for
        signal.signal(ended_by, lambda number, _: sys.exit(128 + number))
