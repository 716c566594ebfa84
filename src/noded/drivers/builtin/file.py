"""Driver `file`: keeps one file equal to the node's document and runs a reload command after each change.

The file is replaced atomically, and restored if another process removes or changes it. After each change by noded the
reload command is run until it succeeds once. The success is recorded on disk, so the command is also run if noded was
killed before it succeeded. If the node is removed or gets another driver, the file stays.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import Field, model_validator

from noded.drivers.contract import Actual, Context, DriverError, Settings, parse_settings
from noded.drivers.support import command, leftovers
from noded.drivers.support.command import Argv, Text
from noded.drivers.support.offloop import OffLoop
from noded.drivers.support.rendering import CannotRender, RenderFormat, render
from nodestore.schema.models import Spec
from nodestore.support import atomic_files, jsonio

T = TypeVar("T")

_READ_TIMEOUT_S = 5.0
_WRITE_TIMEOUT_S = 30.0
_OWN_DIRECTORY = ".noded"
_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EISDIR: "it is a directory",
}


Account = Annotated[Text, Field(min_length=1, max_length=100)] | Annotated[int, Field(ge=0, le=2**31)]


class ReloadSettings(Settings):
    """The command that is run after the file has changed."""

    argv: Argv = Field(description='command and arguments; "{python}" is the Python noded runs on')
    timeout_s: float = Field(
        default=30.0, gt=0, le=3_600, description="time limit; then the command and all processes it started are killed"
    )


class FileSettings(Settings):
    """The driver's settings in an inventory."""

    path: Annotated[Text, Field(min_length=1)] = Field(description="absolute, or relative to noded's work directory")
    format: RenderFormat | None = Field(
        default=None,
        description="json or yaml: the document; text: the template. Default: text with a template, else json",
    )
    template: str | None = Field(
        default=None,
        max_length=1 << 20,
        description="template; ${key} stands for that value of the document, $$ for a dollar sign",
    )
    mode: str | None = Field(
        default=None, pattern=r"^0?[0-7]{3}$", description="POSIX only: the file's mode in octal, quoted: '0640'"
    )
    owner: Account | None = Field(
        default=None, description="POSIX only: user name or id that owns the file. Default: as it is"
    )
    group: Account | None = Field(
        default=None, description="POSIX only: group name or id of the file. Default: as it is"
    )
    symlink: Literal["follow", "replace"] = Field(
        default="follow",
        description="if `path` is a symbolic link. follow: its target is the file; replace: the link is replaced",
    )
    reload: ReloadSettings | None = Field(default=None, description="run when the file has changed")

    @model_validator(mode="after")
    def _template_is_for_text(self) -> Self:
        if self.format == "text" and self.template is None:
            raise ValueError("format text needs a template")
        if self.format in ("json", "yaml") and self.template is not None:
            raise ValueError(f"a template goes with format text, not {self.format}")
        return self


@dataclass(frozen=True)
class _Target:
    """The desired file. mode, uid and gid None: any. path is the configured path, which may be a symbolic link."""

    path: Path
    content: bytes
    mode: int | None
    uid: int | None = None
    gid: int | None = None
    follows_link: bool = True

    @property
    def file(self) -> Path:
        """The file itself: the end of the links, if they are followed. It need not exist. Raises OSError."""
        if not (self.follows_link and self.path.is_symlink()):
            return self.path
        try:
            return self.path.resolve()
        except RuntimeError:  # of Python 3.11 and 3.12, for links that form a circle
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None


@dataclass(frozen=True)
class _FoundFile:
    """The actual file. content None: the path does not exist, or (`is_special`) it is not a regular file."""

    content: bytes | None
    mode: int = 0
    uid: int = 0
    gid: int = 0
    is_special: bool = False


class FileDriver:
    """The driver `file`. While a reload command runs, a newer desired state waits, for its `timeout_s` at most."""

    settle_s = 0.0
    settings_model = FileSettings

    def __init__(self, context: Context) -> None:
        self._context = context
        self._disk = OffLoop("the file system")
        self._target: _Target | None = None
        self._reloads = 0
        # content of the file `_reloaded_path`, kept in memory too: else every apply would reload while the disk is full
        self._reloaded = b""

    async def inspect(self) -> Actual:
        target = self._target
        if target is None:
            return Actual()
        found = await self._on_disk(lambda: _read_found(target.file), _READ_TIMEOUT_S, f"cannot read {target.path}")
        state: jsonio.Document = {"path": str(target.path), "present": found.content is not None}
        if found.content is not None:
            state |= {"bytes": len(found.content), "hash": _hash(found.content)}
        if self._reloads:
            state["reloads"] = self._reloads
        return Actual(state, _drift(found, target))

    async def apply(self, spec: Spec, previous: Spec | None) -> None:
        settings = parse_settings(FileSettings, spec.settings)
        target = _target(settings, spec, self._context.work_dir)
        await self._on_disk(lambda: self._write(target), _WRITE_TIMEOUT_S, f"cannot write {target.path}")
        self._target = target
        if settings.reload is not None:
            await self._reload(settings.reload, target)

    async def stop(self) -> None:
        await self._disk.wait_idle(_WRITE_TIMEOUT_S)
        await leftovers.end(self._context)
        self._target = None

    # --- the file ---

    def _write(self, target: _Target) -> None:
        file = target.file
        _check_not_reserved(file, self._context.work_dir, str(target.path))
        found = _read_found(file)
        if _drift(found, target) is None:
            return
        self._reloaded = b""
        # deleted before the write: if noded is killed between the two, the next noded runs the reload command again
        self._reloaded_path.unlink(missing_ok=True)
        if sys.platform == "win32":
            atomic_files.write_atomic(file, target.content)
            return
        kept_mode = found.mode if found.content is not None else None
        mode = kept_mode if target.mode is None else target.mode
        _write_with_owner(file, target, found, mode)

    async def _on_disk(self, call: Callable[[], T], timeout_s: float, failure: str) -> T:
        try:
            return await self._disk.run(call, timeout_s)
        except OSError as error:
            reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
            raise DriverError(f"{failure}: {reason}") from None

    # --- the reload ---

    @property
    def _reloaded_path(self) -> Path:
        """The file with the digest of the target for which the reload command last succeeded."""
        return self._context.work_dir / _OWN_DIRECTORY / "reloaded"

    async def _reload(self, reload: ReloadSettings, target: _Target) -> None:
        """Run the reload command unless it has already succeeded for this path, content and command."""
        reload_id = jsonio.digest([str(target.path), _hash(target.content), list(reload.argv)]).encode()
        before = await self._on_disk(
            lambda: atomic_files.read_bounded(self._reloaded_path), _READ_TIMEOUT_S, "cannot read"
        )
        if before == reload_id:
            return
        if self._reloaded != reload_id:
            try:
                await self._run_reload(reload, target)
            except DriverError as error:
                raise DriverError(f"{target.path} is written, but the reload command failed: {error.message}") from None
            self._reloaded = reload_id
            self._reloads += 1
        await self._on_disk(
            lambda: atomic_files.write_atomic(self._reloaded_path, reload_id),
            _WRITE_TIMEOUT_S,
            f"cannot write {self._reloaded_path}",
        )

    async def _run_reload(self, reload: ReloadSettings, target: _Target) -> None:
        await leftovers.end(self._context)  # an earlier noded may have been killed while its command ran
        try:
            finished = await command.run(
                reload.argv,
                cwd=command.make_directory(self._context, "."),
                env=command.environment(self._context, {"NODECTL_FILE": str(target.path)}),
                timeout_s=reload.timeout_s,
            )
        finally:
            with contextlib.suppress(DriverError):
                await leftovers.end(self._context)
        if finished.problem is not None:
            raise DriverError(finished.problem)


