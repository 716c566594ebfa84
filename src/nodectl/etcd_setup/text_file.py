"""Writes a generated text file atomically, and replaces a different file only if forced."""

from __future__ import annotations

import os
from pathlib import Path

from nodestore.errors import Conflict, Invalid, NodectlError
from nodestore.support.atomic_files import write_atomic


def write_text(file: Path, text: str, *, force: bool = False) -> bool:
    """Write `text` to `file` atomically: a reader sees the old file or the new one, also after a power cut.

    Returns False if the file held this text already. Raises Conflict if it holds another text and `force` is not set,
    Invalid if it is not a regular file, NodectlError if the system refuses.
    """
    target = Path(os.path.realpath(file))  # a symbolic link is kept; its target is written
    try:
        if target.exists():
            if not target.is_file():
                raise Invalid(f"{file} is not a regular file")
            if target.read_bytes() == text.encode():
                return False
            if not force:
                raise Conflict(f"{file} exists and is different; --force replaces it")
        if not target.parent.is_dir():
            raise Invalid(f"{file} cannot be written: there is no directory {target.parent}")
        write_atomic(target, text.encode())
    except OSError as error:
        raise NodectlError(f"{file} cannot be written: {error.strerror or error}") from None
    return True
