"""The wall as its nodes show it: read from each node's tile.txt, rendered in colour or as plain text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nodectl.dev import tile

if TYPE_CHECKING:
    from rich.text import Text

_WIDTH = 16
_DARK = (0x20, 0x24, 0x2C)

RAINBOW = (
    ("#e63946", "one"), ("#f3722c", "two"), ("#f9c74f", "three"), ("#90be6d", "four"), ("#43aa8b", "five"),
    ("#2a9d8f", "six"), ("#277da1", "seven"), ("#5a4fcf", "eight"), ("#9d4edd", "nine"),
)  # fmt: skip
SUNRISE = (
    ("#2b3a67", ""), ("#496a9f", "*"), ("#2b3a67", ""), ("#e0777d", ""), ("#ffd166", "morning"), ("#e0777d", ""),
    ("#1b4332", ""), ("#2d6a4f", "hills"), ("#1b4332", ""),
)  # fmt: skip

Grid = list[list[str | None]]
"""Node names by row and column."""


def scene_documents(tiles: tuple[tuple[str, str], ...], nodes: list[str]) -> dict[str, dict[str, Any]]:
    """Return a scene's documents for any number of nodes; the colours and texts of `tiles` repeat."""
    picked = {node: tiles[position % len(tiles)] for position, node in enumerate(nodes)}
    return {node: {"colour": colour, "text": text} for node, (colour, text) in picked.items()}


def read_tile(work_dir: Path) -> dict[str, Any] | None:
    """Return the document that a node's program shows; None if there is no complete tile."""
    try:
        return tile.decode((work_dir / "tile.txt").read_text("utf-8"))
    except (OSError, ValueError):
        return None


def tile_shows(work_dir: Path, document: Mapping[str, Any]) -> bool:
    """Return whether a node's program shows at least the values of `document`."""
    found = read_tile(work_dir)
    return found is not None and all(found.get(key) == value for key, value in document.items())


def grid(positions: Mapping[str, tuple[int, int] | None]) -> Grid:
    """Arrange nodes by their configured positions; those without a position are in a last row."""
    placed = {position: node for node, position in positions.items() if position is not None}
    rows = max((row for row, _ in placed), default=-1) + 1
    columns = max((column for _, column in placed), default=-1) + 1
    laid: Grid = [[placed.get((row, column)) for column in range(columns)] for row in range(rows)]
    loose: list[str | None] = [node for node, position in positions.items() if position is None]
    return [*laid, loose] if loose else laid


def render_plain(laid: Grid, tiles: Mapping[str, Mapping[str, Any] | None]) -> list[str]:
    """Render the wall in ASCII, for every terminal and file."""
    border = ("+" + "-" * _WIDTH) * max(map(len, laid)) + "+"
    lines = [border]
    for row in laid:
        upper = (f" {node or ''}" for node in row)
        lower = (f" {_caption(tiles.get(node) if node else None)}" for node in row)
        lines += ["|" + "|".join(cell[:_WIDTH].ljust(_WIDTH) for cell in cells) + "|" for cells in (upper, lower)]
        lines.append(border)
    return lines


def _caption(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "(dark)"
    return f"{found.get('colour', '')} {found.get('text', '')}".strip()


def render_coloured(laid: Grid, tiles: Mapping[str, Mapping[str, Any] | None]) -> list[Text]:
    """Render the wall in colour, two lines for each row."""
    from rich.text import Text

    lines = []
    for row in laid:
        upper, lower = Text("  "), Text("  ")
        for node in row:
            found = tiles.get(node) if node else None
            text = str(found.get("text", "")) if found else "(dark)"
            style = _style(found)
            upper.append(f" {node or ''}".ljust(_WIDTH), style).append(" ")
            lower.append(text[: _WIDTH - 2].center(_WIDTH), style).append(" ")
        lines += [upper, lower]
    return lines


def _style(found: Mapping[str, Any] | None) -> str:
    colour = (tile.rgb(found.get("colour")) if found else None) or _DARK
    ink = "black" if tile.luminance(colour) > 128 else "white"
    return f"{ink} on #{colour[0]:02x}{colour[1]:02x}{colour[2]:02x}"
