"""Reads pieces of a log: its last lines, or what follows a position. Blocking: to be called on a thread.

A log is a list of files to which a program only appends. When the newest file is full, it is renamed, and an older one
is replaced or deleted. So a position identifies its file by the inode, and by the CRC of the bytes before it: an inode
is used again, and a file may be truncated in place.
"""

from __future__ import annotations

import os
import re
import stat
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from nodestore.errors import Invalid, NodectlError, NotFound

PIECE_BYTES_MAX = 64 << 10
SCAN_BYTES_MAX = 4 << 20
"""How far back from the end `read_tail` searches for the beginning of the last lines."""
NO_FILE = "none"
"""The position in a log that has no file yet."""
_CHECKED_BYTES = 64
_POSITION = re.compile(r"([0-9a-f]{1,32})-([0-9]{1,18})-([0-9a-f]{8})")
_LOST = "lines may be missing here: the log was replaced since the last piece was read"
_SCAN_LIMIT = f"earlier lines are left out: only the last {SCAN_BYTES_MAX >> 20} MiB are searched"


@dataclass(frozen=True)
class Position:
    """A place in a log. crc: of the up to 64 bytes before `offset`."""

    inode: int
    offset: int
    crc: int

    def __str__(self) -> str:
        return f"{self.inode:x}-{self.offset}-{self.crc:08x}"


def parse_position(text: str) -> Position | None:
    """Parse the text of a position; None for NO_FILE. Raises Invalid."""
    if text == NO_FILE:
        return None
    found = _POSITION.fullmatch(text)
    if found is None:
        raise Invalid(f"after: {text[:80]!r} is not a position in a log")
    return Position(int(found[1], 16), int(found[2]), int(found[3], 16))


@dataclass(frozen=True)
class RawPiece:
    """A piece of a log. position: where the next piece begins. at_end: whether the log had no more bytes then.

    held: the number of bytes of an incomplete last line that were left out. note: what the reader must know, or "".
    """

    content: bytes = b""
    position: str = NO_FILE
    at_end: bool = True
    held: int = 0
    note: str = ""


class _OpenFile:
    """One file of the log, as long as it was when it was opened."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        found = os.fstat(stream.fileno())
        self.inode, self.size = found.st_ino, found.st_size

    def read(self, offset: int, count: int) -> bytes:
        self._stream.seek(offset)
        return self._stream.read(min(count, max(0, self.size - offset)))

    def position(self, offset: int) -> Position:
        begin = max(0, offset - _CHECKED_BYTES)
        return Position(self.inode, offset, zlib.crc32(self.read(begin, offset - begin)))

    def has(self, position: Position) -> bool:
        """Whether the bytes before `position` are those that were there when the position was made."""
        return position.offset <= self.size and self.position(position.offset).crc == position.crc

    def blocks_from_end(self) -> Iterator[tuple[int, bytes]]:
        """Yield the offset and the content of each block, the last one first."""
        end = self.size
        while end > 0:
            begin = max(0, end - PIECE_BYTES_MAX)
            yield begin, self.read(begin, end - begin)
            end = begin


def read_tail(paths: Sequence[Path], lines: int) -> RawPiece:
    """Read the first piece of the last `lines` lines. paths: the files of the log, the newest first.

    Raises NotFound if a path is not a regular file, and NodectlError if it cannot be read.
    """
    with ExitStack() as exits:
        files = _open(paths, exits)
        if not files:
            return RawPiece()
        at, offset, note = _begin_of_tail(files, lines)
        return _read_from(files, at, offset, note=note, incomplete=True)


def read_after(paths: Sequence[Path], position: Position | None, *, incomplete: bool) -> RawPiece:
    """Read what follows `position` (None: the log had no file). incomplete: include a last line without its end.

    Raises what `read_tail` raises.
    """
    with ExitStack() as exits:
        files = _open(paths, exits)
        if not files:
            return RawPiece(position=NO_FILE if position is None else str(position))
        at, offset, note = _find(files, position)
        return _read_from(files, at, offset, note=note, incomplete=incomplete)


def _open(paths: Sequence[Path], exits: ExitStack) -> list[_OpenFile]:
    """Open the files that exist; return them with the oldest first.

    The newest is opened first. If it is renamed meanwhile, it is opened twice instead of not at all.
    """
    files: dict[int, _OpenFile] = {}
    for path in paths:
        try:
            if not stat.S_ISREG(path.stat().st_mode):  # a named pipe would lose what is read from it
                raise NotFound(f"{path} is not a regular file, so it cannot be read as a log")
            file = _OpenFile(exits.enter_context(path.open("rb")))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise NodectlError(f"cannot read the log {path}: {error.strerror or error}") from None
        files.setdefault(file.inode, file)
    return list(files.values())[::-1]


def _find(files: list[_OpenFile], position: Position | None) -> tuple[int, int, str]:
    """Return the index of the file and the offset at which to continue, and a note if bytes may be missing."""
    if position is None:
        return 0, 0, ""
    for at, file in enumerate(files):
        if file.inode == position.inode and file.has(position):
            return at, position.offset, ""
    for at, file in enumerate(files):  # a rotation may copy the file, then truncate it
        if position.offset >= _CHECKED_BYTES and file.has(position):
            return at, position.offset, ""
    return 0, 0, _LOST


def _begin_of_tail(files: list[_OpenFile], lines: int) -> tuple[int, int, str]:
    """Return where the last `lines` lines of the whole log begin, as `_find` does."""
    if lines == 0:
        return len(files) - 1, files[-1].size, ""
    seen = scanned = 0
    for at in reversed(range(len(files))):
        for begin, block in files[at].blocks_from_end():
            # the newline at the very end ends the last line; it begins none
            stop = len(block) - (scanned == 0 and block.endswith(b"\n"))
            while (newline := block.rfind(b"\n", 0, stop)) >= 0:
                seen += 1
                if seen == lines:
                    return at, begin + newline + 1, ""
                stop = newline
            scanned += len(block)
            if scanned >= SCAN_BYTES_MAX:
                return at, begin + block.find(b"\n") + 1, _SCAN_LIMIT
    return 0, 0, ""


def _read_from(files: list[_OpenFile], at: int, offset: int, *, note: str, incomplete: bool) -> RawPiece:
    while at + 1 < len(files) and offset >= files[at].size:
        at, offset = at + 1, 0
    file, is_newest = files[at], at + 1 == len(files)
    found = file.read(offset, PIECE_BYTES_MAX)
    reaches_end = offset + len(found) >= file.size
    # nothing is appended any more to a file that is not the newest
    count = _deliverable(found, incomplete=reaches_end and (incomplete or not is_newest))
    if count == 0 and not is_newest:
        count = len(found)
    return RawPiece(
        content=found[:count],
        position=str(file.position(offset + count)),
        at_end=is_newest and reaches_end,
        held=len(found) - count,
        note=note,
    )


def _deliverable(found: bytes, *, incomplete: bool) -> int:
    """How many bytes to deliver: whole lines, unless the last line may be incomplete or is longer than a piece."""
    whole = found.rfind(b"\n") + 1
    if not incomplete and (whole or len(found) < PIECE_BYTES_MAX):
        return whole
    return len(found) - _cut_off(found)


def _cut_off(found: bytes) -> int:
    """How many bytes to leave for the next piece: an incomplete character in UTF-8, or a CR whose LF may follow."""
    if found.endswith(b"\r"):
        return 1
    for count in range(1, min(4, len(found) + 1)):
        byte = found[-count]
        if byte & 0xC0 != 0x80:  # the first byte of a character
            length = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
            return count if length > count else 0
    return 0
