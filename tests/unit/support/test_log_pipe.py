"""The log of a daemon: never does its reader delay the daemon."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodestore.support import log_pipe
from nodestore.support.log_pipe import LogPipe, unblocking

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pipes")


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    yield reader, writer
    os.close(reader)
    os.close(writer)


def read_all(reader: int) -> list[str]:
    content = b""
    while True:
        try:
            content += os.read(reader, 1 << 20)
        except BlockingIOError:
            return content.decode().splitlines()


def test_a_reader_that_takes_nothing_delays_no_line(pipe: tuple[int, int]) -> None:
    """An hour of lines: the buffer stays bounded, and what comes out later is a beginning, the count, and the end."""
    reader, writer = pipe
    log = logging.Logger("daemon")
    stream = LogPipe(writer)
    log.addHandler(logging.StreamHandler(stream))
    for number in range(36_000):
        log.info("line %06d of an hour", number)
    assert stream._buffered_bytes <= log_pipe._BUFFER_BYTES_MAX  # private: nothing public shows that it is bounded
    lines = read_all(reader)
    log.info("again")
    lines += read_all(reader)
    while lines[-1] != "again":
        log.info("again")
        lines += read_all(reader)
    note = next(at for at, line in enumerate(lines) if "were dropped" in line)
    assert lines[:note] == [f"line {number:06d} of an hour" for number in range(note)]
    dropped = int(lines[note].split()[0].strip("("))
    assert note + dropped + len(lines) - note - 1 >= 36_000
    assert set(lines[note + 1 :]) == {"again"}


def test_lines_are_written_at_once_and_whole(pipe: tuple[int, int]) -> None:
    """While there is a reader nothing waits, not even a long line or one outside ASCII."""
    reader, writer = pipe
    stream = LogPipe(writer)
    for text in ("short", "x" * 4_000, "Küche ✗" * 400):
        stream.write(text + "\n")
        assert read_all(reader) == [text]


def test_a_reader_that_is_gone_raises_nothing() -> None:
    """The daemon goes on, as with a log that is thrown away."""
    reader, writer = os.pipe()
    os.close(reader)
    stream = LogPipe(writer)
    stream.write("one\n")
    stream.write("two\n")
    os.close(writer)


def test_only_pipes_and_sockets_are_treated_so(tmp_path: Path, pipe: tuple[int, int]) -> None:
    """A file takes data, and a stream of a test is left as it is."""
    with (tmp_path / "log").open("w") as file:
        assert unblocking(file) is file
    memory = io.StringIO()
    assert unblocking(memory) is memory
    with open(pipe[1], "w", closefd=False) as end:
        assert isinstance(unblocking(end), LogPipe)
