"""Formats times, ages, sizes and documents, and builds the tables of nodes, masters and etcd members."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nodectl.terminal.output import Cell, Table, escape_misleading
from nodestore.support.secrets import masked

if TYPE_CHECKING:
    from nodestore.schema.api_types import MasterView, MemberView, NodeView, SilentEtcd

_CHARS_MAX = 60


def inline(value: Any, chars_max: int = _CHARS_MAX) -> str:
    """Format a document on one line: `colour=red text="a b"`. Beyond `chars_max` characters it is cut.

    Secrets are masked: what is shown in a table stays on screens and in logs.
    """
    value = masked(value)
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
    """Format seconds since the Unix epoch as date, time and offset of this PC's time zone, `2026-11-30 02:30:00+0100`.

    `?` if that is not a number or out of range.
    """
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S%z", time.localtime(seconds))
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


_NODE_COLUMNS_OPTIONAL = ("SETTINGS", "POSITION", "GENERATION", "HOST")


def nodes_table(nodes: Sequence[NodeView], title: str = "", *, problems: bool = True) -> Table:
    """A row for each node. problems: whether the table has a column for them; False if the screen lists them elsewhere.

    DOCUMENT is the effective document if the views hold it, else the node's own one. Secrets are masked.
    """
    with_specs = any(node.get("spec") for node in nodes)
    columns = ["NODE", "STATE", "POSITION", "HOST", "GENERATION", "DOCUMENT"]
    columns += [*(["SETTINGS"] if with_specs else []), *(["PROBLEM"] if problems else [])]
    table = Table(columns, title=title, optional=_NODE_COLUMNS_OPTIONAL)
    for node in nodes:
        position = node.get("position")
        alive, desired, spec = node.get("alive") or {}, node.get("desired"), node.get("spec")
        document = spec["document"] if spec else node.get("document") or {}
        row: list[str | Cell] = [
            node["name"],
            node_state(node),
            f"{position[0]},{position[1]}" if position else "",
            str(alive.get("host", "")),
            str(desired["generation"]) if desired else "",
            inline(document, 40),
        ]
        row += [inline(spec["settings"] if spec else {}, 40)] if with_specs else []
        row += [Cell(node.get("problem") or "", "red")] if problems else []
        table.add(*row)
    return table


def nodes_summary(nodes: Sequence[NodeView], title: str = "") -> Table:
    """A row for each state of nodes: how many are in it, and the names of the first ones."""
    by_state: dict[str, list[NodeView]] = {}
    for node in nodes:
        by_state.setdefault(node_state(node).text, []).append(node)
    table = Table(("STATE", "NODES", "NAMES"), title=title)
    for found in sorted(by_state.values(), key=len, reverse=True):
        table.add(node_state(found[0]), str(len(found)), some_names([node["name"] for node in found]))
    return table


def some_names(names: Sequence[str], most: int = 8, *, count: int | None = None) -> str:
    """The first names, and how many more there are. count: how many there are in all, if `names` holds only some."""
    shown, count = ", ".join(names[:most]), len(names) if count is None else count
    return shown if count <= most else f"{shown} and {count - most} more"


_NODE_PROBLEM = re.compile(r"node (?P<node>\S+): (?P<text>.*)", re.DOTALL)
_ALIKE_MIN = 4


def grouped_problems(problems: Sequence[str]) -> list[str]:
    """The problems, with one line for those that many nodes share."""
    nodes: dict[str, list[str]] = {}
    for problem in problems:
        if match := _NODE_PROBLEM.fullmatch(problem):
            nodes.setdefault(match["text"], []).append(match["node"])
    lines: dict[str, None] = {}
    for problem in problems:
        match = _NODE_PROBLEM.fullmatch(problem)
        alike = nodes[match["text"]] if match else []
        if match and len(alike) >= _ALIKE_MIN:
            lines[f"{len(alike)} nodes ({some_names(alike)}): {match['text']}"] = None
        else:
            lines[problem] = None
    return list(lines)


def masters_table(masters: Sequence[MasterView], title: str = "") -> Table:
    table = Table(
        ("MASTER", "ROLE", "HOST", "URL", "INDEX", "PRIORITY", "VERSION", "APPLICATION"), title=title,
        optional=("PRIORITY", "VERSION", "HOST", "APPLICATION"),
    )  # fmt: skip
    for master in masters:
        role = Cell(master["role"], "bold green" if master["role"] == "leader" else "")
        if master.get("unfit"):
            role = Cell(f"{master['role']}, unfit", "red")
        application = f"{master.get('application', '')} {master.get('application_version', '')}".strip()
        table.add(
            master["id"],
            role,
            master.get("host", ""),
            master.get("url", ""),
            str(master.get("index", "")),
            str(master.get("priority", "")),
            master.get("version", ""),
            application,
        )
    return table


def members_table(members: Sequence[MemberView | SilentEtcd], title: str = "", *, errors: bool = True) -> Table:
    """A row for each member. errors: whether there is a column for them; False if the screen lists them elsewhere."""
    columns = ("MEMBER", "HEALTH", "ENDPOINT", "VERSION", "DATABASE", *(["ERROR"] if errors else []))
    table = Table(columns, title=title, optional=("DATABASE", "VERSION"))
    for member in members:
        health = "leader" if member.get("leader") else "healthy"
        known = member if "id" in member else None  # None: etcd could not list its members
        row: list[str | Cell] = [
            member["name"] or (known["id"] if known else ""),
            Cell(health, "green") if member.get("healthy") else Cell("down", "red"),
            member.get("endpoint", ""),
            (known["version"] if known else None) or "",
            format_bytes((known["db_bytes"] if known else None) or 0),
        ]
        table.add(*row, *([Cell(member.get("error") or "", "red")] if errors else []))
    return table
