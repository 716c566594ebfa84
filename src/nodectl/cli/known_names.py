"""Checks the names of nodes and groups in filters: a misspelt name must not look like an empty result."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from nodestore.errors import NotFound

if TYPE_CHECKING:
    from nodectl.client import Client
    from nodestore.schema.api_types import Consistency, NodeView


def check_nodes(names: Iterable[str], nodes: Iterable[NodeView]) -> None:
    """Raise NotFound unless all `names` are among `nodes`, which are those of the configuration."""
    known = [node["name"] for node in nodes]
    for name in names:
        if name not in known:
            raise NotFound(f"there is no node {name!r} in the configuration{_hint(name, known)}")


async def check_group(client: Client, group: str, nodes: Iterable[NodeView], consistency: Consistency) -> None:
    """Raise NotFound unless the configuration has this group, which may be empty. `all` is every node."""
    if group == "all" or any(group in node["groups"] for node in nodes):
        return
    view = await client.config(consistency=consistency)
    record: Any = view.get("in_force") or view["current"] or {}
    known = list((record.get("inventory") or {}).get("groups") or {})
    if group not in known:
        raise NotFound(f"there is no group {group!r} in the configuration{_hint(group, ['all', *known])}")


def _hint(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
