"""Services by systemd. Each call of systemctl has a deadline, and each error is one line.

The unit file is the only record. Whoever dies between two steps leaves a state that the next `install` completes: it
compares the file with the definition, and asks systemd whether it has read the file and starts the service at boot.
Drop-ins (`NAME.service.d`) belong to the administrator: they are never written, and stay when a service is removed.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import shutil
import stat
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

from nodestore.errors import Invalid, NodectlError, TimedOut
from nodestore.processes import child_processes
from nodestore.processes.child_processes import Completed
from nodestore.services.manager import ServiceDefinition, ServiceState, ServiceStatus
from nodestore.services.systemd_unit import OLDEST_SYSTEMD, STATE_ROOT, unit_text
from nodestore.support.atomic_files import write_atomic

Run = Callable[[Sequence[str], float], Completed]

_UNITS = Path("/etc/systemd/system")
_HEADER = "Written by nodectl: it replaces changes. Add a drop-in instead: systemctl edit {name}"
_NAME = re.compile(r"[a-z][a-z0-9-]{0,60}")
_CALL_S = 30.0
_BEGIN_S = 60.0
_END_S = 330.0
"""systemd kills a service after its TimeoutStopSec, so a stop that takes longer hangs in the kernel."""
_POLL_S = 0.05
_UNIT_MODE, _PRIVATE_DIRECTORY, _PRIVATE_FILE = 0o644, 0o700, 0o600
_SHOWN = ("LoadState", "ActiveState", "SubState", "MainPID", "InvocationID", "Job", "Result", "ExecMainStatus",
          "UnitFileState", "NeedDaemonReload")  # fmt: skip
_STATES: dict[str, ServiceState] = {
    "active": "running", "reloading": "running", "activating": "starting", "deactivating": "stopping",
    "failed": "failed",
}  # fmt: skip


def run_program(argv: Sequence[str], timeout_s: float) -> Completed:
    """Run a program to its end, in English and without a pager."""
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "SYSTEMD_PAGER": "", "SYSTEMD_COLORS": "0"}
    return child_processes.run(argv, timeout_s=timeout_s, env=environment)


class SystemdServices:
    """A `ServiceManager` whose services are units of systemd. Needs root.

    units: the directory of the unit files. run: runs a program with a time limit in seconds.
    """

    def __init__(self, units: Path = _UNITS, run: Run = run_program) -> None:
        self._units, self._run = units, run
        self._version: int | None = None

    async def install(self, definition: ServiceDefinition) -> bool:
        path = self._path(definition.name)
        if path.is_symlink():
            raise Invalid(f"{path} is a link, so the administrator has masked or replaced the service: remove the link")
        header = _HEADER.format(name=definition.name)
        text = unit_text(definition, header=header, systemd_version=await self._systemd_version())
        await self._prepare(definition)
        changed = await asyncio.to_thread(_write, path, text.encode())
        shown = await self._show(definition.name)
        if changed or shown["NeedDaemonReload"] == "yes" or shown["LoadState"] == "not-found":
            await self._systemctl("daemon-reload")
        if shown["UnitFileState"] != "enabled":
            await self._systemctl("enable", definition.name)
            changed = True
        return changed

    async def start(self, name: str) -> None:
        shown = await self._show(name)
        if shown["ActiveState"] in ("active", "reloading") or _is_starting(shown):
            return
        await self._begin("start", name, shown)

    async def stop(self, name: str) -> None:
        if (await self._show(name))["LoadState"] == "not-found":
            return
        await self._systemctl("stop", "--no-block", name)
        deadline = time.monotonic() + _END_S
        while (shown := await self._show(name))["ActiveState"] not in ("inactive", "failed") or shown[
            "Job"
        ] not in _NONE:
            _check_time(deadline, f"{name} does not stop: it is {shown['ActiveState']} ({shown['SubState']})")
            await asyncio.sleep(_POLL_S)

    async def restart(self, name: str) -> None:
        await self._begin("restart", name, await self._show(name))

    async def status(self, name: str) -> ServiceStatus:
        shown = await self._show(name)
        if shown["LoadState"] == "not-found":
            return ServiceStatus("absent")
        state = _STATES.get(shown["ActiveState"], "stopped")
        if shown["SubState"] == "auto-restart":
            state = "failed"
        detail = _failure(name, shown) if state == "failed" else ""
        return ServiceStatus(state, int(shown["MainPID"] or 0) or None, detail)

    async def remove(self, name: str) -> None:
        path = self._path(name)
        await self.stop(name)
        if path.exists():
            await self._systemctl("disable", name)
            await asyncio.to_thread(path.unlink, missing_ok=True)
        await self._systemctl("daemon-reload")

    # --- systemd ---

    async def _begin(self, verb: str, name: str, before: dict[str, str]) -> None:
        """Start or restart, and return once another process than before runs or has run.

        A service that starts itself anew is ended by this call, so systemd must do it all by itself: --no-block. Also
        a program that never becomes ready must not hold the caller.
        """
        if before["LoadState"] == "not-found":
            raise Invalid(f"there is no service {name}")
        await self._systemctl(verb, "--no-block", name)
        deadline = time.monotonic() + _BEGIN_S + (_END_S if before["ActiveState"] != "inactive" else 0.0)
        while not _has_begun(shown := await self._show(name), before):
            _check_time(deadline, f"{name} does not start: it is {shown['ActiveState']} ({shown['SubState']})")
            await asyncio.sleep(_POLL_S)

    async def _show(self, name: str) -> dict[str, str]:
        output = await self._systemctl("show", f"--property={','.join(_SHOWN)}", "--", f"{_checked(name)}.service")
        pairs = (line.partition("=") for line in output.splitlines())
        return dict.fromkeys(_SHOWN, "") | {key: value for key, _, value in pairs}

    async def _systemctl(self, verb: str, *arguments: str) -> str:
        done = await self._called("systemctl", verb, "--no-ask-password", *arguments)
        return done.stdout

    async def _systemd_version(self) -> int:
        """The version of this PC's systemd, such as 252."""
        if self._version is None:
            found = re.match(r"systemd (\d+)", (await self._called("systemctl", "--version")).stdout)
            self._version = int(found[1]) if found is not None else OLDEST_SYSTEMD
        return self._version

    async def _called(self, *argv: str) -> Completed:
        done = await asyncio.to_thread(self._run, argv, _CALL_S)
        if done.returncode != 0:
            said = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()
            raise NodectlError(f"{' '.join(word for word in argv if not word.startswith('-'))}: {said[0]}")
        return done

    def _path(self, name: str) -> Path:
        return self._units / f"{_checked(name)}.service"

    # --- users and files ---

    async def _prepare(self, definition: ServiceDefinition) -> None:
        """Make the service's user and directories, and give it the files that only it may read."""
        user = definition.user
        if user is not None and not _has_user(user):
            home = next((str(item.path) for item in definition.directories if item.writable), "/nonexistent")
            try:
                await self._called("useradd", "--system", "--user-group", "--no-create-home", "--home-dir", home,
                                   "--shell", "/usr/sbin/nologin", user)  # fmt: skip
            except NodectlError:
                if not _has_user(user):  # another process may have been faster
                    raise
        await asyncio.to_thread(_own_files, definition)


