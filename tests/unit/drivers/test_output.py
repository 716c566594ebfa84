"""A program's output: never does its log file delay the program."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest

from noded.drivers.builtin.process import ProcessDriver
from nodestore.processes import log_file
from nodestore.processes.log_file import LogFile
from nodestore.schema.models import Spec
from tests.support.noded.driver_rig import driver, until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="named pipes")
SAYS_MUCH = "import sys\nfor _ in range(20_000): print('x' * 999)\nsys.exit('the end')"


def writers() -> int:
    return sum(thread.name == "log file" for thread in threading.enumerate())


async def test_a_log_file_that_takes_no_data_does_not_stop_the_program(tmp_path: Path) -> None:
    """A named pipe without a reader: the program writes 20 MB, comes to its end, and its last line is known."""
    os.mkfifo(tmp_path / "program.log")
    before = writers()
    async with driver(ProcessDriver, tmp_path) as (process, woken):
        spec = Spec(driver="process", settings={"argv": ["{python}", "-c", SAYS_MUCH]})
        for _ in range(3):
            await process.apply(spec, spec)
            await woken.wait()
            assert (await process.inspect()).drift == "the program exited with code 1: the end"
        assert writers() == before + 1
        reader = os.open(tmp_path / "program.log", os.O_RDONLY | os.O_NONBLOCK)
    try:
        await until(lambda: _drained(reader) and writers() == before, "the thread to end")
    finally:
        os.close(reader)


def _drained(reader: int) -> bool:
    try:
        while os.read(reader, 1 << 16):
            pass
    except BlockingIOError:
        return False
    return True


async def test_what_is_dropped_is_counted_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the file takes data again, a line says at its place how much is missing; the buffer is bounded."""
    monkeypatch.setattr(log_file, "BUFFER_BYTES_MAX", 1_000)
    path = tmp_path / "log"
    os.mkfifo(path)
    log = LogFile(path, 1 << 20)
    for number in range(50):
        log.write(b"%099d\n" % number)
    dropped = log.dropped_bytes
    assert dropped >= 50 * 100 - 1_100
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(path.read_bytes()), daemon=True)
    holder = os.open(path, os.O_RDWR)  # so that the reader's end of file comes when the test wants it
    reader.start()

    def has_room() -> bool:
        log.write(b"again\n")
        return log.dropped_bytes == 0

    await until(has_room, "room in the buffer")
    log.close()
    await until(lambda: writers() == 0, "everything to be written")
    os.close(holder)
    reader.join(20)
    text = read[0].decode()
    assert "[noded dropped " in text
    assert text.endswith("again\n")
    assert f"{0:099d}" in text


async def test_output_that_cannot_be_written_is_counted(tmp_path: Path) -> None:
    """A directory in place of the file: all is dropped, and noded's log can say so."""
    (tmp_path / "log").mkdir()
    log = LogFile(tmp_path / "log", 1 << 20)
    log.write(b"one\n")
    await until(lambda: log.dropped_bytes == 4, "the count")
    (tmp_path / "log").rmdir()
    log.write(b"two\n")
    await until(lambda: (tmp_path / "log").is_file() and (tmp_path / "log").read_bytes().endswith(b"two\n"), "it")
    assert b"dropped 4 bytes" in (tmp_path / "log").read_bytes()
    log.close()
