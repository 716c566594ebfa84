"""A table as it was read: the names of its columns, and its rows with their numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

ROWS_MAX = 10_000
BYTES_MAX = 16 << 20
CELL_CHARS_MAX = 100_000


@dataclass(frozen=True, slots=True)
class SourceTable:
    """The content of a table.

    rows: number and cells of each row that is not empty. The number is the one that a spreadsheet shows, so that the
    row with the names is row 1; for a database it counts the rows of the answer from 1. A row may have fewer cells
    than there are columns.
    """

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[int, tuple[Any, ...]], ...]
