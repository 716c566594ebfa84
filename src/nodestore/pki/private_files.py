"""Files that only their owner may read: on POSIX by their mode, on Windows by their access list."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from nodestore.errors import NodectlError
from nodestore.processes import child_processes
from nodestore.support.atomic_files import replace_file, write_atomic

PRIVATE_MODE, PUBLIC_MODE, _DIRECTORY_MODE = 0o600, 0o644, 0o700
_SYSTEM, _ADMINISTRATORS = "*S-1-5-18", "*S-1-5-32-544"
_ICACLS_TIMEOUT_S = 30.0


def make_private_directory(path: Path) -> None:
    """Make a directory that only its owner can enter. One that exists is left as it is. NodectlError if it fails."""
    try:
        make_owner_only(path)
    except OSError as error:
        raise NodectlError(f"cannot make the directory {path}: {error.strerror or error}") from None


def make_owner_only(path: Path) -> None:
    """Make a directory as `make_private_directory` does. Raises OSError, or on Windows NodectlError."""
    if path.is_dir():
        return
    path.mkdir(parents=True, mode=_DIRECTORY_MODE, exist_ok=True)
    if sys.platform != "win32":
        path.chmod(_DIRECTORY_MODE)  # an unusual umask may have removed rights of the owner
    _restrict_on_windows(path)


def write_private(path: Path, content: bytes) -> None:
    """Write a file atomically that only its owner can read. NodectlError if it fails."""
    _write(path, content, PRIVATE_MODE)


def write_public(path: Path, content: bytes) -> None:
    """Write a file atomically that everybody who can enter its directory can read. NodectlError if it fails."""
    _write(path, content, PUBLIC_MODE)


def replace_private(source: Path, target: Path) -> None:
    """Replace a file by another one of the same directory atomically. NodectlError if it fails."""
    try:
        replace_file(source, target)
    except OSError as error:
        raise NodectlError(f"{target} cannot be written: {error.strerror or error}") from None


def _write(path: Path, content: bytes, mode: int) -> None:
    # On Windows a file inherits the access list of its directory, which is made before any file in it.
    try:
        write_atomic(path, content, mode)
    except OSError as error:
        raise NodectlError(f"{path} cannot be written: {error.strerror or error}") from None


def is_exposed(path: Path) -> bool:
    """Whether others than the owner can read the file, as far as its mode shows. Windows has no such modes."""
    if sys.platform == "win32":
        return False
    try:
        return bool(os.stat(path).st_mode & 0o077)
    except OSError:
        return False


def _restrict_on_windows(directory: Path) -> None:
    """Grant the directory to the system, the administrators and this user alone. What is made in it inherits that."""
    if sys.platform != "win32":
        return
    holders = [_SYSTEM, _ADMINISTRATORS]
    if name := os.environ.get("USERNAME"):  # a service may have none
        holders.append(f"{os.environ.get('USERDOMAIN', '.')}\\{name}")
    grants = [f"{holder}:(OI)(CI)F" for holder in holders]
    argv = ["icacls", str(directory), "/inheritance:r", "/grant:r", *grants]
    done = child_processes.run(argv, timeout_s=_ICACLS_TIMEOUT_S)
    if done.returncode != 0:
        raise NodectlError(f"icacls cannot restrict {directory}: {(done.stderr or done.stdout).strip()[:200]}")
