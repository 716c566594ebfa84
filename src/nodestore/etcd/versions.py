"""Decides which versions of etcd may hold the cluster's data. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from nodestore.errors import Invalid

OVERRIDE = "NODECTL_ALLOW_OLD_ETCD"

_REASONS: tuple[tuple[tuple[int, int, int], str], ...] = (
    ((3, 5, 3), "it can corrupt data after a crash"),
    ((3, 5, 13), "a slow disk makes it revoke live leases"),
    ((3, 5, 28), "it can answer reads with old data after a pause"),
    ((3, 5, 30), "a transaction may attach a key to another user's lease"),
)
"""For etcd 3.5: the release that fixes a defect, and the effect of the defect (etcd issues 13766, 15247, 20418)."""

_LEAST_3_6 = (3, 6, 11)

_NO_WATCH_LEAK: tuple[tuple[int, int, int], ...] = ((3, 5, 33), (3, 6, 14), (3, 7, 1))
"""By minor release: the first one in which an open-ended watch needs the right to read every key (CVE-2026-73499)."""


class Version(NamedTuple):
    """An etcd version; compares as a triple."""

    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


def parse_version(text: str) -> Version | None:
    """The version in `3.5.30`, `v3.5.30-rc.1`, a package's "3.5.30-2" or the output of `etcd --version`; or None."""
    match = re.search(r"(?:etcd Version: |^v?)(\d+)\.(\d+)\.(\d+)", text.strip())
    return Version(*map(int, match.groups())) if match else None


def why_too_old(version: tuple[int, int, int]) -> str | None:
    """Why this version must not hold the cluster's data; None if it may."""
    if version < (3, 5, 0):
        return "it lacks features that the protocol needs; at least 3.5.30 or 3.6.11 is required"
    if version[:2] == (3, 5):
        for repaired, reason in _REASONS:
            if version < repaired:
                return f"{reason}; at least 3.5.30 is required"
    if version[:2] == (3, 6) and version < _LEAST_3_6:
        return "a transaction may attach a key to another user's lease; at least 3.6.11 is required"
    return None


def check_version(text: str, who: str, environ: Mapping[str, str]) -> None:
    """Raise Invalid, with the reason, if version `text` of etcd is too old and `environ` does not set OVERRIDE."""
    version = parse_version(text)
    if version is None:
        raise Invalid(f"{who}: {text!r} is not a version of etcd")
    reason = why_too_old(version)
    if reason is not None and not environ.get(OVERRIDE):
        raise Invalid(f"{who} is version {text}: {reason} (for tests only: {OVERRIDE}=1)")


def access_control_gaps(text: str) -> tuple[str, ...]:
    """What access control of this version of etcd does not protect; empty if all is, or the version is not known."""
    version = parse_version(text)
    if version is None:
        return ()
    gaps = []
    repaired = next((item for item in _NO_WATCH_LEAK if item[:2] >= version[:2]), None)
    if repaired is not None and version < repaired:
        gaps.append(
            "a user that may read one key can watch all keys that sort after it (repaired in 3.5.33, 3.6.14 and 3.7.1)"
        )
    if version < (3, 6, 0):
        gaps.append(
            "while its database is full, it checks no rights for deletions and for switching access control off "
            "(3.6 does)"
        )
    return tuple(gaps)
