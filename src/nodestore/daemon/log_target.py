"""Where a daemon writes its log: to stderr, or, where no service manager keeps that, to files of bounded size."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from nodestore.daemon.options import Parser
from nodestore.processes.log_file import LogFile
from nodestore.support.values import whole_between


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFileSettings:
    """bytes_max: size at which `path` is renamed to `<path>.1`. files: how many are kept in all."""

    path: Path
    bytes_max: int
    files: int


def add_log_file(parser: Parser) -> None:
    """Add the options for log files."""
    parser.add_option(
        "log-file", Path, default="", meta="FILE",
        text="write the log into FILE instead of to stderr, for services whose manager keeps no log, as on Windows",
    )  # fmt: skip
    parser.add_option(
        "log-file-bytes", whole_between(64 << 10, 1 << 30), default="10000000", meta="BYTES",
        text="size at which FILE is renamed to FILE.1, and so on (default: %(default)s)",
    )  # fmt: skip
    parser.add_option(
        "log-files", whole_between(2, 100), default="5", meta="N",
        text="how many files of the log are kept in all (default: %(default)s)",
    )  # fmt: skip


def log_file_settings(options: argparse.Namespace) -> LogFileSettings | None:
    """The settings from parsed options; None: the log goes to stderr."""
    path: Path | None = options.log_file
    return (
        None
        if path is None
        else LogFileSettings(path=path.absolute(), bytes_max=options.log_file_bytes, files=options.log_files)
    )


class LogFileStream:
    """What a logging.StreamHandler needs of a stream, for a log file."""

    def __init__(self, settings: LogFileSettings, program: str) -> None:
        self._file = LogFile(settings.path, settings.bytes_max, files=settings.files, writer=program)

    def write(self, text: str) -> int:
        """Write `text`, a whole line, soon."""
        self._file.write(text.encode("utf-8", "backslashreplace"))
        return len(text)

    def flush(self) -> None:
        """Does nothing: another thread writes, so that a disk that hangs holds up nothing."""

    def drain(self, timeout_s: float) -> None:
        """Block until everything is written, or for `timeout_s` seconds."""
        self._file.drain(timeout_s)
