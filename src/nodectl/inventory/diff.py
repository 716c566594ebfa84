"""Compares two inventories and formats the differences for people. Pure.

A field that is left out equals its default.
"""

from __future__ import annotations

import difflib
from typing import Any

import yaml
from pydantic import ValidationError

from nodestore.schema.models import Inventory


def without_defaults(inventory: dict[str, Any]) -> dict[str, Any]:
    """The inventory without fields that equal their defaults; unchanged if the model does not accept it."""
    try:
        return Inventory.without_name_check(inventory).model_dump(mode="json", exclude_defaults=True)
    except ValidationError:
        return inventory


def diff_lines(old: dict[str, Any] | None, new: dict[str, Any], *, old_name: str, new_name: str) -> list[str]:
    """A unified diff of both as YAML with sorted keys and no comments; empty if they are equivalent."""
    before, after = (_lines(without_defaults(value)) if value is not None else [] for value in (old, new))
    return list(difflib.unified_diff(before, after, old_name, new_name, lineterm="", n=2))


def summary_lines(old: dict[str, Any] | None, new: dict[str, Any]) -> list[str]:
    """One line for each added, removed or changed master, node and group, and for each other changed section."""
    old, new = without_defaults(old or {}), without_defaults(new)
    lines: list[str] = []
    for section in ("masters", "nodes", "groups"):
        before, after = old.get(section) or {}, new.get(section) or {}
        for name in dict.fromkeys((*before, *after)):
            verb = _verb(name in before, name in after, before.get(name) == after.get(name))
            if verb:
                lines.append(f"{verb} {section.removesuffix('s')} {name}")
    others = [name for name in dict.fromkeys((*old, *new)) if name not in {"masters", "nodes", "groups", "v"}]
    return lines + [f"change {name}" for name in others if old.get(name) != new.get(name)]


def removed_nodes(old: dict[str, Any] | None, new: dict[str, Any]) -> list[str]:
    """The nodes that are in `old` only."""
    before, after = _nodes(old or {}), _nodes(new)
    return [name for name in before if name not in after]


def removes_many(old: dict[str, Any] | None, new: dict[str, Any]) -> bool:
    """Whether the change removes all nodes, or more than a third of them."""
    return 3 * len(removed_nodes(old, new)) > len(_nodes(old or {}))


def _nodes(inventory: dict[str, Any]) -> dict[str, Any]:
    nodes = inventory.get("nodes")
    return nodes if isinstance(nodes, dict) else {}


def _verb(before: bool, after: bool, same: bool) -> str:
    if not before:
        return "add"
    if not after:
        return "remove"
    return "" if same else "change"


def _lines(value: dict[str, Any]) -> list[str]:
    return yaml.safe_dump(value, sort_keys=True, allow_unicode=True, default_flow_style=None, width=100).splitlines()
