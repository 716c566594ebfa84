"""Writes data to stdout in the requested format, and everything else to stderr.

Tables are for people: on a terminal they are coloured and fitted to its width; in a pipe they are plain and not cut.
`json` and `yaml` contain all fields. `name` prints one name per line.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, TextIO

import typer

from nodectl.terminal.cursor import cursor_restored


class Format(StrEnum):
    """Format of the data on stdout."""

    table = "table"
    json = "json"
    yaml = "yaml"
    name = "name"


OutputOption = Annotated[Format, typer.Option("--output", "-o", help="Format of the data on stdout.")]


@dataclass(frozen=True, slots=True)
class Cell:
    """Text with a rich style, which a terminal shows as a colour."""

    text: str
    style: str = ""


_SENTENCES = {
    "ACTOR", "ADDRESS", "ARGUMENTS", "DESCRIPTION", "DOCUMENT", "ENDPOINT", "ERROR", "MEASURED", "NAMES", "PATH",
    "PROBLEM", "PROMISE", "RESULT", "TAKEOVER", "URL", "VALUE", "WHY",
}  # fmt: skip
"""Columns whose cells a terminal may wrap. The cells of other columns stay on one line."""
_SENTENCE_WIDTH_MIN = 20


@dataclass(slots=True)
class Table:
    """A table for people. Cells are text, or Cells with a style.

    optional: columns that a narrow terminal leaves out, the least important first.
    """

    columns: Sequence[str]
    rows: list[Sequence[str | Cell]] = field(default_factory=list)
    title: str = ""
    optional: Sequence[str] = ()

    def add(self, *cells: str | Cell) -> None:
        self.rows.append(cells)


class OutputLost(Exception):
    """Data cannot be written to stdout, and the command has changed nothing: it ends with exit code 1."""

    def __init__(self, reason: OSError | ValueError) -> None:
        super().__init__(str(reason))
        self.reason = reason


@dataclass(slots=True)
class Delivery:
    """Whether this process's command has changed something, and whether its data reached stdout.

    has_effect: the command has changed something. Then lost data does not change its exit code.
    lost: the error by which data for stdout was lost; None if none was.
    """

    has_effect: bool = False
    lost: OSError | ValueError | None = None

    def reset(self) -> None:
        self.has_effect, self.lost = False, None

    def mark_lost(self, reason: OSError | ValueError) -> None:
        """Record that data was not written. Raises OutputLost unless the command has changed something."""
        if not self.has_effect:
            raise OutputLost(reason) from None
        self.lost = self.lost or reason

    def explain_loss(self) -> str:
        """One line for stderr; empty if no line is needed, because the reader has closed the pipe."""
        if self.lost is None or getattr(self.lost, "errno", None) == errno.EPIPE:
            return ""
        reason = getattr(self.lost, "strerror", None) or self.lost
        done = "; the command itself was carried out" if self.has_effect else ""
        return f"the output cannot be written: {reason}{done}"


DELIVERY = Delivery()


class Output:
    """The output of one command."""

    def __init__(
        self, form: Format = Format.table, *, stdout: TextIO | None = None, stderr: TextIO | None = None
    ) -> None:
        self.form = form
        self.stdout = stdout or sys.stdout
        self.stderr = stderr or sys.stderr

    def took_effect(self) -> None:
        """Note that the command has changed something. From now on lost output does not change its exit code."""
        DELIVERY.has_effect = True

    # --- data -------------------------------------------------------------------------------------------------------

    def show(
        self,
        data: Any,
        *,
        tables: Callable[[], Sequence[Table]],
        names: Callable[[], Sequence[str]] | None = None,
    ) -> None:
        """Write `data` in the requested format. `tables` and `names` are called only if that format needs them."""
        if self.form is Format.json:
            self.write(as_json(data, ascii_only=needs_ascii(self.stdout)))
        elif self.form is Format.yaml:
            self.write(as_yaml(data))
        elif self.form is Format.name:
            self.write("".join(f"{name}\n" for name in (names() if names else ())))
        else:
            self._tables(tables())

    def write(self, text: str) -> None:
        """Write data. Raises OutputLost if that fails, unless the command has changed something."""
        with self._delivered():
            self.stdout.write(text)

    def write_line(self, text: str) -> None:
        """Write one line of a stream, and flush it. Raises OutputLost as `write` does."""
        self.write_at_once(f"{text}\n")

    def write_at_once(self, text: str) -> None:
        """Write a part of a stream, and flush it. Raises OutputLost as `write` does."""
        with self._delivered():
            self.stdout.write(text)
            self.stdout.flush()

    @contextmanager
    def _delivered(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # ValueError: stdout is closed
            DELIVERY.mark_lost(error)

    def _tables(self, tables: Sequence[Table]) -> None:
        coloured = is_terminal(self.stdout)
        for position, table in enumerate(tables):
            if position:
                self.write("\n")
            if coloured:
                with self._delivered():
                    self._rich_table(table)
            else:
                self.write(plain_table(table))

    def _rich_table(self, table: Table) -> None:
        from rich.console import Console
        from rich.table import Table as RichTable
        from rich.text import Text

        console = Console(file=self.stdout)
        table, wrapped = fitted(table, console.width)
        shown = RichTable(
            box=None, header_style="bold", title=table.title or None, title_justify="left", pad_edge=False
        )
        for column in table.columns:
            shown.add_column(column, overflow="fold", no_wrap=not wrapped(column))
        for row in table.rows:
            cells = (cell if isinstance(cell, Cell) else Cell(cell) for cell in row)
            shown.add_row(*(Text(escape_misleading(cell.text), style=cell.style) for cell in cells))
        console.print(shown)

    def diff(self, lines: Sequence[str]) -> None:
        """Write a unified diff, coloured on a terminal."""
        if not is_terminal(self.stdout):
            self.write("".join(f"{line}\n" for line in lines))
            return
        from rich.console import Console
        from rich.text import Text

        console = Console(file=self.stdout)
        styles = {"+": "green", "-": "red", "@": "cyan"}
        with self._delivered():
            for line in lines:
                console.print(Text(line, style=styles.get(line[:1], "")), soft_wrap=True)

    # --- messages ---------------------------------------------------------------------------------------------------

    def note(self, text: str) -> None:
        """Write a message for people to stderr."""
        self._message(text, "")

    def warn(self, text: str) -> None:
        self._message(text, "yellow", "warning: ")

    def problem(self, text: str, hint: str = "") -> None:
        """Write an error and, on a line of its own, a hint what to do."""
        self._message(text, "bold red", "error: " if "\n" not in text else "")
        if hint:
            self._message(f"  {hint}", "")

    def _message(self, text: str, style: str, label: str = "") -> None:
        """Write a message to stderr. An error of that write is ignored, and does not change the exit code."""
        text = "\n".join(escape_misleading(line) for line in text.split("\n"))
        with contextlib.suppress(OSError, ValueError):
            if style and is_terminal(self.stderr) and not os.environ.get("NO_COLOR"):
                from rich.console import Console
                from rich.text import Text

                Console(file=self.stderr).print(Text.assemble((label, style), text), soft_wrap=True)
            else:
                self.stderr.write(f"{label}{text}\n")

    @contextmanager
    def progress(self, text: str) -> Iterator[Callable[[str], None]]:
        """Show `text` while the block runs. The yielded function replaces it. In a pipe, only `text` is printed."""
        if not is_terminal(self.stderr):
            self.note(text)
            yield lambda _: None
            return
        from rich.console import Console

        console = Console(file=self.stderr)
        with cursor_restored(self.stderr), console.status(escape_misleading(text)) as status:
            yield lambda new: status.update(escape_misleading(new))


def fitted(table: Table, width: int) -> tuple[Table, Callable[[str], bool]]:
    """The table without the optional columns for which `width` has no room, and whether a column's cells may wrap."""
    left_out: set[str] = set()
    for column in (*table.optional, None):
        if _width_min(table, left_out) <= width:
            shown = [at for at, name in enumerate(table.columns) if name not in left_out]
            rows: list[Sequence[str | Cell]] = [[row[at] for at in shown] for row in table.rows]
            return Table([table.columns[at] for at in shown], rows, table.title), _SENTENCES.__contains__
        if column is not None:
            left_out.add(column)
    return table, lambda _: True


