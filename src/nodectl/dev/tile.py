"""The program of the example wall, `python -m nodectl.dev.tile`: it shows one coloured tile for a node.

It reads the node's document from the file named in NODECTL_DOCUMENT, again whenever the file changes (and at once on
SIGHUP), writes the tile to `tile.txt` in its working directory, and prints it. It runs until SIGTERM.

It uses few modules of the standard library and nothing else, because one instance runs for every node.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time

_POLL_S = 0.1
_FILE = "tile.txt"
_DOCUMENT_BYTES_MAX = 1 << 20
_RESET = "\x1b[0m"

Stamp = tuple[int, int, int] | None
TileDocument = dict[str, object]


class Tile:
    """The shown document, and the version of the file it was read from."""

    def __init__(self, node: str, source: str) -> None:
        self._node = node
        self._source = source
        self._read: Stamp = None
        self._written: Stamp = None
        self._document: TileDocument | None = None
        self._last_logged = ""

    def refresh(self) -> None:
        """Read the document if its file has changed; write `tile.txt` again if that has changed or is missing."""
        stamp = _stamp(self._source)
        if stamp is not None and stamp != self._read:
            self._load(stamp)
        elif self._written is None or _stamp(_FILE) != self._written:
            self._show()

    def _load(self, stamp: Stamp) -> None:
        try:
            with open(self._source, "rb") as file:
                raw = file.read(_DOCUMENT_BYTES_MAX)
        except OSError as error:  # for example while it is replaced: the next refresh reads it
            self._log_once(f"cannot read {self._source}: {error}")
            return
        self._read = stamp
        try:
            found = json.loads(raw)
        except ValueError as error:  # keep the tile as it is
            self._log_once(f"{self._source} is not JSON: {error}")
            return
        self._document = found if isinstance(found, dict) else {}
        self._show()

    def _show(self) -> None:
        if self._document is None:
            return
        temporary = f"{_FILE}.new"
        try:
            with open(temporary, "w", encoding="utf-8") as file:
                file.write(encode(self._node, self._document))
            os.replace(temporary, _FILE)
        except OSError as error:  # a full disk, a missing directory: the next refresh tries again
            self._log_once(f"cannot write {_FILE}: {error}")
            return
        self._written = _stamp(_FILE)
        self._last_logged = ""
        print(render_tile(self._node, self._document), flush=True)

    def _log_once(self, text: str) -> None:
        if text != self._last_logged:
            print(text, flush=True)
        self._last_logged = text


def encode(node: str, document: TileDocument) -> str:
    """Return the content of tile.txt: lines `key: value`, values as JSON, the node first."""
    shown = {"node": node, **dict(sorted(document.items()))}
    return "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in shown.items())


def decode(text: str) -> TileDocument:
    """Return the document of a tile.txt, with the node. Raises ValueError for other text."""
    shown: TileDocument = {}
    for line in text.splitlines():
        key, separator, value = line.partition(": ")
        if not separator:
            raise ValueError(f"not a line of a tile: {line!r}")
        shown[key] = json.loads(value)
    return shown


def render_tile(node: str, document: TileDocument) -> str:
    """Return the tile as one line for a terminal, in the document's colour if it is valid."""
    text = f" {node} {document.get('text', '')} ".replace("\x1b", "")
    colour = rgb(document.get("colour"))
    if colour is None:
        return f"[{text}]"
    ink = 0 if luminance(colour) > 128 else 255
    return f"\x1b[48;2;{colour[0]};{colour[1]};{colour[2]}m\x1b[38;2;{ink};{ink};{ink}m{text}{_RESET}"


def rgb(colour: object) -> tuple[int, int, int] | None:
    """Return red, green and blue of a colour written as #rrggbb; None for anything else."""
    if not isinstance(colour, str) or len(colour) != 7 or colour[0] != "#":
        return None
    try:
        number = int(colour[1:], 16)
    except ValueError:
        return None
    return number >> 16, number >> 8 & 255, number & 255


def luminance(colour: tuple[int, int, int]) -> float:
    """Return the brightness of a colour, 0 to 255 (the weights of ITU-R BT.601)."""
    red, green, blue = colour
    return 0.299 * red + 0.587 * green + 0.114 * blue


def _stamp(path: str) -> Stamp:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _exit_on_signal(_number: int, _frame: object) -> None:
    raise SystemExit(0)


def main() -> int:
    source = os.environ.get("NODECTL_DOCUMENT")
    if not source:
        print("NODECTL_DOCUMENT is not set: run this program through noded's driver `process`", file=sys.stderr)
        return 2
    for name in ("SIGTERM", "SIGINT", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _exit_on_signal)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, lambda _number, _frame: tile.refresh())
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
    tile = Tile(os.environ.get("NODECTL_NODE", "?"), source)
    while True:
        tile.refresh()
        time.sleep(_POLL_S)


if __name__ == "__main__":
    sys.exit(main())
