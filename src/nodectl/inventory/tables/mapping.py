"""Reads a mapping file: which column of a table is which field of a node."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nodectl.inventory.tables.cells import TYPES, Column
from nodectl.inventory.yaml_source import FileError, YamlPath, YamlSource

_PLAIN = ("address", "position")
_FIELDS = ("name", *_PLAIN, "groups", "labels", "driver", "document", "table", "query")
_COLUMN_FIELDS = ("column", "type", "value")
_POSITION = ("row", "column")


@dataclass(slots=True)
class Mapping:
    """The columns of a node's name and groups, and of the fields that the table sets.

    fields: the column of each field, by its path in the node, such as `("labels", "row")`. `("position", 0)` and
    `("position", 1)` are row and column if each has a column of its own.
    table, query: what to read from a database.
    """

    source: YamlSource
    name: Column = field(default_factory=Column)
    groups: Column | None = None
    fields: dict[YamlPath, Column] = field(default_factory=dict)
    table: str | None = None
    query: str | None = None

    def columns(self) -> list[tuple[YamlPath, Column]]:
        """All columns that the table must have, each with its place in the mapping file."""
        groups = [self.groups] if self.groups else []
        return [(column.where, column) for column in (self.name, *groups, *self.fields.values()) if column.column]


def load_mapping(path: Path) -> Mapping:
    """Read the mapping file at `path`. Raises FileError, with a line for each mistake."""
    source = YamlSource.read(path)
    data = source.value
    if not isinstance(data, dict):
        raise FileError([f"{source.name}: expected fields such as `name: COLUMN`"])
    for key in data:
        if key not in _FIELDS:
            source.add_unknown_problem((key,), _FIELDS, "this field")
    mapping = Mapping(source, table=_text(source, data, "table"), query=_text(source, data, "query"))
    _read_fields(mapping, data)
    source.raise_problems()
    return mapping


def _read_fields(mapping: Mapping, data: dict[str, Any]) -> None:
    source = mapping.source
    if mapping.table and mapping.query:
        source.add_problem(("query",), "give either `table` or `query`")
    if "name" not in data:
        source.add_problem((), "`name` is missing: which column has the names of the nodes?")
    else:
        mapping.name = _column(source, ("name",), data["name"])
    if "groups" in data:
        mapping.groups = _column(source, ("groups",), data["groups"])
    if "address" in data:
        mapping.fields["address",] = _column(source, ("address",), data["address"])
    _read_position(mapping, data.get("position"))
    _read_many(mapping, data, ("labels",), nested=False)
    _read_many(mapping, data, ("document",), nested=True)
    _read_driver(mapping, data.get("driver"))


def _read_position(mapping: Mapping, value: Any) -> None:
    """`position: COLUMN`, whose cells are such as `2,1`; or `position: {row: COLUMN, column: COLUMN}`."""
    where: YamlPath = ("position",)
    if value is None:
        return
    if isinstance(value, dict) and "row" in value:
        for number, part in enumerate(_POSITION):
            if part in value:
                mapping.fields["position", number] = _column(mapping.source, (*where, part), value[part])
            else:
                mapping.source.add_problem(where, f"`{part}` is missing")
        _check_known(mapping.source, where, value, _POSITION)
    else:
        mapping.fields[where] = _column(mapping.source, where, value)


def _read_driver(mapping: Mapping, value: Any) -> None:
    where: YamlPath = ("driver",)
    if value is None:
        return
    if not isinstance(value, dict):
        mapping.source.add_problem(where, "expected `name` and `settings`")
        return
    _check_known(mapping.source, where, value, ("name", "settings"))
    if "name" in value:
        mapping.fields["driver", "name"] = _column(mapping.source, (*where, "name"), value["name"])
    _read_many(mapping, value, ("driver", "settings"), nested=True)


def _read_many(mapping: Mapping, data: dict[str, Any], where: YamlPath, *, nested: bool) -> None:
    """The fields of labels, a document or settings. nested: a dot in a name separates a field from one inside it."""
    value = data.get(str(where[-1]))
    if value is None:
        return
    if not isinstance(value, dict):
        mapping.source.add_problem(where, "expected fields, each with its column")
        return
    for name, column in value.items():
        parts = tuple(name.split(".")) if nested else (name,)
        if not all(parts):
            mapping.source.add_problem((*where, name), "a name between dots is empty")
        _add(mapping, (*where, *parts), _column(mapping.source, (*where, name), column))


def _add(mapping: Mapping, path: YamlPath, column: Column) -> None:
    for other in mapping.fields:
        length = min(len(other), len(path))
        if other[:length] == path[:length]:
            mapping.source.add_problem(
                column.where, f"{'.'.join(map(str, other))} is mapped too, and one holds the other"
            )
    mapping.fields[path] = column


def _column(source: YamlSource, where: YamlPath, value: Any) -> Column:
    """`COLUMN`, `{column: COLUMN, type: TYPE}`, or `{value: VALUE}`, which is the same for all rows."""
    if isinstance(value, str) and value.strip():
        return Column(where, value.strip())
    if not isinstance(value, dict) or ("column" in value) == ("value" in value):
        source.add_problem(where, "expected the name of a column, {column: NAME, type: TYPE} or {value: VALUE}")
        return Column(where)
    _check_known(source, where, value, _COLUMN_FIELDS)
    kind = value.get("type")
    if kind is not None and kind not in TYPES:
        source.add_problem((*where, "type"), f"expected one of {', '.join(TYPES)}, got {kind!r}")
    if "value" in value:
        return Column(where, value=value["value"])
    if not isinstance(value["column"], str) or not value["column"].strip():
        source.add_problem((*where, "column"), "expected the name of a column")
        return Column(where)
    return Column(where, value["column"].strip(), kind)


def _check_known(source: YamlSource, where: YamlPath, value: dict[str, Any], known: tuple[str, ...]) -> None:
    for key in value:
        if key not in known:
            source.add_unknown_problem((*where, key), known, "this field")


def _text(source: YamlSource, data: dict[str, Any], name: str) -> str | None:
    value = data.get(name)
    if value is None or (isinstance(value, str) and value.strip()):
        return value
    source.add_problem((name,), "expected text")
    return None
