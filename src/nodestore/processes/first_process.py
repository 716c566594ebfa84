"""What process 1 of a container must do, apart from its own work: reap the processes whose parent has ended.

The kernel makes process 1 the parent of every orphan. One that no process waits for stays a zombie. So process 1 starts
a fork that does the work, passes signals on to it, waits for every child, and ends with the exit code of the fork.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

_SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")


def run_reaping_orphans(work: Callable[[], int]) -> int:
    """Run `work` and return its exit code. If this process is process 1, run it in a fork and reap all children.

    Call it while this process has one thread only.
    """
    if sys.platform == "win32" or os.getpid() != 1:
        return work()
    return run_in_fork(work)


def run_in_fork(work: Callable[[], int]) -> int:
    """Run `work` in a fork, pass signals on to it, and reap every child until the fork has ended.

    Returns the exit code of the fork, or 128 + N if signal N ended it.
    """
    if sys.platform == "win32":
        raise NotImplementedError("Windows has no orphans to reap")
    blocked = {getattr(signal, name) for name in _SIGNALS}
    signal.pthread_sigmask(signal.SIG_BLOCK, blocked)  # until the handlers are there, or the fork has its own
    worker = os.fork()
    if worker == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
        return work()

    def pass_on(number: int, _frame: FrameType | None) -> None:
        os.kill(worker, number)

    for number in blocked:
        signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
    while True:
        pid, status = os.wait()
        if pid == worker:
            return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
