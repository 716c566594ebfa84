"""Reads requirements.lock: the version of each package, with the SHA-256 of its files. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from nodestore.errors import Invalid

_ENTRY = re.compile(
    r"^(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[^\s;\\]+)\s*(?:;\s*(?P<marker>[^\\]+?))?\s*\\?$"
)
_HASH = re.compile(r"^--hash=(sha256:[0-9a-f]{64})\s*\\?$")


@dataclass(frozen=True, slots=True)
class Pin:
    """One entry of the lock. marker: the environments that it is for; empty for all. hashes: `sha256:...`."""

    name: str
    version: str
    marker: str
    hashes: tuple[str, ...]

    def requirement(self) -> str:
        """The entry as one line of a requirements file, without its marker."""
        return f"{self.name}=={self.version} " + " ".join(f"--hash={each}" for each in self.hashes)


def normalized(name: str) -> str:
    """The name of a package in the form in which names are compared (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def parse_lock(text: str, where: str) -> Mapping[str, tuple[Pin, ...]]:
    """The entries by normalized name: more than one if they are for different environments. Raises Invalid."""
    found: dict[str, list[Pin]] = {}
    head: re.Match[str] | None = None
    hashes: list[str] = []
    for number, line in enumerate([*text.splitlines(), ""], start=1):
        stripped = line.strip()
        if match := _HASH.match(stripped):
            hashes.append(match[1])
        elif (stripped and not stripped.startswith("#")) or not line:
            _add(found, head, hashes, where)
            head, hashes = _ENTRY.match(stripped), []
            if head is None and stripped:
                raise Invalid(f"{where}: line {number} is not an entry with hashes: {stripped[:60]}")
    return {name: tuple(pins) for name, pins in found.items()}


def _add(found: dict[str, list[Pin]], head: re.Match[str] | None, hashes: list[str], where: str) -> None:
    if head is None:
        return
    if not hashes:
        raise Invalid(f"{where}: {head['name']} has no hash; write the lock again as CONTRIBUTING.md says")
    pin = Pin(head["name"], head["version"], head["marker"] or "", tuple(hashes))
    found.setdefault(normalized(pin.name), []).append(pin)
