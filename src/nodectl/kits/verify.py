"""Reads a kit, as a file or as a folder, and compares each of its files with SHA256SUMS.

The checksums inside a kit show damage. They do not show who built it: for that, compare the checksum of the whole file
with the one that the builder got.
"""

from __future__ import annotations

import gzip
import hashlib
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from nodectl.kits.archive import files_of
from nodectl.kits.manifest import MANIFEST, SUMS, KitManifest, parse_manifest, parse_sums
from nodestore.errors import Invalid, NotFound

_FILES_MAX = 50_000
_BYTES_MAX = 2 << 30
_TEXT_BYTES_MAX = 8 << 20
_CHUNK_BYTES = 1 << 20
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError)


@dataclass(frozen=True, slots=True)
class Verified:
    """A kit whose files all have the checksums of its SHA256SUMS. size_bytes: of the files, unpacked."""

    manifest: KitManifest
    files: int
    size_bytes: int


def verify(path: Path) -> Verified:
    """Read the kit in `path`, a file or a folder. Raises Invalid if it is damaged or no kit, NotFound if missing."""
    if not path.exists():
        raise NotFound(f"there is no file {path}")
    if path.is_dir() and not (path / MANIFEST).is_file():
        raise Invalid(f"{path} is no kit: it has no {MANIFEST}")
    reader = _Reader(str(path))
    try:
        with _entries(path) as entries:
            for name, content in entries:
                reader.add(name, content)
    except gzip.BadGzipFile:
        raise Invalid(f"{path} is damaged or no kit: it is neither a zip nor a tar with gzip") from None
    except OSError as error:
        raise Invalid(f"{path} cannot be read: {error.strerror or error}") from None
    except _DAMAGED as error:
        raise Invalid(f"{path} is damaged or no kit: {error}") from None
    return reader.finish()


class _Reader:
    """Collects the checksums of the files, and compares them at the end."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._digests: dict[str, str] = {}
        self._texts: dict[str, bytes] = {}
        self._size_bytes = 0

    def add(self, name: str, content: IO[bytes]) -> None:
        if name in self._digests or len(self._digests) >= _FILES_MAX:
            raise Invalid(f"{self._where} is no kit: it has a file twice, or too many files ({name})")
        digest, kept = hashlib.sha256(), bytearray()
        while chunk := content.read(_CHUNK_BYTES):
            self._size_bytes += len(chunk)
            if self._size_bytes > _BYTES_MAX:
                raise Invalid(f"{self._where} is no kit: it is larger than {_BYTES_MAX >> 30} GiB")
            digest.update(chunk)
            if name in (MANIFEST, SUMS) and len(kept) <= _TEXT_BYTES_MAX:
                kept += chunk
        self._digests[name] = digest.hexdigest()
        if name in (MANIFEST, SUMS):
            self._texts[name] = bytes(kept)

    def finish(self) -> Verified:
        for name in (MANIFEST, SUMS):
            if name not in self._texts:
                raise Invalid(f"{self._where} is no kit: it has no {name}")
        manifest = parse_manifest(self._texts[MANIFEST], self._where)
        sums = parse_sums(self._texts[SUMS], self._where)
        found = {name: digest for name, digest in self._digests.items() if name != SUMS}
        wrong = sorted(name for name in found.keys() | sums.keys() if found.get(name) != sums.get(name))
        if wrong:
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise Invalid(f"{self._where} is damaged: not as {SUMS} says: {', '.join(wrong[:3])}{more}")
        return Verified(manifest, len(found), self._size_bytes)


@contextmanager
def _entries(path: Path) -> Iterator[Iterator[tuple[str, IO[bytes]]]]:
    if path.is_dir():
        yield _folder_entries(path)
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            yield _zip_entries(archive)
    else:
        with gzip.open(path) as unpacked, tarfile.open(fileobj=unpacked, mode="r:") as tar:
            yield _tar_entries(tar)
            while unpacked.read(_CHUNK_BYTES):  # the checksum of the whole follows the padding
                pass


def _folder_entries(folder: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """The files of an unpacked kit, without what Python compiled there."""
    for name in files_of(folder):
        if "__pycache__" not in name.split("/"):
            with (folder / name).open("rb") as content:
                yield name, content


def _zip_entries(archive: zipfile.ZipFile) -> Iterator[tuple[str, IO[bytes]]]:
    for entry in archive.infolist():
        if not entry.is_dir():
            with archive.open(entry) as content:
                yield entry.filename.partition("/")[2], content


def _tar_entries(archive: tarfile.TarFile) -> Iterator[tuple[str, IO[bytes]]]:
    for entry in archive:
        content = archive.extractfile(entry) if entry.isreg() else None
        if content is not None:
            yield entry.name.partition("/")[2], content
