"""How an option names a sink, the file, and the Event Log by a fake of Windows."""

from __future__ import annotations

import errno
import json
import os
import stat
import sys
from pathlib import Path

import pytest

from masterd import settings
from masterd.api.audit_export import file_sink
from masterd.api.audit_export.event_log_sink import INFORMATION, SOURCE, WARNING, EventLogSink, windows_api
from masterd.api.audit_export.file_sink import FileSink
from masterd.api.audit_export.records import ExportRecord
from masterd.audit_sinks import parse_sink

REQUIRED = ("--id=m1", "--cluster=c", "--endpoints=127.0.0.1:1")


def records(count: int = 1, event: str = "command") -> list[ExportRecord]:
    return [ExportRecord(event, 1.0, {"position": f"1.{number}"}) for number in range(1, count + 1)]


def positions(path: Path) -> list[str]:
    return [json.loads(line)["position"] for line in path.read_text().splitlines() if line]


@pytest.mark.parametrize(
    ("text", "kind", "target"),
    [
        ("syslog+udp://10.0.0.9", "syslog+udp", "10.0.0.9:514"),
        ("syslog+tcp://log.example:601", "syslog+tcp", "log.example:601"),
        ("syslog+tls://[fd00::9]", "syslog+tls", "[fd00::9]:6514"),
        ("syslog+tls://[fd00::9]:99", "syslog+tls", "[fd00::9]:99"),
        ("syslog:", "syslog", "None"),
    ],
)
def test_a_sink_is_named_by_an_option(text: str, kind: str, target: str) -> None:
    found = parse_sink(text, "linux")
    assert (found.kind, str(found.address)) == (kind, target)
    assert parse_sink("eventlog:", "win32").kind == "eventlog"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nowhere", "is not one of file:PATH"),
        ("http://x", "is not one of file:PATH"),
        ("syslog+udp:", "is not one of file:PATH"),
        ("syslog+udp://", "is not one of file:PATH"),
        ("file:", "give the whole path"),
        ("file:audit.jsonl", "give the whole path"),
        ("eventlog:", "only a syslog"),
        ("syslog+tcp://h:0", "port"),
    ],
)
def test_what_is_no_sink_is_refused_in_one_line(text: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        settings.parse(
            ["--id=m1", "--cluster=c", "--endpoints=127.0.0.1:1", "--state-dir=/tmp/none/x", f"--audit-export={text}"],
            {},
        )
    assert says in capsys.readouterr().err.splitlines()[-1]


def test_an_export_needs_a_state_directory(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        settings.parse([*REQUIRED, "--audit-export=syslog:"], {})
    assert "--audit-export needs --state-dir" in capsys.readouterr().err


def test_lines_are_appended_to_a_file_of_its_owner(tmp_path: Path) -> None:
    sink = FileSink(tmp_path / "audit.jsonl")
    sink.write(records(200))
    sink.sync()
    assert positions(tmp_path / "audit.jsonl") == [f"1.{number}" for number in range(1, 201)]
    if sys.platform != "win32":
        assert stat.S_IMODE((tmp_path / "audit.jsonl").stat().st_mode) == 0o600


def test_a_line_that_was_cut_does_not_spoil_the_next(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_text('{"event":"comm')
    FileSink(path).write(records())
    assert path.read_text().splitlines()[1] == records()[0].line(1_000)


def test_a_large_file_becomes_the_older_one(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    sink = FileSink(path, bytes_max=300)
    for _ in range(20):
        sink.write(records(2))
    assert sorted(each.name for each in tmp_path.iterdir()) in (["audit.jsonl", "audit.jsonl.1"], ["audit.jsonl.1"])
    assert all(each.stat().st_size < 500 for each in tmp_path.iterdir())


def test_a_full_disk_is_an_error_and_the_next_line_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What arrived of the line that failed stays; it is written again on a line of its own."""
    path = tmp_path / "audit.jsonl"
    sink = FileSink(path)
    sink.write(records())

    class FullDisk:
        def __init__(self, handle: int) -> None:
            self._file = os.fdopen(handle, "ab", buffering=0)

        def __enter__(self) -> FullDisk:
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

        def tell(self) -> int:
            return self._file.tell()

        def write(self, content: memoryview) -> int:
            if len(content) < 20:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self._file.write(content[:15])

    with monkeypatch.context() as patched:
        patched.setattr(file_sink, "open", lambda handle, *_, **__: FullDisk(handle), raising=False)
        with pytest.raises(OSError, match="No space left"):
            sink.write(records(2))
    sink.write(records(2))
    assert path.read_text().splitlines()[-2:] == [record.line(1_000) for record in records(2)]


class FakeEventLog:
    """The Event Log of a Windows."""

    def __init__(self) -> None:
        self.events: list[tuple[int, int, str]] = []
        self.opened: list[str] = []
        self.closed = 0
        self.fails = False

    def open(self, source: str) -> int:
        self.opened.append(source)
        return 42

    def report(self, handle: int, kind: int, event_id: int, text: str) -> None:
        assert handle == 42
        if self.fails:
            raise OSError(1502, "The event log file is full")
        self.events.append((kind, event_id, text))

    def close(self, handle: int) -> None:
        self.closed += 1


def test_records_are_events_of_the_event_log() -> None:
    api = FakeEventLog()
    sink = EventLogSink(api)
    sink.write([*records(), *records(event="refused"), *records(event="token created")])
    assert [(kind, event_id) for kind, event_id, _ in api.events] == [(INFORMATION, 1), (WARNING, 2), (WARNING, 4)]
    assert json.loads(api.events[0][2])["position"] == "1.1"
    assert api.opened == [SOURCE]


def test_an_event_log_that_is_full_is_opened_again() -> None:
    api = FakeEventLog()
    sink = EventLogSink(api)
    api.fails = True
    with pytest.raises(OSError, match="full"):
        sink.write(records())
    api.fails = False
    sink.write(records())
    sink.close()
    assert (len(api.opened), api.closed, len(api.events)) == (2, 2, 1)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has an Event Log")
def test_other_systems_have_no_event_log() -> None:
    with pytest.raises(OSError, match="no Event Log"):
        windows_api()