def _width_min(table: Table, left_out: set[str]) -> int:
    """The least width in columns of a terminal, two spaces between columns included."""
    total = 0
    for at, name in enumerate(table.columns):
        if name in left_out:
            continue
        texts = [name, *(cell.text if isinstance(cell, Cell) else cell for cell in (row[at] for row in table.rows))]
        widest = max(display_width(escape_misleading(text)) for text in texts)
        total += 2 + (min(widest, _SENTENCE_WIDTH_MIN) if name in _SENTENCES else widest)
    return max(0, total - 2)


def is_terminal(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def plain_table(table: Table) -> str:
    """Format a table as text, with columns padded with spaces and nothing cut."""
    texts = [list(table.columns)]
    texts += [[escape_misleading(cell.text if isinstance(cell, Cell) else cell) for cell in row] for row in table.rows]
    widths = [max(display_width(row[column]) for row in texts) for column in range(len(table.columns))]
    lines = [
        "  ".join(text + " " * (width - display_width(text)) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in texts
    ]
    head = [table.title] if table.title else []
    return "".join(f"{line}\n" for line in (*head, *lines))


_MISLEADING = re.compile("[\x00-\x1f\x7f-\x9f\xad\u061c\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")
"""Characters that move the cursor, change the direction of text, or are invisible. They are always escaped."""


def escape_misleading(text: str) -> str:
    """Replace each misleading character in `text` by its escape, such as `\\u202e`."""
    if text.isascii() and text.isprintable():
        return text
    return _MISLEADING.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


def escape_lines(text: str) -> str:
    """Replace misleading characters in `text`, but keep the ends of lines and tabs."""
    return _MISLEADING.sub(lambda found: found[0] if found[0] in "\n\t" else escape_misleading(found[0]), text)


def display_width(text: str) -> int:
    """How many terminal columns `text` takes: two for a wide character, none for a combining one."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def as_json(data: Any, *, ascii_only: bool = False) -> str:
    """Format `data` as indented JSON. ascii_only: characters outside ASCII are escaped."""
    import json

    return json.dumps(data, indent=2, ensure_ascii=ascii_only) + "\n"


def needs_ascii(stream: TextIO, platform: str = sys.platform) -> bool:
    """Whether JSON for `stream` must be ASCII: the reader of a pipe on Windows may expect any code page."""
    return platform == "win32" and not stream.isatty()


def as_yaml(data: Any) -> str:
    """Format `data` as YAML, with keys in the given order."""
    import yaml

    return str(yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120))
