"""kit.json and SHA256SUMS: what is in a kit, from which files it was made, and the checksum of each of its files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nodectl.kits.archive import files_of
from nodectl.kits.pieces.part import KitPart, sha256_of
from nodestore.errors import Invalid

MANIFEST, SUMS = "kit.json", "SHA256SUMS"
_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class KitManifest:
    """Content of kit.json. commit: of the source; empty if unknown. etcd: its version, None without etcd."""

    release: str
    nodectl: str
    commit: str
    platform: str
    python: str
    etcd: str | None
    apps: tuple[str, ...]
    parts: tuple[Mapping[str, str], ...]

    def text(self) -> str:
        fields = {
            "v": _VERSION, "release": self.release, "nodectl": self.nodectl, "commit": self.commit,
            "platform": self.platform, "python": self.python, "etcd": self.etcd, "apps": list(self.apps),
            "parts": list(self.parts),
        }  # fmt: skip
        return json.dumps(fields, indent=1, ensure_ascii=True) + "\n"


def parts_of(parts: Sequence[KitPart]) -> tuple[Mapping[str, str], ...]:
    """The records of parts, sorted by kind and name."""
    return tuple(part.record() for part in sorted(parts, key=lambda part: (part.kind, part.name, part.file)))


def parse_manifest(content: bytes, where: str) -> KitManifest:
    """Read kit.json. Raises Invalid if it is not the manifest of a kit, or of a newer form."""
    try:
        fields: Any = json.loads(content)
        if fields["v"] != _VERSION:
            raise Invalid(
                f"{where}: the kit has the form {fields['v']}, which this nodectl does not know: use a newer one"
            )
        return KitManifest(
            release=str(fields["release"]), nodectl=str(fields["nodectl"]), commit=str(fields["commit"]),
            platform=str(fields["platform"]), python=str(fields["python"]),
            etcd=None if fields["etcd"] is None else str(fields["etcd"]), apps=tuple(map(str, fields["apps"])),
            parts=tuple({str(name): str(value) for name, value in part.items()} for part in fields["parts"]),
        )  # fmt: skip
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise Invalid(f"{where}: {MANIFEST} is not the manifest of a kit") from None


def sums_text(folder: Path) -> str:
    """The text of SHA256SUMS for all files below `folder`, in the form that `sha256sum --check` reads."""
    return "".join(f"{sha256_of(folder / name)}  {name}\n" for name in files_of(folder) if name != SUMS)


def parse_sums(content: bytes, where: str) -> dict[str, str]:
    """The checksums by file. Raises Invalid if a line is not one of SHA256SUMS."""
    found: dict[str, str] = {}
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), start=1):
        digest, separator, name = line.partition("  ")
        if not separator or len(digest) != 64 or name in found:
            raise Invalid(f"{where}: line {number} of {SUMS} is not a checksum and a file")
        found[name] = digest
    return found
