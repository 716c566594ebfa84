"""The network, mount and process namespaces of a run, which guarantee that nothing of it remains.

When the first process of a process namespace ends, the kernel kills all others in it, and removes the network
namespaces, tmpfs and mounts that only they used. So no cleanup is needed, and nothing else on the machine is affected.
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
"""Exit code: this machine cannot run it; the reason is printed."""
INSIDE = "NODECTL_FAULTS_INSIDE"
ROOT = Path(__file__).parents[4]
NAMES = Path("/run/netns")
_NEEDED = {"unshare": "util-linux", "nsenter": "util-linux", "ip": "iproute2", "iptables": "iptables"}
_TRY_S = 20.0
_LAST_WORDS_S = 180.0
# Die with the parent, however that ends; it may have ended already. The setting survives exec.
_TRAMPOLINE = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() != int(sys.argv[1]):
    sys.exit(0)
os.execv(sys.argv[2], sys.argv[2:])
"""
_TRY = f"mkdir -p {NAMES} && mount -t tmpfs none {NAMES} && ip netns add try && ip link add try type bridge"


class CannotRun(Exception):
    """This machine cannot run it. The message says what to do."""


def _unshare() -> list[str]:
    return ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]


def check() -> None:
    """Raise CannotRun, with the reason in one line, if this machine cannot run hosts as namespaces."""
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
    """Run a module in namespaces of its own; return its exit code. Raises CannotRun."""
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
        process.send_signal(signal.SIGKILL)  # --kill-child: its child dies with it, and so all processes of the run
        process.wait()
        raise


def wait_for(process: subprocess.Popen[bytes]) -> int:
    """Wait for the process; return its exit code. The first Ctrl-C is passed on, so that the run can still judge."""
    try:
        return process.wait()
    except KeyboardInterrupt:
        for child in _children(process.pid):
            os.kill(child, signal.SIGINT)  # a terminal has signalled it already; it handles only the first signal
        try:
            return process.wait(_LAST_WORDS_S)
        except subprocess.TimeoutExpired:
            raise KeyboardInterrupt from None


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def settle() -> None:
    """Prepare the namespaces, inside: private network namespace names and shared memory, and handlers for signals.

    libfaketime names shared memory by pids, which are not unique across process namespaces, and leaves it behind.
    """
    NAMES.mkdir(parents=True, exist_ok=True)
    for place in (NAMES, Path("/dev/shm")):  # noqa: S108 - root, in a namespace of its own
        subprocess.run(["mount", "-t", "tmpfs", "none", str(place)], check=True)
    for ended_by in (
        signal.SIGTERM,
        signal.SIGHUP,
    ):  # the first process of a namespace ignores signals without a handler
        signal.signal(ended_by, lambda number, _: sys.exit(128 + number))
