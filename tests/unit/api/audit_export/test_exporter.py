"""An export passes on every command at least once, whatever fails when, and says what is missing."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from masterd.api.audit_export import exporter
from masterd.api.audit_export.exporter import EVENTS_MAX, Exporter
from masterd.api.audit_export.journal_source import JournalSource
from masterd.api.audit_export.progress import ProgressFile
from masterd.api.audit_export.records import ExportRecord
from masterd.api.secret_views.hiding import SecretMarks
from masterd.state_machine.state import State
from nodestore.schema.models import Inventory
from tests.support.fakes.journal_world import JournalWorld
from tests.support.fakes.masterd_parts import KEYS
from tests.support.waiting import eventually


@pytest.fixture(autouse=True)
def _short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_GATHER_S", "_RETRY_S", "_RETRY_MAX_S", "_IDLE_S"):
        monkeypatch.setattr(exporter, name, 0.01)
    monkeypatch.setattr(exporter, "_SAVE_EVERY_S", 0.02)
    monkeypatch.setattr(exporter, "_STALLED_S", 0.05)


class FakeSink:
    """Keeps what it takes. `fails`: how many of the next writes raise; `hang`: a write waits for this event."""

    def __init__(self, repeats: int = 0) -> None:
        self.repeats, self.fails, self.hang = repeats, 0, threading.Event()
        self.hang.set()
        self.taken: list[dict[str, Any]] = []

    def write(self, records: Sequence[ExportRecord]) -> None:
        self.hang.wait(20.0)
        if self.fails:
            self.fails -= 1
            raise OSError(28, "No space left on device")
        self.taken += [json.loads(record.line(2_000)) for record in records]

    def sync(self) -> None:
        pass

    def close(self) -> None:
        pass

    def shown(self) -> list[str]:
        """The positions of the commands; of other records, the event."""
        return [item.get("position", item["event"]) for item in self.taken]


def _number(position: str) -> tuple[int, int]:
    epoch, _, index = position.partition(".")
    return (int(epoch), int(index)) if index else (0, 0)


class Case:
    """A journal, a sink, and the directory of the notes. is_killed: the process notes nothing any more."""

    def __init__(self, directory: Path, repeats: int = 0) -> None:
        self.world, self.sink, self.directory = JournalWorld(), FakeSink(repeats), directory
        self.is_killed = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Exporter]:
        """An export that runs, as in a process that ends with the block."""
        async with self.world.sources() as sources:
            file = ProgressFile(self.directory, KEYS.cluster, "fake:")
            export = Exporter("fake:", self.sink, JournalSource(sources, lambda: 1e6), file, lambda: 1e6)
            task = asyncio.create_task(export.run())
            try:
                yield export
                assert not task.done()
            finally:
                task.cancel()
                await asyncio.wait({task})
                await export.close()

    async def taken(self, *positions: str) -> None:
        """Wait until the sink has taken this, and that is noted in the file."""
        await eventually(lambda: self.sink.shown() == list(positions), f"the sink has {positions}")
        await eventually(lambda: self.is_killed or self.noted() == max(map(_number, positions)), "it is noted")

    def noted(self) -> tuple[int, int]:
        progress = ProgressFile(self.directory, KEYS.cluster, "fake:").load()
        return progress.epoch, progress.index


async def test_every_command_is_exported_once_and_a_restart_goes_on_behind_the_last(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.world.commit(3)
    async with case.running():
        await case.taken("1.1", "1.2", "1.3")
        case.world.commit(1)
        await case.taken("1.1", "1.2", "1.3", "1.4")
    async with case.running():
        case.world.commit(1)
        await case.taken("1.1", "1.2", "1.3", "1.4", "1.5")


async def test_entries_in_memory_are_exported_too(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.world.replica.recent = []
    async with case.running():
        await asyncio.sleep(0.05)
        assert case.sink.taken == []
    case.world.commit(2)
    case.world.replica.recent = None
    async with case.running():
        await case.taken("1.1", "1.2")


async def test_a_process_that_is_killed_before_it_noted_its_progress_repeats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The records have the same positions, by which a receiver drops them."""
    case = Case(tmp_path)
    case.world.commit(2)
    with monkeypatch.context() as killed:
        killed.setattr(ProgressFile, "save", lambda *_: None)
        case.is_killed = True
        async with case.running():
            await case.taken("1.1", "1.2")
    case.is_killed = False
    async with case.running():
        await case.taken("1.1", "1.2", "1.1", "1.2")


