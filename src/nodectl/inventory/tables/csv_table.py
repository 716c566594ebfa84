"""Reads a CSV file as spreadsheets write it: UTF-8 or UTF-16, with semicolons, commas or tabs between the cells."""

from __future__ import annotations

import codecs
import csv
import io
import sys
from collections.abc import Iterator
from pathlib import Path

from nodectl.inventory.tables.table import BYTES_MAX, CELL_CHARS_MAX, ROWS_MAX, SourceTable
from nodectl.inventory.yaml_source import STDIN, FileError

_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_DELIMITERS = ";,\t"
_HINT = "sep="


def read_csv(path: Path, encoding: str | None = None) -> SourceTable:
    """Read the CSV file at `path`, or stdin if it is `-`. The first row has the names of the columns.

    encoding: that of a file without a byte order mark; default UTF-8. Raises FileError if it is not a table.
    """
    name = "(stdin)" if path == STDIN else str(path)
    text = _decode(name, _read(path), encoding)
    skipped, text, delimiter = _split_hint(text)
    rows = _rows(name, text, delimiter or _delimiter(text), skipped)
    first = next(rows, None)
    if first is None:
        raise FileError([f"{name}: is empty: its first row must have the names of the columns"])
    return _table(name, tuple(cell.strip() for cell in first[1]), rows)


def _table(name: str, columns: tuple[str, ...], rows: Iterator[tuple[int, list[str]]]) -> SourceTable:
    found: list[tuple[int, tuple[str, ...]]] = []
    problems: list[str] = []
    for number, cells in rows:
        if len(found) == ROWS_MAX:
            raise FileError([f"{name}: row {number}: more than {ROWS_MAX} rows"])
        if any(cell.strip() for cell in cells[len(columns) :]):
            count = f"{len(cells)} cells, but row 1 names {len(columns)} columns"
            problems.append(f"{name}: row {number}: has {count}: put a text with a separator in double quotes")
        found.append((number, tuple(cells[: len(columns)])))
    if problems:
        raise FileError(problems)
    return SourceTable(name, columns, tuple(found))


def _read(path: Path) -> bytes:
    try:
        if path == STDIN:
            raw = sys.stdin.buffer.read(BYTES_MAX + 1) if sys.stdin is not None else b""
        else:
            with path.open("rb") as file:
                raw = file.read(BYTES_MAX + 1)
    except OSError as error:
        raise FileError([f"{path}: {error.strerror or error}"]) from None
    if len(raw) > BYTES_MAX:
        raise FileError([f"{path}: larger than {BYTES_MAX >> 20} MiB"])
    return raw


def _decode(name: str, raw: bytes, encoding: str | None) -> str:
    """The text of the file. A byte order mark decides; without one, `encoding` does, or else it must be UTF-8."""
    if raw.startswith(_UTF_16):
        used = "utf-16"
    elif raw.startswith(codecs.BOM_UTF8):
        used = "utf-8-sig"
    else:
        used = encoding or "utf-8"
    try:
        text = raw.decode(used)
    except LookupError:
        raise FileError([f"--encoding: {used!r} is not known here; for example utf-8, utf-16 or cp1252"]) from None
    except (UnicodeError, ValueError) as error:
        at = raw[: error.start].count(b"\n") + 1 if isinstance(error, UnicodeDecodeError) else 1
        hint = 'save it as "CSV UTF-8", or name its encoding, for example --encoding cp1252'
        raise FileError([f"{name}: line {at}: not {used}: {hint}"]) from None
    if "\0" in text:
        raise FileError(
            [f"{name}: has NUL characters, so it is not CSV, or UTF-16 without a mark: --encoding utf-16-le"]
        )
    return text


def _split_hint(text: str) -> tuple[int, str, str | None]:
    """Without a first line such as `sep=;`, which Excel obeys: how many rows that leaves out, the rest, and the `;`."""
    first, _, rest = text.partition("\n")
    first = first.rstrip("\r")
    if first.lower().startswith(_HINT) and len(first) == len(_HINT) + 1 and first[-1] in _DELIMITERS:
        return 1, rest, first[-1]
    return 0, text, None


def _delimiter(text: str) -> str:
    """What separates the cells: the candidate that occurs most often in the row of names, outside of quotes."""
    counts = dict.fromkeys(_DELIMITERS, 0)
    quoted = False
    for character in text[:CELL_CHARS_MAX]:
        if character == '"':
            quoted = not quoted
        elif character in "\r\n" and not quoted and any(counts.values()):
            break
        elif character in counts and not quoted:
            counts[character] += 1
    return max(counts, key=lambda delimiter: counts[delimiter])


def _rows(name: str, text: str, delimiter: str, skipped: int) -> Iterator[tuple[int, list[str]]]:
    """Number and cells of each row that is not empty."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    number = skipped
    while True:
        number += 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise FileError([f"{name}: row {number}: not CSV: {error}"]) from None
        if any(cell.strip() for cell in cells):
            yield number, cells
