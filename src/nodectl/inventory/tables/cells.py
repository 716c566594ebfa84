"""Converts the cells of a table to the values of an inventory."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

from nodectl.inventory.yaml_source import YamlPath

_INTEGER = re.compile(r"[-+]?[0-9]{1,300}")
_NUMBER = re.compile(r"[-+]?(?:[0-9]{1,300}(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?")
_POSITION = re.compile(r"\s*(-?[0-9]{1,9})\s*[,;:/ ]\s*(-?[0-9]{1,9})\s*")
_TRUE = {"true", "yes", "1"}
_FALSE = {"false", "no", "0"}


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table and the type of its cells; or, without a column, a `value` for all rows.

    where: its place in the mapping file. kind: one of TYPES; None: that of the table, which is text for CSV.
    """

    where: YamlPath = ()
    column: str | None = None
    kind: str | None = None
    value: Any = None


def is_empty(cell: Any) -> bool:
    """Whether a cell sets nothing."""
    return cell is None or (isinstance(cell, str) and not cell.strip())


def typed(cell: Any, kind: str | None) -> Any:
    """The value of a cell that is not empty. Raises ValueError if it has not the type `kind`."""
    value = plain(cell)
    if kind is None:
        return value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).lower() if isinstance(value, bool) else str(value).strip()
    return TYPES[kind](text)


def plain(cell: Any) -> Any:
    """The value of a cell in the types of JSON. Raises ValueError if it has none."""
    if isinstance(cell, str):
        return cell.strip()
    if isinstance(cell, Decimal):
        if not cell.is_finite():
            raise ValueError("expected a finite number")
        return int(cell) if cell == cell.to_integral_value() else float(cell)
    if isinstance(cell, datetime | date | time):
        return cell.isoformat()
    if isinstance(cell, UUID):
        return str(cell)
    if isinstance(cell, list | tuple):
        return [plain(item) for item in cell]
    if isinstance(cell, dict):
        return {str(key): plain(item) for key, item in cell.items()}
    if cell is None or isinstance(cell, bool | int | float):
        return cell
    raise ValueError(f"a value of the type {type(cell).__name__} cannot be imported")


def position(cell: Any) -> list[int]:
    """Row and column of a cell such as `2,1`. Raises ValueError."""
    found = _POSITION.fullmatch(str(cell))
    if found is None:
        raise ValueError(f"expected row and column, such as 2,1, got {shown(cell)}")
    return [int(found[1]), int(found[2])]


def names(cell: Any) -> list[str]:
    """The names in a cell, separated by commas, semicolons or spaces, each once."""
    return list(dict.fromkeys(re.split(r"[,;\s]+", str(cell).strip())))


def shown(cell: Any) -> str:
    """A cell as a message quotes it."""
    text = repr(cell)
    return text if len(text) <= 60 else text[:57] + "..."


def _integer(text: str) -> int:
    if not _INTEGER.fullmatch(text):
        raise ValueError(f"expected a whole number, got {shown(text)}")
    return int(text)


def _number(text: str) -> int | float:
    if not _NUMBER.fullmatch(text):
        hint = " (with a point, not a comma)" if "," in text else ""
        raise ValueError(f"expected a number{hint}, got {shown(text)}")
    number = int(text) if _INTEGER.fullmatch(text) else float(text)
    if not math.isfinite(number):
        raise ValueError(f"expected a finite number, got {shown(text)}")
    return number


def _boolean(text: str) -> bool:
    if text.lower() not in _TRUE | _FALSE:
        raise ValueError(f"expected true or false, yes or no, 1 or 0, got {shown(text)}")
    return text.lower() in _TRUE


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _json(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected JSON, got {shown(text)}: {error}") from None


TYPES: dict[str, Callable[[str], Any]] = {
    "text": str, "integer": _integer, "number": _number, "boolean": _boolean, "json": _json,
}  # fmt: skip
"""The types that a mapping may give a column, and how a cell's text becomes such a value."""