async def test_a_sink_that_fails_gets_everything_later_and_is_reported_meanwhile(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.world.commit(2)
    case.sink.fails = 1_000_000
    async with case.running() as export:
        await eventually(lambda: export.problem is not None, "the problem is reported")
        assert export.problem == "the export to fake: takes nothing: No space left on device; 2 commands wait for it"
        case.world.commit(1)
        case.sink.fails = 0
        await case.taken("1.1", "1.2", "1.3")
        await eventually(lambda: export.problem is None, "the problem is gone")


async def test_a_sink_that_hangs_holds_up_nothing_else(tmp_path: Path) -> None:
    """The event loop goes on; one thread waits; the status says so; the end does not wait for it."""
    case = Case(tmp_path)
    case.world.commit(1)
    case.sink.hang.clear()
    async with case.running() as export:
        await eventually(lambda: "has not answered for" in (export.problem or ""), "it is reported")
        for _ in range(20):
            case.world.commit(1)
            await asyncio.sleep(0.005)
        assert [thread.name for thread in threading.enumerate()].count("export to fake:") == 1
    case.sink.hang.set()


async def test_what_was_truncated_meanwhile_is_missing_and_counted(tmp_path: Path) -> None:
    """In the sink, in the status for a day, and after a restart."""
    case = Case(tmp_path)
    case.world.commit(2)
    async with case.running():
        await case.taken("1.1", "1.2")
    case.world.commit(8)
    case.world.truncate(7)
    says = "the export to fake: lacks 5 commands, which were truncated before"
    async with case.running() as export:
        await case.taken("1.1", "1.2", "missing", "1.8", "1.9", "1.10")
        assert case.sink.taken[2] == {
            "event": "missing", "time": 1e6, "cluster": "c", "after": "1.2", "before": "1.8", "count": 5,
        }  # fmt: skip
        assert export.problem == says
    async with case.running() as export:
        await eventually(lambda: export.problem == says, "it is still reported")


async def test_what_was_truncated_before_the_first_start_is_said_and_no_problem(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.world.commit(5)
    case.world.truncate(3)
    async with case.running() as export:
        await case.taken("missing", "1.4", "1.5")
        assert (case.sink.taken[0]["after"], case.sink.taken[0]["count"]) == (None, 3)
        assert export.problem is None


@pytest.mark.parametrize("runs", [True, False], ids=["while it runs", "while it does not run"])
async def test_after_a_restore_the_commands_of_the_new_epoch_follow(tmp_path: Path, runs: bool) -> None:
    """Indexes are used again. Those that the backup holds are not repeated; the restore is said."""
    case = Case(tmp_path)
    case.world.commit(5)
    async with case.running():
        await case.taken("1.1", "1.2", "1.3", "1.4", "1.5")
        if runs:
            case.world.restore(3)
            case.world.commit(3)
            await case.taken("1.1", "1.2", "1.3", "1.4", "1.5", "restored", "2.4", "2.5", "2.6")
    if not runs:
        case.world.restore(3)
        case.world.commit(3)
    async with case.running():
        await case.taken("1.1", "1.2", "1.3", "1.4", "1.5", "restored", "2.4", "2.5", "2.6")
    assert (case.sink.taken[5]["after"], case.sink.taken[5]["epoch"]) == ("1.5", 2)


async def test_a_store_that_this_masterd_does_not_follow_is_not_exported(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.world.commit(1)
    case.world.replica.problem = "etcd is another store"
    async with case.running():
        await asyncio.sleep(0.1)
        assert case.sink.taken == []
        case.world.replica.problem = None
        await case.taken("1.1")


async def test_a_connection_that_broke_repeats_the_last_commands_once(tmp_path: Path) -> None:
    """However often the sink fails before it takes something again. Nothing that was truncated counts as missing."""
    case = Case(tmp_path, repeats=2)
    case.world.commit(4)
    async with case.running() as export:
        await case.taken("1.1", "1.2", "1.3", "1.4")
        case.world.truncate(3)
        case.sink.fails = 5
        case.world.commit(1)
        await case.taken("1.1", "1.2", "1.3", "1.4", "1.4", "1.5")
        assert export.problem is None
    async with case.running():
        await case.taken("1.1", "1.2", "1.3", "1.4", "1.4", "1.5", "1.4", "1.5")


async def test_an_entry_that_cannot_be_read_is_said_and_does_not_stop_the_export(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.world.commit(1)
    case.world.replica.index += 1
    case.world.put(KEYS.entry(2), b"{")
    case.world.put(KEYS.journal + "strange", b"{")
    case.world.commit(1)
    async with case.running():
        await case.taken("1.1", "unreadable", "1.3")


async def test_a_journal_of_many_entries_is_read_in_parts(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.world.commit(300)
    async with case.running():
        await case.taken(*(f"1.{index}" for index in range(1, 301)))


async def test_secrets_are_masked_by_the_marks_in_force(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.world.replica.state = cast(State, SimpleNamespace(inventory=Inventory(secret_fields=("door",))))
    case.world.commit(args={"door": "1234", "password": "hunter2", "x": 1})
    async with case.running():
        await case.taken("1.1")
    assert case.sink.taken[0]["args"] == {"door": "***", "password": "***", "x": 1}


async def test_events_of_the_audit_log_are_exported_before_the_commands(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.world.commit(1)
    case.sink.fails = 1
    async with case.running() as export:
        export.add_event(ExportRecord("login", 1.0, {}))
        await case.taken("login", "1.1")


async def test_events_that_a_sink_does_not_take_are_bounded_and_counted(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.sink.fails = 1_000_000
    async with case.running() as export:
        for _ in range(EVENTS_MAX + 5):
            export.add_event(ExportRecord("refused", 1.0, {}))
        await eventually(lambda: "5 events of the audit log are lost" in (export.problem or ""), "they are counted")
        case.sink.fails = 0
        await eventually(lambda: len(case.sink.taken) == EVENTS_MAX, "the others are exported")


async def test_an_error_of_the_program_is_reported_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    case = Case(tmp_path)
    case.world.commit(1)
    with monkeypatch.context() as broken:
        broken.setattr(JournalSource, "read", lambda *_: 1 / 0)
        async with case.running() as export:
            await eventually(lambda: "internal error" in (export.problem or ""), "it is reported")
            broken.undo()
            _ = export
    async with case.running():
        await case.taken("1.1")
    assert "the export to fake: failed" in caplog.text


def test_progress_that_cannot_be_read_begins_anew(tmp_path: Path) -> None:
    file = ProgressFile(tmp_path, "c", "fake:")
    assert file.load().position is None
    for path, content in [(tmp_path, b"{"), (tmp_path, b'{"sink":"other:","epoch":1,"index":5}')]:
        ProgressFile(path, "c", "fake:").save(file.load())
        [written] = path.glob("audit-export-c-*.json")
        written.write_bytes(content)
        assert file.load().position is None


async def test_all_arguments_are_masked_while_the_marks_of_the_application_are_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SecretMarks, "are_known", False)
    case = Case(tmp_path)
    case.world.commit(args={"door": "1234", "x": 1})
    async with case.running():
        await case.taken("1.1")
    assert case.sink.taken[0]["args"] == {"door": "***", "x": "***"}
