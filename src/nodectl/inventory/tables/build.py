"""Makes an inventory from a table: its rows are the nodes, and everything else stays as it is.

The table sets the fields that the mapping names, and removes them where a cell is empty. Other fields of a node,
masters, defaults, settings, and the labels and documents of groups stay as they are in the current configuration.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from nodectl.inventory.file import InventoryFile, check_inventory
from nodectl.inventory.tables import cells
from nodectl.inventory.tables.cells import Column
from nodectl.inventory.tables.mapping import Mapping
from nodectl.inventory.tables.table import SourceTable
from nodectl.inventory.tables.table_source import TableSource
from nodectl.inventory.yaml_source import YamlPath
from nodestore.errors import Invalid
from nodestore.schema.keys import check_name

_TEXTS: tuple[YamlPath, ...] = (("address",), ("driver", "name"))
_Cell = Callable[[Column], Any]


def inventory_of(
    mapping: Mapping,
    table: SourceTable,
    current: dict[str, Any] | None,
    *,
    keep_others: bool = False,
    drivers: bool = True,
) -> InventoryFile:
    """The inventory that the table makes of the `current` one. Raises FileError with all mistakes, each with its row.

    keep_others: keep the nodes that the table does not name. drivers: also check the settings of drivers.
    """
    source = TableSource(mapping, table)
    data = copy.deepcopy(current or {})
    before = data.get("nodes") or {}
    builder = _Builder(mapping, source, data)
    for row, row_cells in table.rows:
        builder.add(row, _reader(table.columns, row_cells))
    data["nodes"] = {**(before if keep_others else {}), **builder.nodes}
    builder.set_groups()
    if not builder.nodes and not source.problems:
        source.add_cell_problem(1, None, "no row names a node")
    source.set_value(data)
    return check_inventory(source, drivers=drivers)


def _reader(columns: Sequence[str], row: Sequence[Any]) -> _Cell:
    """Returns the cell of a column; None if the row is too short."""
    found = dict(zip(columns, row, strict=False))

    def cell(column: Column) -> Any:
        return found.get(column.column) if column.column else column.value

    return cell


class _Builder:
    """Collects the nodes of the rows, and the groups that each row names."""

    def __init__(self, mapping: Mapping, source: TableSource, data: dict[str, Any]) -> None:
        self.nodes: dict[str, Any] = {}
        self._mapping = mapping
        self._source = source
        self._data = data
        self._groups: dict[str, list[str]] = {}  # nodes by group
        driver = (data.get("defaults") or {}).get("driver") or {}
        self._default_driver = driver.get("name")

    def add(self, row: int, cell: _Cell) -> None:
        """Add the node of a row, or the mistakes in it."""
        name = self._name(row, cell)
        if name is None:
            return
        node = copy.deepcopy((self._data.get("nodes") or {}).get(name) or {})
        driver_before = (node.get("driver") or {}).get("name")
        for path, column in self._mapping.fields.items():
            self._set(node, path, self._value(row, path, column, cell(column)))
        self._complete(node, driver_before)
        self._check_position(row, node)
        self.nodes[name] = node
        if self._mapping.groups is not None:
            self._add_groups(row, name, cell(self._mapping.groups))

    def _name(self, row: int, cell: _Cell) -> str | None:
        """The name of a row's node; None, with a problem, if it has none or that of another row."""
        column = self._mapping.name
        value = cell(column)
        if cells.is_empty(value):
            self._source.add_cell_problem(row, column.column, "is empty: it must have the name of the node")
            return None
        name = str(value).strip()
        try:
            check_name("node", name)
        except Invalid as error:
            self._source.add_cell_problem(row, column.column, str(error))
            return None
        first = self._source.set_row(("nodes", name), row)
        if first != row:
            self._source.add_cell_problem(row, column.column, f"node {name!r} is given twice, first in row {first}")
            return None
        return name

    def _value(self, row: int, path: YamlPath, column: Column, cell: Any) -> Any:
        """The value of a cell; None, which removes the field, if it is empty or, with a problem, wrong."""
        if column.column is None:
            return copy.deepcopy(column.value)
        if cells.is_empty(cell):
            return None
        try:
            if path[0] == "position":
                return cells.position(cell) if len(path) == 1 else cells.typed(cell, "integer")
            is_text = path in _TEXTS or path[0] == "labels"
            return cells.typed(cell, column.kind or ("text" if is_text else None))
        except ValueError as error:
            self._source.add_cell_problem(row, column.column, str(error))
            return None

    def _set(self, node: dict[str, Any], path: YamlPath, value: Any) -> None:
        """Set the field at `path`; remove it if the value is None, and then mappings that are empty."""
        if path == ("position", 0) or path == ("position", 1):
            if path[1] == 0:
                node["position"] = [None, None]
            node["position"][int(path[1])] = value
            return
        first, rest = str(path[0]), path[1:]
        if not rest:
            node.pop(first, None)
            if value is not None:
                node[first] = value
            return
        inner = node.get(first)
        inner = inner if isinstance(inner, dict) else {}
        self._set(inner, rest, value)
        node.pop(first, None)
        if inner:
            node[first] = inner

    def _complete(self, node: dict[str, Any], driver_before: str | None) -> None:
        """Settings without a driver are those of the default driver; settings of another driver do not stay."""
        driver = node.get("driver")
        if not isinstance(driver, dict):
            return
        if not driver.get("settings"):
            driver.pop("settings", None)
        mapped = {path[2] for path in self._mapping.fields if path[:2] == ("driver", "settings")}
        name = driver.get("name") or self._default_driver
        if driver_before not in (None, name) and "settings" in driver:
            driver["settings"] = {key: value for key, value in driver["settings"].items() if key in mapped}
        if "name" not in driver and driver.get("settings") and name is not None:
            node["driver"] = {"name": name, **driver}
        elif "name" not in driver and not driver.get("settings"):
            del node["driver"]

    def _check_position(self, row: int, node: dict[str, Any]) -> None:
        position = node.get("position")
        if position == [None, None]:
            del node["position"]
        elif isinstance(position, list) and None in position:
            missing = self._mapping.fields["position", position.index(None)].column
            if not self._source.has_failed(row):
                self._source.add_cell_problem(row, missing, "is empty: a position has a row and a column")
            del node["position"]

    def _add_groups(self, row: int, node: str, cell: Any) -> None:
        column = self._mapping.groups
        assert column is not None
        for group in [] if cells.is_empty(cell) else cells.names(cell):
            try:
                check_name("group", group)
            except Invalid as error:
                self._source.add_cell_problem(row, column.column, str(error))
                continue
            self._source.set_row(("groups", group), row)
            self._groups.setdefault(group, []).append(node)

    def set_groups(self) -> None:
        """Set which nodes each group lists. A node that is not in the configuration any more is in no group."""
        groups = self._data.get("groups") or {}
        for name in (*groups, *(name for name in self._groups if name not in groups)):
            group = groups.setdefault(name, {})
            listed = [node for node in group.get("nodes") or () if self._stays(node)]
            listed += [node for node in self._groups.get(name, ()) if node not in listed]
            if listed or group.get("nodes"):
                group["nodes"] = listed
        if groups:
            self._data["groups"] = groups

    def _stays(self, node: str) -> bool:
        """Whether the groups that list the node so far go on to list it."""
        if self._mapping.groups is not None and node in self.nodes:
            return False
        return node in self._data["nodes"]
