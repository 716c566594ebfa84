"""What changes between two inventories, as people read it. Pure.

Inventories are compared by what they mean: a field that is left out equals its default.
"""

from __future__ import annotations

import difflib
from typing import Any

import yaml
from pydantic import ValidationError

from nodestore.schema.models import Inventory


def without_defaults(inventory: dict[str, Any]) -> dict[str, Any]:
    """The inventory without what equals its default; as it is, when this program cannot read it."""
    try:
        return Inventory.without_name_check(inventory).model_dump(mode="json", exclude_defaults=True)
    except ValidationError:
        return inventory


def diff_lines(old: dict[str, Any] | None, new: dict[str, Any], *, old_name: str, new_name: str) -> list[str]:
    """A unified diff of both as YAML, without comments and with keys sorted; empty when they mean the same."""
    before, after = (_lines(without_defaults(value)) if value is not None else [] for value in (old, new))
    return list(difflib.unified_diff(before, after, old_name, new_name, lineterm="", n=2))


def summary_lines(old: dict[str, Any] | None, new: dict[str, Any]) -> list[str]:
    """One line for each master, node and group that comes, goes or changes, and for each other section that does."""
    old, new = without_defaults(old or {}), without_defaults(new)
    found: list[str] = []
    for section in ("masters", "nodes", "groups"):
        before, after = old.get(section) or {}, new.get(section) or {}
        for name in dict.fromkeys((*before, *after)):
            verb = _verb(name in before, name in after, before.get(name) == after.get(name))
            if verb:
                found.append(f"{verb} {section.removesuffix('s')} {name}")
    others = [name for name in dict.fromkeys((*old, *new)) if name not in {"masters", "nodes", "groups", "v"}]
    return found + [f"change {name}" for name in others if old.get(name) != new.get(name)]


def _verb(before: bool, after: bool, same: bool) -> str:
    if not before:
        return "add"
    if not after:
        return "remove"
    return "" if same else "change"


def _lines(value: dict[str, Any]) -> list[str]:
    return yaml.safe_dump(value, sort_keys=True, allow_unicode=True, default_flow_style=None, width=100).splitlines()
