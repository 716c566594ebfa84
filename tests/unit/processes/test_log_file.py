"""Log files of bounded size."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from nodestore.processes import child_processes, log_file
from nodestore.processes.log_file import LogFile

LINE = b"%09d\n"


def written(directory: Path, lines: int, files: int) -> list[Path]:
    """Write so many lines of ten bytes into files of a hundred; return the files, the newest first."""
    log = LogFile(directory / "log", 100, files=files)
    for number in range(lines):
        log.write(LINE % number)
        assert log.drain(20.0)
    log.close()
    return sorted(directory.iterdir())


def test_so_many_files_are_kept(tmp_path: Path) -> None:
    files = written(tmp_path, 75, files=4)
    assert [file.name for file in files] == ["log", "log.1", "log.2", "log.3"]
    kept = b"".join(file.read_bytes() for file in reversed(files))
    assert kept == b"".join(LINE % number for number in range(40, 75))


@pytest.mark.parametrize("lines", [1, 10, 11])
def test_with_two_files_as_ever(tmp_path: Path, lines: int) -> None:
    files = written(tmp_path, lines, files=2)
    assert [file.stat().st_size for file in files] == {1: [10], 10: [100], 11: [10, 100]}[lines]


def test_a_file_that_cannot_be_renamed_is_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows a viewer that has one of the files open prevents it. The size stays bounded all the same."""

    def in_use(source: Path, target: Path) -> None:
        raise PermissionError(13, "in use")

    monkeypatch.setattr(log_file, "replace_file", in_use)
    (file,) = written(tmp_path, 75, files=4)
    assert file.read_bytes() == b"".join(LINE % number for number in range(60, 75))


@pytest.mark.parametrize("program", ["masterd", "noded", "hostd"])
def test_a_program_logs_into_its_file(program: str, tmp_path: Path) -> None:
    """What it logs last, the error that ended it, is in the file too. Nothing goes to stderr."""
    path = tmp_path / "logs" / "own.log"
    (tmp_path / "file").touch()
    arguments = {
        "masterd": ["--id", "pc1", "--listen", "192.0.2.1:8401", "--insecure"],
        "noded": ["--node", "pc1", "--work-dir", str(tmp_path / "file" / "below")],
        "hostd": ["--root", str(tmp_path / "nothing")],
    }[program]
    cluster = [] if program == "hostd" else ["--cluster", "w"]
    done = child_processes.run(
        [sys.executable, "-m", program, *cluster, "--log-file", str(path), *arguments], timeout_s=60.0
    )
    assert done.returncode != 0
    assert done.stderr == ""
    assert re.search(rf"Z ERROR {program} \w+: stopped by an error: .*\n\Z", path.read_text(encoding="utf-8"))
