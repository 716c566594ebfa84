"""What is exported of a command, of an event of the audit log, and of a gap, each as one line of JSON. Pure.

A line is bounded and in ASCII. Arguments that are too long are left out: the journal holds them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nodestore.schema.api_types import AuditEntry
from nodestore.schema.limits import shortened
from nodestore.schema.records import JournalEntry, JournalRecord

_NAMES_MAX = 20
"""How many changed documents and nodes are named. The others are counted."""
_NAME_BYTES_MAX = 200
_PARTS_MAX, _CHARS_MAX = 2_000, 16_000
"""Larger arguments are left out unread: to mask them would take too long."""
_OPTIONAL = ("args", "changed", "nodes", "actions", "on_behalf_of", "detail", "request", "id")
"""What is left out of a line that is too long, in this order."""
_ALWAYS = ("event", "time", "position", "cluster")
"""What is never left out."""


@dataclass(frozen=True, slots=True, order=True)
class CommandPosition:
    """Identifies a command for ever: the epoch in which it was committed, and its index."""

    epoch: int
    index: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.index}"


@dataclass(frozen=True, slots=True)
class ExportRecord:
    """One line of the export. event: its kind, such as `command` or `refused`. time: in seconds since 1970."""

    event: str
    time: float
    fields: Mapping[str, Any]

    def line(self, bytes_max: int) -> str:
        """The record as JSON in ASCII, of at most `bytes_max` bytes. Long fields are left out."""
        fields = {"event": self.event, "time": round(self.time, 3), **self.fields}
        text = _json(fields)
        for name in _OPTIONAL:
            if len(text) <= bytes_max:
                break
            if fields.pop(name, None) is not None:
                fields["left_out"] = [*fields.get("left_out", ()), name]
            text = _json(fields)
        if len(text) <= bytes_max:
            return text
        return _json({**{name: fields[name] for name in _ALWAYS if name in fields}, "left_out": ["all else"]})


def command_record(
    cluster: str, record: JournalRecord, entry: JournalEntry, hide: Callable[[Any], Any]
) -> ExportRecord:
    """A command of the journal: who changed what, from where, in which order. hide: returns its arguments without
    secrets."""
    fields: dict[str, Any] = {
        "position": str(CommandPosition(entry.epoch, record.index)), "cluster": cluster, "term": entry.term,
        "name": record.name, "actor": record.actor, "address": record.address, "on_behalf_of": record.on_behalf_of,
        "id": record.id,
    }  # fmt: skip
    if record.config is not None:  # an adopted configuration: `nodectl config history` holds its content
        fields["config_version"] = record.config.version
    if record.restore is not None:
        fields["restore"] = record.restore
    for name, items in (("changed", record.writes), ("nodes", record.specs), ("actions", record.actions)):
        if items:
            fields[name] = _names(list(items))
    if is_small(record.args):
        fields["args"] = hide(record.args)
    else:
        fields["left_out"] = ["args"]
    return ExportRecord("command", record.time, {name: item for name, item in fields.items() if item != ""})


def event_record(cluster: str, master: str, entry: AuditEntry) -> ExportRecord:
    """An event of the audit log of `master`."""
    fields: dict[str, Any] = {
        "cluster": cluster, "master": master,
        **{name: entry[name] for name in ("principal", "address", "request", "detail", "count")},
    }  # fmt: skip
    return ExportRecord(entry["event"], entry["time"], {name: item for name, item in fields.items() if item != ""})


def gap_record(
    cluster: str, now: float, after: CommandPosition | None, before: CommandPosition, count: int | None
) -> ExportRecord:
    """Says that the commands between two positions are not in the export. count: None if it is not known."""
    return ExportRecord("missing", now, {
        "cluster": cluster, "after": None if after is None else str(after), "before": str(before), "count": count,
    })  # fmt: skip


def restored_record(cluster: str, now: float, after: CommandPosition, epoch: int) -> ExportRecord:
    """Says that the store was restored from a backup. after: the last command that was exported before."""
    return ExportRecord("restored", now, {"cluster": cluster, "after": str(after), "epoch": epoch})


def unreadable_record(cluster: str, now: float, problem: str) -> ExportRecord:
    """Says that an entry of the journal cannot be read."""
    return ExportRecord("unreadable", now, {"cluster": cluster, "detail": shortened(problem, 300)})


def is_small(value: Any) -> bool:
    """Whether a JSON value has few parts and characters. It looks at no more than that many."""
    left, parts = _CHARS_MAX, [value]
    for _ in range(_PARTS_MAX):
        if not parts or left < 0:
            break
        part = parts.pop()
        if isinstance(part, str):
            left -= len(part)
        elif isinstance(part, dict | list | tuple):
            if len(part) > _PARTS_MAX:
                return False
            parts += part.values() if isinstance(part, dict) else part
            left -= sum(map(len, part)) if isinstance(part, dict) else 0
        elif isinstance(part, int) and not -(1 << 64) < part < 1 << 64:
            return False
    return not parts and left >= 0


def _names(names: Sequence[str]) -> list[str]:
    shown = [shortened(name, _NAME_BYTES_MAX) for name in names[:_NAMES_MAX]]
    return shown if len(names) <= _NAMES_MAX else [*shown, f"and {len(names) - _NAMES_MAX} more"]


def _json(fields: Mapping[str, Any]) -> str:
    return json.dumps(fields, separators=(",", ":"))
