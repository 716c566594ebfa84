"""Files that only their owner may read: on POSIX by their mode, on Windows by their access list."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from nodestore.errors import NodectlError
from nodestore.support.atomic_files import replace_file, write_atomic
from nodestore.support.files.owner_only import restrict

PRIVATE_MODE, PUBLIC_MODE, _DIRECTORY_MODE = 0o600, 0o644, 0o700


def make_private_directory(path: Path) -> None:
    """Make a directory that only its owner can enter. One that exists is left as it is. NodectlError if it fails."""
    try:
        make_owner_only(path)
    except OSError as error:
        raise NodectlError(f"cannot make the directory {path}: {error.strerror or error}") from None


def make_owner_only(path: Path) -> None:
    """Make a directory as `make_private_directory` does. Raises OSError."""
    if path.is_dir():
        return
    path.mkdir(parents=True, mode=_DIRECTORY_MODE, exist_ok=True)
    path.chmod(_DIRECTORY_MODE)  # an unusual umask may have removed rights of the owner
    restrict(path)


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
