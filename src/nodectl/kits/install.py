"""Copies an unpacked kit to its place on a PC: a folder for each release, and the link `current`.

A release is complete once its folder has its name: it is copied under another name, compiled and renamed. An
interruption leaves a folder `.new-<release>`, which the next run replaces. `current` is for people. Services start the
Python of a release by its own path, so that nothing changes below a program that runs.
"""

from __future__ import annotations

import compileall
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nodectl.kits.archive import files_of
from nodectl.kits.manifest import SUMS
from nodectl.kits.pieces.launchers import PROGRAMS
from nodectl.kits.platforms import Platform, platform_named
from nodectl.kits.verify import verify
from nodestore.errors import Conflict, Denied, Invalid, NodectlError
from nodestore.support.atomic_files import write_atomic

CURRENT = "current"
_COMMANDS = Path("/usr/local/bin")
_MARK = "# made by nodectl kit install\n"


@dataclass(frozen=True, slots=True)
class Installed:
    """A kit in its place."""

    folder: Path
    platform: Platform
    is_new: bool

    @property
    def python(self) -> Path:
        return self.folder / self.platform.python_program

    @property
    def etcd(self) -> Path | None:
        """etcd's server; None if the kit has none."""
        program = self.folder / "etcd" / f"etcd{self.platform.exe}"
        return program if program.is_file() else None


def default_base() -> Path:
    """Where kits are installed on this system."""
    if sys.platform == "win32":
        return Path(os.environ.get("PROGRAMFILES", r"C:\Program Files")) / "nodectl"
    return Path("/opt/nodectl")


def is_installed(kit: Path) -> bool:
    """Whether this folder is one that `install` made, in the usual place or another one."""
    return (kit.parent / CURRENT).resolve().parent == kit.parent.resolve() and os.path.lexists(kit.parent / CURRENT)


def install(kit: Path, base: Path, progress: Callable[[str], None]) -> Installed:
    """Copy the unpacked kit to `base`/<release>, and let `current` name it. Does nothing twice.

    Raises Invalid if the kit is damaged or for another platform, Conflict if another build has the same name there,
    Denied if this user may not write there.
    """
    manifest = verify(kit).manifest
    platform = platform_named(manifest.platform)
    _check_platform(platform)
    target = base / manifest.release
    try:
        is_new = _copy_once(kit, target, platform, progress)
        _set_current(base, target)
        if base == default_base() and sys.platform != "win32":
            _write_commands(base)
    except PermissionError as error:
        rights = "in a console with administrator's rights" if sys.platform == "win32" else "with sudo"
        raise Denied(f"{error.filename or base} cannot be written: run this {rights}") from None
    except OSError as error:
        raise NodectlError(f"{error.filename or base} cannot be written: {error.strerror or error}") from None
    return Installed(target, platform, is_new)


def _check_platform(platform: Platform) -> None:
    is_windows = sys.platform == "win32"
    if platform.is_windows != is_windows:
        raise Invalid(f"this kit is for {platform.name}, and this PC runs {'Windows' if is_windows else 'Linux'}")


def _copy_once(kit: Path, target: Path, platform: Platform, progress: Callable[[str], None]) -> bool:
    """Returns False if the release was there already."""
    if target.is_dir():
        if kit.resolve() != target.resolve() and (kit / SUMS).read_bytes() != (target / SUMS).read_bytes():
            raise Conflict(f"{target} has another build with the same name: remove it first, if no service uses it")
        return False
    new = target.with_name(f".new-{target.name}")
    shutil.rmtree(new, ignore_errors=True)
    progress(f"copying to {target}")
    for name in files_of(kit):
        if "__pycache__" not in name.split("/"):
            _copy_file(kit / name, new / name)
    progress("compiling Python's modules")
    site_packages = new / platform.site_packages
    for folder in {site_packages, site_packages.parent} if not platform.is_windows else {site_packages}:
        # Modules that are examples or for another version of Python do not compile, and nothing imports them.
        compileall.compile_dir(folder, maxlevels=12, quiet=2, stripdir=str(new), prependdir=str(target))
    new.rename(target)
    return True


def _copy_file(source: Path, target: Path) -> None:
    """Copy with its time, and with rights that do not depend on this user's umask."""
    for folder in (*reversed(target.parent.parents), target.parent):
        if not folder.exists():
            folder.mkdir()
            folder.chmod(0o755)
    shutil.copy2(source, target)
    target.chmod(0o755 if source.stat().st_mode & 0o100 else 0o644)


def _set_current(base: Path, target: Path) -> None:
    current = base / CURRENT
    if current.resolve() == target.resolve():
        return
    if sys.platform == "win32":
        import _winapi

        if os.path.lexists(current):
            current.rmdir()  # removes the junction, not what it names
        _winapi.CreateJunction(str(target), str(current))
    else:
        new = base / f".{CURRENT}.new"
        new.unlink(missing_ok=True)
        new.symlink_to(target.name)
        new.replace(current)


def _write_commands(base: Path) -> None:
    """Let the shell find the programs. A file of another origin is left as it is."""
    for program in PROGRAMS:
        command = _COMMANDS / program
        text = f'#!/bin/sh\n{_MARK}exec {base / CURRENT / program} "$@"\n'
        if not os.path.lexists(command) or (command.is_file() and _MARK in command.read_text("utf-8", "replace")):
            write_atomic(command, text.encode())
            command.chmod(0o755)
