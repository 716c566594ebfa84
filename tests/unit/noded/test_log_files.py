"""Pieces of a log: its last lines, and what follows a position, while the files grow, rotate and are truncated."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from noded.program_log import log_files
from noded.program_log.log_files import (
    NO_FILE,
    PIECE_BYTES_MAX,
    Position,
    RawPiece,
    parse_position,
    read_after,
    read_tail,
)
from nodestore.errors import Invalid, NodectlError, NotFound


class Log:
    """A log of two files, which rotates as LogFile does."""

    def __init__(self, directory: Path) -> None:
        self.newest, self.older = directory / "program.log", directory / "program.log.1"
        self.paths = (self.newest, self.older)

    def append(self, content: bytes) -> None:
        with self.newest.open("ab") as file:
            file.write(content)

    def rotate(self) -> None:
        self.newest.replace(self.older)

    def tail(self, lines: int) -> RawPiece:
        return read_tail(self.paths, lines)

    def after(self, piece: RawPiece, *, incomplete: bool = False) -> RawPiece:
        return read_after(self.paths, parse_position(piece.position), incomplete=incomplete)


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


def _lines(first: int, last: int) -> bytes:
    return b"".join(b"line %d\n" % number for number in range(first, last + 1))


def _read_on(log: Log, piece: RawPiece) -> bytes:
    """Read from `piece` on until the end."""
    content = piece.content
    while not piece.at_end:
        piece = log.after(piece, incomplete=True)
        content += piece.content
    return content


# --- the last lines -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "expected"),
    [(0, b""), (1, b"line 9\n"), (2, _lines(8, 9)), (6, _lines(4, 9)), (7, _lines(3, 9)), (99, _lines(1, 9))],
)
def test_the_last_lines_are_those_of_both_files(log: Log, lines: int, expected: bytes) -> None:
    log.append(_lines(1, 5))
    log.rotate()
    log.append(_lines(6, 9))
    assert _read_on(log, log.tail(lines)) == expected


def test_a_last_line_without_its_end_counts(log: Log) -> None:
    log.append(b"one\ntwo\nthr")
    assert log.tail(2).content == b"two\nthr"


def test_a_line_that_was_cut_by_a_rotation_is_one_line(log: Log) -> None:
    log.append(b"one\ntw")
    log.rotate()
    log.append(b"o\nthree\n")
    assert _read_on(log, log.tail(2)) == b"two\nthree\n"


def test_empty_and_missing_files_have_no_lines(log: Log) -> None:
    missing = log.tail(5)
    assert missing == RawPiece(b"", NO_FILE, True)
    assert log.after(missing) == missing
    log.append(b"")
    assert log.tail(5).content == b""
    log.append(_lines(1, 2))
    assert log.after(missing).content == _lines(1, 2)


def test_the_search_for_the_first_line_is_limited(log: Log) -> None:
    log.append(b"x" * 99 + b"\n")
    for _ in range(5):
        log.append((b"y" * 99 + b"\n") * 10_000)
    piece = log.tail(60_000)
    assert "only the last 4 MiB" in piece.note
    content = _read_on(log, piece)
    assert content.startswith(b"y" * 99 + b"\n")
    assert log_files.SCAN_BYTES_MAX - 100 <= len(content) <= log_files.SCAN_BYTES_MAX + PIECE_BYTES_MAX


# --- what follows ---------------------------------------------------------------------------------------------------


def test_each_line_is_read_once(log: Log) -> None:
    log.append(_lines(1, 3))
    piece = log.tail(1)
    log.append(_lines(4, 5))
    piece = log.after(piece)
    assert (piece.content, piece.at_end) == (_lines(4, 5), True)
    assert log.after(piece).content == b""


def test_a_rotation_loses_and_doubles_nothing(log: Log) -> None:
    """The rest of the renamed file is read first, also if it ends within a line."""
    log.append(_lines(1, 3))
    piece = log.tail(1)
    log.append(b"line 4\nlin")
    log.rotate()
    log.append(b"e 5\n")
    piece = log.after(piece)
    assert (piece.content, piece.at_end, piece.note) == (b"line 4\nlin", False, "")
    assert log.after(piece).content == b"e 5\n"


def test_two_rotations_between_two_pieces_are_mentioned(log: Log) -> None:
    """The inode of the file that was read is used again by a new one, as file systems do."""
    log.append(_lines(1, 30))
    piece = log.tail(1)
    position = parse_position(piece.position)
    assert position is not None
    log.rotate()
    log.append(_lines(31, 60))
    log.rotate()
    log.append(_lines(61, 90))
    reused = Position(log.newest.stat().st_ino, position.offset, position.crc)
    for lost in (position, reused):
        found = read_after(log.paths, lost, incomplete=False)
        assert "lines may be missing" in found.note
        assert _read_on(log, found) == _lines(31, 90)


def test_a_truncated_file_is_read_from_its_beginning(log: Log) -> None:
    log.append(_lines(1, 30))
    piece = log.tail(1)
    log.newest.write_bytes(b"anew\n")
    found = log.after(piece)
    assert (found.content, "lines may be missing" in found.note) == (b"anew\n", True)
    log.newest.write_bytes(_lines(101, 160))  # grown beyond the position since
    assert log.after(piece).content == _lines(101, 160)


def test_a_copy_before_a_truncation_is_continued(log: Log) -> None:
    """As logrotate's copytruncate does: what was read already is in the copy."""
    log.append(_lines(1, 30))
    piece = log.tail(1)
    log.append(_lines(31, 31))
    log.older.write_bytes(log.newest.read_bytes())
    log.newest.write_bytes(_lines(32, 32))
    assert _read_on(log, log.after(piece)) == _lines(31, 32)


