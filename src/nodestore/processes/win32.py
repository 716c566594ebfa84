"""Windows part of nodestore.processes.child_processes: job objects and console control events."""

from __future__ import annotations

import contextlib
import ctypes
import subprocess
import sys
from collections.abc import Mapping, Sequence
from ctypes import wintypes
from pathlib import Path
from typing import Any

import psutil

assert sys.platform == "win32"  # mypy checks the rest on Windows only

_CREATE_SUSPENDED = 0x00000004
_CREATE_BREAKAWAY_FROM_JOB = 0x01000000
_PROCESS_TERMINATE, _PROCESS_SET_QUOTA, _PROCESS_SUSPEND_RESUME = 0x0001, 0x0100, 0x0800
_JOB_KILL_ON_CLOSE = 0x00002000
_JOB_EXTENDED_LIMITS = 9
_SIGNAL_TIMEOUT_S = 10.0
_ROUNDS_MAX = 20

_kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
_ntdll = ctypes.WinDLL("ntdll")
_kernel32.CreateJobObjectW.restype = wintypes.HANDLE
_kernel32.CreateJobObjectW.argtypes = [ctypes.c_void_p, wintypes.LPCWSTR]
_kernel32.SetInformationJobObject.argtypes = [wintypes.HANDLE, ctypes.c_int, ctypes.c_void_p, wintypes.DWORD]
_kernel32.AssignProcessToJobObject.argtypes = [wintypes.HANDLE, wintypes.HANDLE]
_kernel32.TerminateJobObject.argtypes = [wintypes.HANDLE, wintypes.UINT]
_kernel32.OpenProcess.restype = wintypes.HANDLE
_kernel32.OpenProcess.argtypes = [wintypes.DWORD, wintypes.BOOL, wintypes.DWORD]
_kernel32.CloseHandle.argtypes = [wintypes.HANDLE]
_kernel32.GetConsoleProcessList.argtypes = [ctypes.POINTER(wintypes.DWORD), wintypes.DWORD]
_kernel32.GenerateConsoleCtrlEvent.argtypes = [wintypes.DWORD, wintypes.DWORD]
_kernel32.AttachConsole.argtypes = [wintypes.DWORD]
_kernel32.SetConsoleCtrlHandler.argtypes = [ctypes.c_void_p, wintypes.BOOL]
_ntdll.NtResumeProcess.argtypes = [wintypes.HANDLE]


class _BasicLimits(ctypes.Structure):
    """JOBOBJECT_BASIC_LIMIT_INFORMATION"""

    _fields_ = [
        ("PerProcessUserTimeLimit", wintypes.LARGE_INTEGER),
        ("PerJobUserTimeLimit", wintypes.LARGE_INTEGER),
        ("LimitFlags", wintypes.DWORD),
        ("MinimumWorkingSetSize", ctypes.c_size_t),
        ("MaximumWorkingSetSize", ctypes.c_size_t),
        ("ActiveProcessLimit", wintypes.DWORD),
        ("Affinity", ctypes.c_size_t),
        ("PriorityClass", wintypes.DWORD),
        ("SchedulingClass", wintypes.DWORD),
    ]


class _ExtendedLimits(ctypes.Structure):
    """JOBOBJECT_EXTENDED_LIMIT_INFORMATION"""

    _fields_ = [
        ("BasicLimitInformation", _BasicLimits),
        ("IoInfo", ctypes.c_ulonglong * 6),
        ("ProcessMemoryLimit", ctypes.c_size_t),
        ("JobMemoryLimit", ctypes.c_size_t),
        ("PeakProcessMemoryUsed", ctypes.c_size_t),
        ("PeakJobMemoryUsed", ctypes.c_size_t),
    ]


class Job:
    """A job object around the suspended process `pid`.

    die_with_parent: Windows kills the job when its last handle is closed. Only this process has one.
    """

    def __init__(self, pid: int, *, die_with_parent: bool) -> None:
        self._job: int | None = _check_result(_kernel32.CreateJobObjectW(None, None))
        if die_with_parent:
            limits = _ExtendedLimits()
            limits.BasicLimitInformation.LimitFlags = _JOB_KILL_ON_CLOSE
            _check_result(
                _kernel32.SetInformationJobObject(
                    self._job, _JOB_EXTENDED_LIMITS, ctypes.byref(limits), ctypes.sizeof(limits)
                )
            )
        with _open_process(pid, _PROCESS_TERMINATE | _PROCESS_SET_QUOTA) as process:
            _check_result(_kernel32.AssignProcessToJobObject(self._job, process))

    def kill(self) -> None:
        """Kill every process of the job, grandchildren included."""
        if self._job is not None:
            _kernel32.TerminateJobObject(self._job, 1)

    def __del__(self) -> None:
        job, self._job = getattr(self, "_job", None), None
        if job is not None:
            _kernel32.CloseHandle(job)


