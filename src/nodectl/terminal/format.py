"""Formats times, ages, sizes and documents, and builds the tables of nodes, masters and etcd members."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nodectl.terminal.output import Cell, Table, escape_misleading

if TYPE_CHECKING:
    from nodestore.schema.api_types import MasterView, MemberView, NodeView, SilentEtcd

_CHARS_MAX = 60


def inline(value: Any, chars_max: int = _CHARS_MAX) -> str:
    """Format a document on one line: `colour=red text="a b"`. Beyond `chars_max` characters it is cut."""
    if isinstance(value, Mapping):
        text = " ".join(f"{key}={_scalar(item)}" for key, item in value.items())
    else:
        text = _scalar(value) if value is not None else ""
    text = escape_misleading(text)
    return text if len(text) <= chars_max else text[: chars_max - 3] + "..."


def _scalar(value: Any) -> str:
    if isinstance(value, str) and value and value.isprintable() and not set(value) & set(' "='):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def local_time(seconds: float) -> str:
    """Format seconds since the Unix epoch as local date and time; `?` if that is not a number or out of range."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (OverflowError, ValueError, OSError, TypeError):  # stored values may be anything
        return "?"


def format_age(seconds: float) -> str:
    """Format the age of a time in seconds since the Unix epoch, by this PC's clock: `12s`, `5m`, `3h`, `2d`."""
    age = max(0.0, time.time() - seconds)
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if age >= 2 * length:
            return f"{age / length:.0f}{unit}"
    return f"{age:.0f}s"


def format_bytes(count: int) -> str:
    """Format a size in MiB, or in KiB below one MiB."""
    return f"{count / (1 << 20):.1f} MiB" if count >= 1 << 20 else f"{count / 1024:.0f} KiB"


def node_state(node: NodeView) -> Cell:
    """The state of a node in a word or two, with its colour."""
    status, alive = node.get("status"), node.get("alive")
    phase = str(status["phase"]) if status else "unknown"
    if not alive:
        return Cell("down" if status else "never reported", "red")
    if phase in {"failed", "retrying"}:
        return Cell(phase, "red")
    if node.get("converged"):
        return Cell(phase, "green")
    return Cell("applying" if phase in {"ready", "idle", "unknown"} else phase, "yellow")


def nodes_table(nodes: Sequence[NodeView], title: str = "") -> Table:
    table = Table(("NODE", "STATE", "POSITION", "HOST", "GENERATION", "DOCUMENT", "PROBLEM"), title=title)
    for node in nodes:
        position = node.get("position")
        alive, desired = node.get("alive") or {}, node.get("desired")
        table.add(
            node["name"],
            node_state(node),
            f"{position[0]},{position[1]}" if position else "",
            str(alive.get("host", "")),
            str(desired["generation"]) if desired else "",
            inline(node.get("document") or {}, 40),
            Cell(node.get("problem") or "", "red"),
        )
    return table


def masters_table(masters: Sequence[MasterView], title: str = "") -> Table:
    table = Table(("MASTER", "ROLE", "HOST", "URL", "INDEX", "PRIORITY", "VERSION"), title=title)
    for master in masters:
        role = Cell(master["role"], "bold green" if master["role"] == "leader" else "")
        table.add(
            master["id"],
            role,
            master.get("host", ""),
            master.get("url", ""),
            str(master.get("index", "")),
            str(master.get("priority", "")),
            master.get("version", ""),
        )
    return table


def members_table(members: Sequence[MemberView | SilentEtcd], title: str = "") -> Table:
    table = Table(("MEMBER", "HEALTH", "ENDPOINT", "VERSION", "DATABASE", "ERROR"), title=title)
    for member in members:
        health = "leader" if member.get("leader") else "healthy"
        known = member if "id" in member else None  # None: etcd could not list its members
        table.add(
            member["name"] or (known["id"] if known else ""),
            Cell(health, "green") if member.get("healthy") else Cell("down", "red"),
            member.get("endpoint", ""),
            (known["version"] if known else None) or "",
            format_bytes((known["db_bytes"] if known else None) or 0),
            Cell(member.get("error") or "", "red"),
        )
    return table
