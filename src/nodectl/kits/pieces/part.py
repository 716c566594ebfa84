"""What the manifest says about one part of a kit."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class KitPart:
    """One part: a package or an archive. kind: `debian`, `wheel`, `app`, `etcd` or `python`. sha256: of its file."""

    kind: str
    name: str
    version: str
    file: str
    sha256: str

    def record(self) -> dict[str, str]:
        return {
            "kind": self.kind, "name": self.name, "version": self.version, "file": self.file, "sha256": self.sha256,
        }  # fmt: skip


def sha256_of(file: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
