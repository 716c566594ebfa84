"""A script that runs between a parent and the program that it starts, on POSIX. It imports nothing of this project.

    launch.py die PARENT_PID PROGRAM ARG...    the program is killed when the process PARENT_PID dies
    launch.py detach PROGRAM ARG...            the program is not a child of the caller; its pid is printed

A `preexec_fn` would run in a forked copy of a program with threads (gRPC's), where a lock may stay held forever. This
script is a fresh process with one thread. If the program cannot run: exit code 127, and a line on stderr.
"""

import os
import sys

_PR_SET_PDEATHSIG = 1
_SIGKILL = 9


def _die_with(parent: int) -> None:
    """Make the kernel kill this process when the *thread* that started it ends. The setting survives execve."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0) != 0:
        sys.exit(f"prctl(PR_SET_PDEATHSIG): {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:  # the parent died before prctl, so no signal will be sent
        os._exit(0)


def _detach() -> None:
    """Continue in a fork that leads its own session. The original process prints the pid of the fork and ends."""
    pid = os.fork()
    if pid:
        os.write(1, b"%d\n" % pid)
        os._exit(0)
    os.setsid()
    os.dup2(2, 1)  # stdout was the pipe for the pid, stderr is the log


def main(arguments: list[str]) -> None:
    if arguments[0] == "die":
        _die_with(int(arguments[1]))
        program = arguments[2:]
    else:
        _detach()
        program = arguments[1:]
    try:
        os.execvp(program[0], program)
    except OSError as error:
        os.write(2, f"cannot run {program[0]}: {error.strerror}\n".encode())
        os._exit(127)


if __name__ == "__main__":
    main(sys.argv[1:])