# --- incomplete lines -----------------------------------------------------------------------------------------------


def test_an_incomplete_line_is_held_back(log: Log) -> None:
    log.append(_lines(1, 1))
    piece = log.tail(0)
    log.append(b"two\nthr")
    piece = log.after(piece)
    assert (piece.content, piece.held) == (b"two\n", 3)
    assert log.after(piece).content == b""
    assert log.after(piece, incomplete=True).content == b"thr"


@pytest.mark.parametrize("rest", [b"\xe2\x82", b"\xe2", b"\xf0\x9f\x98", b"\xc3", b"\r"])
def test_a_character_is_not_cut(log: Log, rest: bytes) -> None:
    log.append(b"ab" + rest)
    piece = log.tail(1)
    assert (piece.content, piece.held) == (b"ab", len(rest))


def test_a_line_longer_than_a_piece_comes_in_pieces(log: Log) -> None:
    log.append("€".encode() * 50_000 + b"\nend\n")
    piece = log.tail(2)
    sizes = [len(piece.content)]
    content = piece.content
    while not piece.at_end:
        piece = log.after(piece)
        piece.content.decode()
        sizes.append(len(piece.content))
        content += piece.content
    assert content == log.newest.read_bytes()
    assert max(sizes) <= PIECE_BYTES_MAX


# --- files that cannot be read --------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="Windows has no named pipes in directories")
def test_a_named_pipe_is_refused(log: Log) -> None:
    """Reading it would take the output from its reader."""
    os.mkfifo(log.newest)
    with pytest.raises(NotFound, match="not a regular file"):
        log.tail(1)


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NodectlError, match="cannot read the log"):
        read_tail((tmp_path / "file" / "program.log",), 1)


@pytest.mark.parametrize("text", ["", "1", "x-1-00000000", "1-1-1", "1-" + "9" * 19 + "-00000000", "../etc/passwd"])
def test_a_malformed_position_is_invalid(text: str) -> None:
    with pytest.raises(Invalid):
        parse_position(text)


def test_a_position_is_read_back(log: Log) -> None:
    log.append(_lines(1, 3))
    text = log.tail(1).position
    assert str(parse_position(text)) == text
