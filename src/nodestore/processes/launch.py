"""Run as a script between a parent and the program it starts, on POSIX; stands alone and imports only what it needs.

    launch.py die PARENT_PID PROGRAM ARG...    the program dies with the process PARENT_PID
    launch.py detach PROGRAM ARG...            the program is nobody's child; its pid is printed

A `preexec_fn` would do the same in the forked copy of a program with threads (gRPC's), where any lock may be held
for ever. Here it is a fresh process with one thread. Exit code 127, and a line on stderr, when the program cannot run.
"""

import os
import sys

_PR_SET_PDEATHSIG = 1
_SIGKILL = 9


def _die_with(parent: int) -> None:
    """The kernel kills this process when the *thread* that started it ends; the setting survives execve."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0) != 0:
        sys.exit(f"prctl(PR_SET_PDEATHSIG): {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:  # it died before prctl: no signal will ever come
        os._exit(0)


def _detach() -> None:
    """Goes on as a grandchild that leads its own session; the child in between prints its pid and ends."""
    pid = os.fork()
    if pid:
        os.write(1, b"%d\n" % pid)
        os._exit(0)
    os.setsid()
    os.dup2(2, 1)  # stdout was the pipe for the pid; stderr is the log


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