def _check_result(result: Any) -> Any:
    if not result:
        raise ctypes.WinError(ctypes.get_last_error())
    return result


@contextlib.contextmanager
def _open_process(pid: int, access: int) -> Any:
    handle = _check_result(_kernel32.OpenProcess(access, False, pid))
    try:
        yield handle
    finally:
        _kernel32.CloseHandle(handle)


def start_options() -> dict[str, Any]:
    """Arguments for subprocess that start a child suspended, until `resume_started`.

    So the child cannot start a grandchild before it is part of the job.
    """
    return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | _CREATE_SUSPENDED}


def resume_started(pid: int) -> None:
    with _open_process(pid, _PROCESS_SUSPEND_RESUME) as process:
        _ntdll.NtResumeProcess(process)


@contextlib.contextmanager
def launcher(argv: Sequence[str], env: Mapping[str, str] | None, *, die_with_parent: bool) -> Any:
    yield list(argv), env, {}  # the job object implements die_with_parent


def start_detached(argv: Sequence[str], *, cwd: Path | None, env: Mapping[str, str] | None, log: Any) -> int:
    """Start `argv` with an invisible console of its own, outside this process's job if permitted; return its pid."""
    flags = subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW
    try:
        return _popen(argv, cwd, env, log, flags | _CREATE_BREAKAWAY_FROM_JOB)
    except PermissionError:  # this process's job does not permit breakaway
        return _popen(argv, cwd, env, log, flags)


def _popen(argv: Sequence[str], cwd: Path | None, env: Mapping[str, str] | None, log: Any, flags: int) -> int:
    process = subprocess.Popen(
        list(argv), cwd=cwd, env=None if env is None else dict(env),
        stdin=subprocess.DEVNULL, stdout=log, stderr=log, creationflags=flags,
    )  # fmt: skip
    process.returncode = 0  # suppresses the ResourceWarning about a running child
    return process.pid


def creation_time(pid: int) -> float | None:
    """When process `pid` began: seconds since the Unix epoch, fixed at its creation. None if it has ended."""
    try:
        process = psutil.Process(pid)
        return process.create_time() if process.is_running() else None
    except psutil.Error:
        return None


def handles_signal(pid: int, number: int) -> bool | None:
    return None  # there are no such signals


def terminate(pid: int) -> None:
    """Send CTRL_BREAK to the process group `pid`. If it has another console, a helper process sends it."""
    if pid in _console_processes():
        _kernel32.GenerateConsoleCtrlEvent(1, pid)
        return
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(
            [sys.executable, "-m", __name__, str(pid)],
            stdin=subprocess.DEVNULL, creationflags=subprocess.CREATE_NO_WINDOW, timeout=_SIGNAL_TIMEOUT_S, check=False,
        )  # fmt: skip


def _console_processes() -> list[int]:
    pids = (wintypes.DWORD * 4096)()
    return list(pids[: _kernel32.GetConsoleProcessList(pids, len(pids))])


def _break_from_inside(pid: int) -> int:
    """In the helper process: leave its console, attach to that of `pid`, send CTRL_BREAK to the group of `pid`."""
    _kernel32.FreeConsole()
    if not _kernel32.AttachConsole(pid):
        return 1
    _kernel32.SetConsoleCtrlHandler(None, True)
    return 0 if _kernel32.GenerateConsoleCtrlEvent(1, pid) else 1


def kill_tree(pid: int) -> None:
    """Kill `pid` and its descendants, until a scan finds no further process."""
    killed: set[int] = set()
    for _ in range(_ROUNDS_MAX):
        new = _tree(pid) - killed
        if not new:
            return
        for member in new:
            with contextlib.suppress(psutil.Error):
                psutil.Process(member).kill()
        killed |= new


def _tree(root: int) -> set[int]:
    try:
        process = psutil.Process(root)
        return {root} | {child.pid for child in process.children(recursive=True)}
    except psutil.Error:
        return set()


if __name__ == "__main__":
    sys.exit(_break_from_inside(int(sys.argv[1])))