_NONE = ("", "0")


def _is_starting(shown: dict[str, str]) -> bool:
    """Whether its process runs and has not reported yet that it is ready."""
    return (
        shown["ActiveState"] == "activating" and shown["SubState"] != "auto-restart" and shown["MainPID"] not in _NONE
    )


def _has_begun(shown: dict[str, str], before: dict[str, str]) -> bool:
    is_new = shown["InvocationID"] != before["InvocationID"] and shown["InvocationID"] != ""
    return is_new and (shown["Job"] in _NONE or _is_starting(shown))


def _failure(name: str, shown: dict[str, str]) -> str:
    """Why it failed. `Result` is systemd's word for it, such as exit-code, signal or watchdog."""
    code = f" {shown['ExecMainStatus']}" if shown["Result"] in ("exit-code", "signal") else ""
    return f"it ended ({shown['Result']}{code}): see journalctl -u {name}"


def _check_time(deadline: float, problem: str) -> None:
    if time.monotonic() > deadline:
        raise TimedOut(problem)


def _checked(name: str) -> str:
    if _NAME.fullmatch(name) is None:
        raise Invalid(f"{name!r} is not a name of a service: small letters, digits and - only")
    return name


def _has_user(user: str) -> bool:
    if sys.platform == "win32":
        return False
    import pwd

    with suppress(KeyError):
        return pwd.getpwnam(user) is not None
    return False


def _write(path: Path, content: bytes) -> bool:
    """Replace the file, unless it has this content already; return whether it was replaced."""
    try:
        with suppress(FileNotFoundError):
            if path.read_bytes() == content:
                return False
        write_atomic(path, content, _UNIT_MODE)
    except OSError as error:
        raise NodectlError(f"cannot write {path}: {error.strerror or error}") from None
    return True


def _own_files(definition: ServiceDefinition) -> None:
    """Make the directories that systemd does not make, and give the user what only it may read."""
    user = definition.user or "root"
    try:
        for directory in definition.directories:
            if not PurePosixPath(directory.path.as_posix()).is_relative_to(STATE_ROOT):
                Path(directory.path).mkdir(parents=True, exist_ok=True)
                if directory.writable:
                    shutil.chown(directory.path, user)
        for private in definition.readable:
            _give_to(user, Path(private))
    except (OSError, LookupError) as error:
        raise NodectlError(f"cannot prepare the files of {definition.name}: {error}") from None


def _give_to(user: str, top: Path) -> None:
    """Make a file, or a directory with what is in it, readable for this user only. Raises OSError, or KeyError.

    The directory may belong to the user already, who may put links into it at any moment: none is followed, and what
    has a second name is left as it is. Otherwise a program that was taken over could make root give it any file.
    """
    if sys.platform == "win32":
        return
    import pwd

    entry = pwd.getpwnam(user)

    def give(descriptor: int) -> None:
        status = os.fstat(descriptor)
        is_directory = stat.S_ISDIR(status.st_mode)
        if not is_directory and not (stat.S_ISREG(status.st_mode) and status.st_nlink == 1):
            return
        mode = _PRIVATE_DIRECTORY if is_directory else _PRIVATE_FILE
        if (status.st_uid, status.st_gid) != (entry.pw_uid, entry.pw_gid):
            os.fchown(descriptor, entry.pw_uid, entry.pw_gid)
        if stat.S_IMODE(status.st_mode) != mode:
            os.fchmod(descriptor, mode)

    def give_file(path: str | Path, directory: int | None = None) -> None:
        with suppress(FileNotFoundError):
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.ENXIO):  # a link, or a socket
                    return
                raise
            try:
                give(descriptor)
            finally:
                os.close(descriptor)

    if not top.is_dir():
        give_file(top)
        return
    for _, _, files, directory in os.fwalk(top):
        give(directory)
        for name in files:
            give_file(name, directory)
