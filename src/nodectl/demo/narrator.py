"""The demo's output, line by line as things happen: in colour on a terminal, else plain and flushed at each line."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from nodectl.demo import wall
from nodectl.terminal.output import is_terminal
from nodectl.workload.verdicts import Promise

_WIDTH_MAX = 100
_FILE_WIDTH = 80


class Narrator:
    """Writes to one stream. Its methods raise OSError if the reader or the terminal has closed it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._coloured = is_terminal(stream)
        self._width = min(_WIDTH_MAX, shutil.get_terminal_size().columns) if self._coloured else _FILE_WIDTH

    def title(self, text: str) -> None:
        self._write(text, "bold")

    def act(self, number: int, text: str) -> None:
        self._write("")
        self._write(f"{number}. {text}", "bold cyan")

    def line(self, text: str, style: str = "") -> None:
        """Print one event, wrapped and indented."""
        for line in _wrapped(text, self._width - 1, "   ", "     "):
            self._write(line, style)

    def verbatim(self, text: str = "", style: str = "") -> None:
        """Print text without wrapping: commands to copy, logs."""
        self._write(text, style)

    def wall(self, laid: wall.Grid, tiles: Mapping[str, Mapping[str, Any] | None]) -> None:
        if not self._coloured:
            for line in wall.render_plain(laid, tiles):
                self._write(f"   {line}")
            return
        from rich.console import Console

        console = Console(file=self._stream, width=max(self._width, 60))
        for text in wall.render_coloured(laid, tiles):
            console.print(text, no_wrap=True)
        self._stream.flush()

    def table(self, promises: Sequence[Promise]) -> None:
        """Print the table of promises: measurement and verdict, and under each broken promise its faults."""
        self._write("")
        left = min(30, self._width // 3)
        right = self._width - left - 12
        self._row("PROMISE", "MEASURED", "", left, right, "bold")
        for promise in promises:
            held = promise.held
            word = "held" if held else "BROKEN" if promise.was_tested else "not tried"
            self._row(promise.text, promise.measured, word, left, right, "green" if held else "bold red")
            for fault in promise.faults:
                for line in _wrapped(fault, self._width - 4, "  ! ", "    "):
                    self._write(line, "red")

    def _row(self, text: str, measured: str, word: str, left: int, right: int, style: str) -> None:
        first, second = _wrapped(text, left) or [""], _wrapped(measured, right) or [""]
        for number in range(max(len(first), len(second))):
            one = first[number] if number < len(first) else ""
            two = second[number] if number < len(second) else ""
            verdict = word if number == 0 else ""
            self._write(f"{one:<{left}} {two:<{right}} ".rstrip() if not verdict else f"{one:<{left}} {two:<{right}} ",
                        "bold" if not word else "", verdict, style)  # fmt: skip

    def _write(self, text: str, style: str = "", tail: str = "", tail_style: str = "") -> None:
        if self._coloured and (style or tail_style):
            from rich.console import Console
            from rich.text import Text

            Console(file=self._stream).print(Text.assemble((text, style), (tail, tail_style)), soft_wrap=True)
        else:
            self._stream.write(f"{text}{tail}\n")
        self._stream.flush()


def _wrapped(text: str, width: int, first: str = "", rest: str = "") -> list[str]:
    """Wrap text to `width` characters; keep paths and names whole, so that they can be copied."""
    return textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )
