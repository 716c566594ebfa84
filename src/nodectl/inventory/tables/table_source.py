"""An inventory that was made from a table, with the row and the column of each part of it, for error messages."""

from __future__ import annotations

import difflib
import json
from typing import Any

import yaml

from nodectl.inventory.tables.mapping import Mapping
from nodectl.inventory.tables.table import SourceTable
from nodectl.inventory.yaml_source import FILE_BYTES_MAX, FileError, Source, YamlPath

_SIMPLE_FIRST = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


class _Dumper(yaml.SafeDumper):
    """Writes text that is not a simple word in quotes: `1e5` is text for YAML 1.1, and a number for YAML 1.2."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text_node(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if text[:1] in _SIMPLE_FIRST else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text_node)


class TableSource(Source):
    """The inventory of a table. Its "lines" are rows; 0 is what was in the configuration before."""

    def __init__(self, mapping: Mapping, table: SourceTable) -> None:
        super().__init__(table.name, "")
        self._row_of: dict[YamlPath, int] = {}
        self._failed: set[int] = set()
        fields = {path: column.column for path, column in mapping.fields.items() if column.column}
        self._columns: dict[YamlPath, str] = {path: name for path, name in fields.items() if name}
        self._check_columns(mapping, table)

    def _check_columns(self, mapping: Mapping, table: SourceTable) -> None:
        """Raise FileError, with the line in the mapping file, for each column that the table does not have once."""
        for where, column in mapping.columns():
            count = table.columns.count(column.column or "")
            if count == 0:
                near = difflib.get_close_matches(column.column or "", table.columns, n=1)
                known = ", ".join(name for name in table.columns[:20] if name) or "none"
                hint = f"did you mean {near[0]!r}?" if near else f"its columns: {known}"
                mapping.source.add_problem(where, f"{table.name} has no column {column.column!r}; {hint}")
            elif count > 1:
                mapping.source.add_problem(where, f"{table.name} has {count} columns {column.column!r}: rename them")
        mapping.source.raise_problems()

    def set_row(self, where: YamlPath, row: int) -> int:
        """Record that the node or group at `where` comes from this row. Return the first row that it comes from."""
        return self._row_of.setdefault(where, row)

    def set_value(self, value: dict[str, Any]) -> None:
        """Set the inventory, and its text as a file. Raises FileError if that is too large for a file."""
        self.value = value
        # YAML takes seconds for each MiB, so what is far too large is refused first. JSON's signs are less than two
        # thirds of its text.
        if (size := len(json.dumps(value, ensure_ascii=False))) <= 3 * FILE_BYTES_MAX:
            self.text = str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120))
            size = len(self.text.encode("utf-8", "replace"))
        if size > FILE_BYTES_MAX:
            raise FileError([f"{self.name}: makes a configuration of some {size:,} bytes; limit: {FILE_BYTES_MAX:,}"])

    def add_cell_problem(self, row: int, column: str | None, message: str) -> None:
        """Record a mistake in a cell. Other mistakes of its node are not reported, as they may follow from it."""
        self._failed.add(row)
        problem = (row, f"column {column!r}: {message}" if column else message)
        if problem not in self.problems:
            self.problems.append(problem)

    def has_failed(self, row: int) -> bool:
        """Whether a cell of this row has a mistake."""
        return row in self._failed

    def line(self, where: YamlPath) -> int:
        """The row that the value at `where` comes from."""
        return self._row_of.get(where[:2], 0)

    def place(self, where: YamlPath) -> str:
        """The row in words."""
        row = self.line(where)
        return f"row {row}" if row else "which the table does not name"

    def add_problem(self, where: YamlPath, message: str, *, line: int | None = None) -> None:
        """Record a problem with the column of the value, if it comes from the table."""
        row = self.line(where) if line is None else line
        if row and row in self._failed:
            return
        column = self._column_of(where[2:]) if row and where[0] == "nodes" else None
        super().add_problem(where, f"{message} (column {column!r})" if column else message, line=row)

    def _column_of(self, path: YamlPath) -> str | None:
        while path:
            found = [column for field, column in self._columns.items() if field[: len(path)] == path]
            if found:
                return found[0]
            path = path[:-1]
        return None

    def _shown(self, line: int, problem: str) -> str:
        return f"{self.name}: row {line}: {problem}" if line else f"the rest of the configuration: {problem}"
