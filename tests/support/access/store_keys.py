"""A key of each kind that the layout has, for tests of rights in etcd."""

from __future__ import annotations

from masterd.api.schema_files import KEYS
from nodestore.schema.keys import Keys

OWN, OTHER = "n1", "n2"
"""The names of the user under test, and of another one."""
_MORE = (
    "snapshots/<index>-<nonce>/000001",
    "hosts-placement/changes",
    "hosts-placement/placer",
    "unknown",
    "zzz/unknown",
    "",
)


def sample_keys(keys: Keys) -> list[str]:
    """Keys of every kind, each for the names OWN and OTHER, and keys outside of the cluster."""
    patterns = [keys.prefix + pattern for pattern in (*KEYS, *_MORE)]
    found = {_filled(pattern, name) for pattern in patterns for name in (OWN, OTHER, f"{OWN}x")}
    return sorted([*found, f"/nodectl/{keys.cluster}x/leader", "/nodectl/", "foreign"])


def _filled(pattern: str, name: str) -> str:
    for placeholder in ("<node>", "<master>", "<id>", "<host>"):
        pattern = pattern.replace(placeholder, name)
    for placeholder in ("<nonce>", "<path>", "<last index>", "<index>", "<version>"):
        pattern = pattern.replace(placeholder, "0000000000000001")
    return pattern
