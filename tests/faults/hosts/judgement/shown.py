"""Checks the effect of the nodes' drivers: the file on each host's disk, compared with the node's desired state."""

from __future__ import annotations

import json
from pathlib import Path

from tests.faults.checkers.final_store import FinalStore


def not_as_desired(directory: Path, final: FinalStore) -> list[str]:
    """Find nodes whose file differs from the document of their desired spec, whatever their status reports."""
    wrong = []
    for node, desired in sorted(final.desired.items()):
        path = directory / "disk" / node / "noded" / str(desired.spec.settings.get("path", ""))
        try:
            found = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            wrong.append(f"nodes: {node} shows nothing: {error!r}")
            continue
        if found != desired.spec.document:
            wrong.append(f"nodes: {node} shows {found}, and should show {desired.spec.document}"[:500])
    return wrong
