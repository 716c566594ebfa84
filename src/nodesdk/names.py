"""Which names are allowed. Pure."""

from __future__ import annotations

import re

from nodesdk.errors import Invalid

PATTERN = "[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
_NAME = re.compile(PATTERN)


def check_name(kind: str, name: str) -> str:
    """Return `name` if it may name a cluster, node, master, group or scene. Raises Invalid otherwise."""
    if not _NAME.fullmatch(name):
        raise Invalid(
            f"{kind} name {name!r} is not allowed: use 1 to 63 letters, digits, '.', '_' or '-', "
            "beginning and ending with a letter or digit"
        )
    return name
