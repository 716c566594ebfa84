"""A script that runs between a parent and the program that it starts, on POSIX. It imports nothing of this project.

    launch.py die FD PARENT_PID PROGRAM ARG...    the program is killed when the process PARENT_PID dies
    launch.py detach FD PROGRAM ARG...            the program is not a child of the caller; its pid is printed

The open file FD holds the program's environment: NAME=VALUE, each ended by a zero byte. It is not the environment of
this script, because a variable such as LD_LIBRARY_PATH could break the Python that runs it.

A `preexec_fn` would run in a forked copy of a program with threads (gRPC's), where a lock may stay held forever. This
script is a fresh process with one thread. If the program cannot run: exit code 127, and a line on stderr.
"""

import os
import signal
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


def _read_environment(descriptor: int) -> dict[bytes, bytes]:
    with os.fdopen(descriptor, "rb") as file:
        pairs = (item.partition(b"=") for item in file.read().split(b"\0") if item)
        return {name: value for name, _, value in pairs}


def _reset_signals() -> None:
    """Give the program the default action of every signal, and no blocked ones.

    Ignored signals survive execve: Python ignores SIGPIPE and SIGXFSZ, `nohup` SIGHUP, and a program that inherits that
    may never end, such as one that writes to a closed pipe.
    """
    for number in signal.valid_signals():
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def main(arguments: list[str]) -> None:
    mode, descriptor, *program = arguments
    environment = _read_environment(int(descriptor))
    if mode == "die":
        _die_with(int(program.pop(0)))
    else:
        _detach()
    _reset_signals()
    try:
        os.execve(program[0], program, environment)
    except OSError as error:
        os.write(2, f"cannot run {program[0]}: {error.strerror}\n".encode())
        os._exit(127)


if __name__ == "__main__":
    main(sys.argv[1:])