def _write_with_owner(file: Path, target: _Target, found: _FoundFile, mode: int | None) -> None:
    """Write the file with the owner and group of the settings, else with those that it has.

    Those that it has are kept if the system permits that: only root may give a file to another user.
    """
    found_ids = (found.uid, found.gid) if found.content is not None else (-1, -1)
    wanted = (-1 if target.uid is None else target.uid, -1 if target.gid is None else target.gid)
    both = tuple(kept if ours == -1 else ours for ours, kept in zip(wanted, found_ids, strict=True))
    try:
        atomic_files.write_atomic(file, target.content, mode, owner=(both[0], both[1]))
    except PermissionError:
        if both == wanted:
            raise
        atomic_files.write_atomic(file, target.content, mode, owner=wanted)


def _check_not_reserved(path: Path, work_dir: Path, shown: str) -> None:
    if os.path.normcase(work_dir / _OWN_DIRECTORY) in map(os.path.normcase, (path, *path.parents)):
        raise DriverError(f"driver setting path: {shown} is reserved for noded", retryable=False)


def _account_id(kind: str, account: str | int | None) -> int | None:
    """Return the id of a user (kind "owner") or group. Raises DriverError; retryable if it may be created later."""
    if account is None or isinstance(account, int):
        return account
    if sys.platform == "win32":
        return None
    import grp
    import pwd

    try:
        return pwd.getpwnam(account).pw_uid if kind == "owner" else grp.getgrnam(account).gr_gid
    except KeyError:
        raise DriverError(f"driver setting {kind}: there is no {account!r} on this PC") from None


def _target(settings: FileSettings, spec: Spec, work_dir: Path) -> _Target:
    """Return the desired file. Raises DriverError, mostly not retryable, if settings or document do not allow one."""
    path = Path(os.path.normpath(work_dir / settings.path))
    _check_not_reserved(path, work_dir, settings.path)
    for name in ("mode", "owner", "group"):
        if getattr(settings, name) is not None and sys.platform == "win32":
            raise DriverError(f"driver setting {name}: Windows has no file {name}s", retryable=False)
    form: RenderFormat = settings.format or ("json" if settings.template is None else "text")
    try:
        content = render(spec.document, form, settings.template or "", atomic_files.FILE_BYTES_MAX)
    except CannotRender as error:
        raise DriverError(f"cannot make {path.name}: {error}", retryable=False) from None
    return _Target(
        path,
        content,
        None if settings.mode is None else int(settings.mode, 8),
        _account_id("owner", settings.owner),
        _account_id("group", settings.group),
        settings.symlink == "follow",
    )


def _read_found(path: Path) -> _FoundFile:
    """Read the file at `path`. Raises OSError. Opens regular files only, because opening a pipe would block."""
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            return _FoundFile(None, is_special=True)
        with path.open("rb") as file:
            content = file.read(atomic_files.FILE_BYTES_MAX + 1)
        return _FoundFile(content, stat.S_IMODE(status.st_mode) & 0o777, status.st_uid, status.st_gid)
    except (FileNotFoundError, NotADirectoryError):
        return _FoundFile(None)


def _drift(found: _FoundFile, target: _Target) -> str | None:
    if found.is_special:
        return f"{target.path} is not a regular file"
    if found.content is None:
        return f"{target.path} is missing"
    if found.content != target.content:
        return f"{target.path} was altered"
    if target.mode is not None and found.mode != target.mode:
        return f"the mode of {target.path} is {found.mode:04o}, not {target.mode:04o}"
    for kind, actual, wanted in (("owner", found.uid, target.uid), ("group", found.gid, target.gid)):
        if wanted is not None and actual != wanted:
            return f"the {kind} of {target.path} is {actual}, not {wanted}"
    return None


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
