"""The comment in an inventory file that says from which version of the configuration the file was made. Pure.

`nodectl config show` writes it, and `nodectl config apply` compares it with the current version. So if two operators
edit the same version, the second one is refused instead of undoing the first one's changes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nodestore.errors import Conflict, Garbage
from nodestore.support.jsonio import digest

_BEGIN = "# nodectl: based on version"
_LINE = re.compile(rf"{_BEGIN} (?P<version>[0-9]{{1,15}})(?: \((?P<digest>[0-9a-f]{{1,64}})\))?")


@dataclass(frozen=True, slots=True)
class Basis:
    """The version that a file was made from.

    digest: the digest of that version's inventory. After a restore the number alone does not identify a version,
    because numbers are used again. None: the digest is unknown, and only the number is compared.
    """

    version: int
    digest: str | None = None

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Basis:
        """The basis of a file that is made from this configuration."""
        try:
            return cls(int(record["version"]), digest(record["inventory"]))
        except Garbage:
            return cls(int(record["version"]))

    def line(self) -> str:
        """The comment, with its line end."""
        return f"{_BEGIN} {self.version}{f' ({self.digest})' if self.digest else ''}\n"

    def check(self, current: Mapping[str, Any] | None, version: int, file: str) -> None:
        """Raise Conflict unless the current configuration is the one that `file` was made from.

        `version`: the number of the current version; 0: none was applied. `current`: its record, if it is readable.
        """
        if self.version == version and (current is None or self.digest in (None, Basis.of(current).digest)):
            return
        found = f"version {version} is current" if self.version != version else "that version now has another content"
        raise Conflict(
            f"{file} is based on version {self.version}, and {found}: get it with `nodectl config show`, make your "
            f"changes in it and apply it; or add --expect-version {version} to replace it whatever it contains"
        )


def split_basis(text: str) -> tuple[Basis | None, str]:
    """The basis that the comments at the top of a file name, and the text without that line.

    Raises ValueError, with the number of the line as its argument, if the line is damaged.
    """
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines):
        if line.strip() and not line.lstrip().startswith("#"):
            break
        if line.startswith(_BEGIN):
            found = _LINE.fullmatch(line.strip())
            if found is None:
                raise ValueError(number + 1)
            rest = "".join([*lines[:number], *lines[number + 1 :]])
            return Basis(int(found["version"]), found["digest"]), rest
    return None, text


def with_basis(source: str, basis: Basis) -> str:
    """`source` with the comment as its first line."""
    return basis.line() + split_basis(source)[1]
