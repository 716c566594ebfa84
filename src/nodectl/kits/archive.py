"""Writes a folder as one archive, so that the same files always give the same bytes.

Entries are sorted by name. Their time, owner and rights do not depend on the PC that builds: a file may be run if it
may be run in the folder.
"""

from __future__ import annotations

import gzip
import os
import tarfile
import zipfile
from pathlib import Path
from typing import IO

_TIME = (2026, 1, 1, 0, 0, 0)
_TIME_S = 1_767_225_600
_LEVEL = 6


def write_archive(folder: Path, target: Path) -> None:
    """Write `folder`, with its name, into `target`: a zip if its name ends so, else a tar with gzip. Atomic."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as stream:
            (_write_zip if target.suffix == ".zip" else _write_tar)(folder, stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def files_of(folder: Path) -> list[str]:
    """The files below `folder`, as sorted paths with slashes."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _is_executable(file: Path) -> bool:
    return bool(file.stat().st_mode & 0o100)


def _write_tar(folder: Path, stream: IO[bytes]) -> None:
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=stream, compresslevel=_LEVEL, mtime=_TIME_S) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name in files_of(folder):
            file = folder / name
            entry = tarfile.TarInfo(f"{folder.name}/{name}")
            entry.size, entry.mtime = file.stat().st_size, _TIME_S
            entry.mode = 0o755 if _is_executable(file) else 0o644
            with file.open("rb") as content:
                archive.addfile(entry, content)


def _write_zip(folder: Path, stream: IO[bytes]) -> None:
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=_LEVEL) as archive:
        for name in files_of(folder):
            entry = zipfile.ZipInfo(f"{folder.name}/{name}", _TIME)
            entry.compress_type, entry.create_system, entry.external_attr = zipfile.ZIP_DEFLATED, 3, 0o644 << 16
            archive.writestr(entry, (folder / name).read_bytes(), compresslevel=_LEVEL)
