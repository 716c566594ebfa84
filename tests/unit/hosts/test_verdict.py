"""Checks of a run, besides those of the store and the journal: a recorded run is made here, and then altered in one
place at a time."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import pytest

from masterd import settings
from masterd.state_machine import state
from nodestore.schema.models import Applied, CommandRecord, Entry, Head
from tests.faults import brief_masterd
from tests.faults.checkers import final_store
from tests.faults.checkers.history import Event, Recorder, calls, load
from tests.faults.hosts import __main__ as program
from tests.faults.hosts.clients import clients, raw_readers
from tests.faults.hosts.judgement import client_checks, diary, verdict
from tests.faults.hosts.judgement.diary import Window
from tests.faults.hosts.kinds.fault import Fault
from tests.faults.hosts.kinds.overlap import OVERLAP, OverlappingFaults, second
from tests.faults.hosts.lan import namespaces
from tests.faults.hosts.lan.site import Hosts
from tests.faults.hosts.run import Run

LASTED_S = 20.0
COMMANDS = 30


class Recorded:
    """A run of 20 s in which all went well: two clients, a reader by the library and one of a master's stream, a fault.
    Tests change it before it is written."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.now = 100.0
        self.ended: str | None = diary.COMPLETE
        self.readers = ["c3-reader", "raw-h1"]
        self.lost = -1
        """The index up to which the watch of the store has seen the journal; -1: all of it."""
        self.commands = [f"{'c1-0' if number % 2 else 'c2-0'}-{number}" for number in range(1, 2 * COMMANDS + 1)]
        self.before: Callable[[Recorder], None] = lambda record: None
        """What clients write beside that, in the middle of the fault."""
        self.stream = list(range(1, len(self.commands) + 1))
        self.cut = 0
        """Up to where the journal is truncated, in the middle."""

    def write(self) -> list[str]:
        """Write the verdict."""
        clock = lambda: self.now  # noqa: E731
        names = ("history-store", "history-c1", "history-c2", "history-c3", "stream-raw-h1")
        store, c1, c2, c3, raw = [Recorder(self.directory / f"{name}.jsonl", clock) for name in names]
        c3.seen("c3-reader", "begin", after=0)
        raw.seen("raw-h1", "begin", after=0)
        store.seen("watch", "term", epoch=1, revision=10, nonce="t", id="h1")
        revision = 10
        for index, known in enumerate(self.commands, start=1):
            self.now += LASTED_S / len(self.commands)
            revision += 1
            record = c1 if known.startswith("c1") else c2
            call = record.invoke(known.rpartition("-")[0], "command", id=known, timeout_s=20.0)
            if self.lost < 0 or index <= self.lost:
                self._entry(store, index, known, revision)
            record.ok(call, index=index, result=None)
            c3.seen("c3-reader", "event", epoch=1, index=index, id=known)
            if index == COMMANDS:
                if self.cut:
                    store.seen("watch", "deleted", key=f"journal/{self.cut:016d}", revision=revision)
                self.before(c1)
        for index in self.stream:
            raw.seen("raw-h1", "event", epoch=1, index=index, id=self.commands[index - 1])
        for recorder in (store, c1, c2, c3, raw):
            recorder.__exit__(None, None, None)
        self._diary()
        return verdict.judge(self.directory, lambda line: None)

    def _entry(self, store: Recorder, index: int, known: str, revision: int) -> None:
        command = CommandRecord(index=index, id=known, actor="a", time=0.0, name="node.set")
        value = Entry(epoch=1, term=10, nonce=f"n{index}", commands=(command,)).encode().decode()
        key = f"journal/{index:016d}"
        store.seen("watch", "entry", key=key, value=value, create_revision=revision, mod_revision=revision)
        store.seen("watch", "wrote", key="head", revision=revision, index=index, nonce=f"n{index}")
        store.seen("watch", "wrote", key="applied", revision=revision, index=index, base=index, through=None)

    def _diary(self) -> None:
        book, last = diary.Writer(self.directory), len(self.commands)
        book.write(run={"seed": 1, "duration_s": LASTED_S, "clients": ["c1", "c2"], "readers": self.readers})
        book.write(storm=True, at=100.0)
        book.write(begins="ring", at=109.0)
        book.write(ends="ring", at=111.0)
        if self.ended is not None:
            book.write(ended=self.ended, at=self.now)
        found = {"head": Head(index=last, nonce=f"n{last}"), "applied": Applied(index=last, base=last)}
        lines = [final_store.line(key, value.encode()) for key, value in found.items()]
        lines += [
            final_store.line(event.fields["key"], event.fields["value"].encode())
            for event in load(self.directory / "history-store.jsonl")
            if event.op == "entry"
        ]
        (self.directory / diary.STORE).write_text("".join(lines))


@pytest.fixture
def recorded(tmp_path: Path) -> Recorded:
    return Recorded(tmp_path)


def only(wrong: list[str], *words: str) -> None:
    """One line, which has them all."""
    assert len(wrong) == 1, wrong
    assert all(word in wrong[0] for word in words), wrong


def test_a_run_in_which_all_went_well(recorded: Recorded) -> None:
    """A correct run has no findings."""
    assert recorded.write() == []


# --- clients ---------------------------------------------------------------------------------------------------------


def test_a_client_that_got_nothing_done_is_noticed(recorded: Recorded) -> None:
    """Each client has its own minimum: the success of another one does not hide its failure."""
    recorded.commands = [f"c1-0-{number}" for number in range(1, 61)]
    only(recorded.write(), "c2 has 0 acknowledged commands", "no fewer than 21")


def fails(record: Recorder, kind: str, times: int, timeout_s: float = 0.3) -> None:
    for number in range(times):
        call = record.invoke("c1-0", "command", id=f"c1-0-x{number}", timeout_s=timeout_s)
        record.fail(call, why="no", kind=kind)


def test_a_cluster_that_refuses_too_much_is_noticed(recorded: Recorded) -> None:
    """Some refusals come of a fault; there is a bound."""
    most = client_checks.FAILS_PER_FAULT + client_checks.FAILS_UNEXPLAINED
    recorded.before = lambda record: fails(record, "Unavailable", most + 1)
    only(recorded.write(), f"{most + 1} commands of c1 failed, in 1 faults")


def test_some_refusals_around_a_fault_are_no_harm(recorded: Recorded) -> None:
    """Refusals during a fault are expected, because no request could succeed then."""
    recorded.before = lambda record: fails(record, "Unavailable", client_checks.FAILS_PER_FAULT)
    assert recorded.write() == []


@pytest.mark.parametrize("kind", ["Refused", "Invalid", "NoSpace", "NotFound"])
def test_a_refusal_that_no_fault_explains_is_noticed(recorded: Recorded, kind: str) -> None:
    """Every command is valid, and no disk was full."""
    recorded.before = lambda record: fails(record, kind, 1)
    only(recorded.write(), kind, "no fault explains that")


def ended(call_at: float, ended_at: float, kind: str, path: Path, process: str = "c1-0") -> Any:
    times = iter((call_at, ended_at))
    with Recorder(path, lambda: next(times)) as record:
        call = record.invoke(process, "command", id=f"{process}-x{call_at}", timeout_s=20.0)
        if kind:
            record.fail(call, why="no", kind=kind)
        else:
            record.ok(call, index=1)
    return calls(load(path))[-1]


def served(of: Iterable[Any], faults: Iterable[Window], lasted_s: float | None = None) -> list[str]:
    seen = client_checks.Served(list(faults), brief=False)
    for call in of:
        seen.see(call)
    return seen.wrong(["c1"] if lasted_s is None else [], lasted_s)


def test_no_space_belongs_to_a_full_disk(tmp_path: Path) -> None:
    """Also when another fault came with it."""
    call = ended(10.0, 11.0, "NoSpace", tmp_path / "h")
    assert served([call], [Window("full-disk+kill", 8.0, 12.0)]) == []
    assert len(served([call], [Window("ring", 8.0, 12.0)])) == 1


def test_refusals_with_no_fault_near_are_noticed(tmp_path: Path) -> None:
    """Some may come of a busy machine; more may not."""
    many = [ended(500.0 + n, 500.1 + n, "Unavailable", tmp_path / f"h{n}") for n in range(6)]
    faults = [Window("ring", 8.0, 12.0)]
    assert served(many[:5], faults) == []
    only(served(many, faults), "6 commands of c1 failed, and no fault was near")
    only(served(many, faults, 600.0), "6 commands of c1 failed, and no fault was near")
    assert served(many, faults, 601.0) == []


def test_a_command_that_starves_is_noticed(tmp_path: Path) -> None:
    """It failed after 20 s in which others of the same client got through; when none did, that is the fault's."""
    starved = ended(10.0, 30.0, "Unavailable", tmp_path / "h")
    others = [ended(12.0 + n, 12.5 + n, "", tmp_path / f"h{n}") for n in range(6)]
    faults = [Window("halves", 8.0, 28.0)]
    assert served([*others[:3], starved], faults) == []
    only(served([*others, starved], faults), "while others of its client got through")


@pytest.mark.parametrize(
    ("kind", "again", "fine"),
    [
        ("CommandOutcomeUnknown", False, True),
        ("TooOld", True, True),
        ("TooOld", False, False),
        ("Denied", False, False),
    ],
)
def test_an_unknown_outcome_has_a_reason(recorded: Recorded, kind: str, again: bool, fine: bool) -> None:
    """The reason is a missing answer or a repeat that was too old; any other error is a bug."""

    def unknown(record: Recorder) -> None:
        call = record.invoke("c1-0", "command", id="c1-0-x", **({"again": True} if again else {}))
        record.unknown(call, why="?", kind=kind)

    recorded.before = unknown
    wrong = recorded.write()
    assert (wrong == []) is fine, wrong


@pytest.mark.parametrize(("index", "fine"), [(29, True), (30, False)])
def test_a_repeat_gets_the_first_result(recorded: Recorded, index: int, fine: bool) -> None:
    """The command is repeated later with the same id."""

    def repeat(record: Recorder) -> None:
        call = record.invoke("c1-0", "command", id=recorded.commands[28], again=True)
        record.ok(call, index=index, result=None)

    recorded.before = repeat
    assert (recorded.write() == []) is fine


def test_only_commands_count_as_progress(tmp_path: Path) -> None:
    """A cluster that answers reads and refuses every command does not work."""
    one = caller_of(tmp_path)
    with Recorder(one.history) as record:
        record.ok(record.invoke("c1-r0", "read", key="r0"), value=None)
        record.fail(record.invoke("c1-0", "command", id="a"), why="no", kind="Unavailable")
    assert one.acknowledged(0.0) == []
    with Recorder(one.history) as record:
        for _ in range(3):
            record.invoke("c1-0", "command", id="never answered")
        record.ok(record.invoke("c1-0", "command", id="b"), index=1)
    assert len(one.acknowledged(0.0)) == 1


def caller_of(directory: Path) -> clients.Caller:
    """As the run sees it, without its process."""
    one = clients.Caller.__new__(clients.Caller)
    one.history = directory / "history-c1.jsonl"
    one.follow()
    return one


def test_a_caller_keeps_what_is_recent_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller keeps only recent results, because a run may take hours."""
    monkeypatch.setattr(clients, "EVENTS_KEPT", 10)
    one = caller_of(tmp_path)
    with Recorder(one.history) as record:
        for number in range(100):
            record.ok(record.invoke("c1-0", "command", id=str(number)), index=number)
    one.look()
    assert len(one.events) == 10
    assert len(one.acknowledgements) == 100


def test_how_a_client_ended_is_asked(tmp_path: Path) -> None:
    """An exit code other than 0 is a finding, and so is a client that ends before it is stopped."""
    made = [program_of(tmp_path, code) for code in ("import sys; sys.stdin.read()", "raise SystemExit(3)")]
    for one in made:
        one.stop()
    only(clients.problems(made), "ended with code 3")


def program_of(directory: Path, code: str) -> clients.Program:
    return clients.Program("c9", [sys.executable, "-c", code], directory)


# --- readers ---------------------------------------------------------------------------------------------------------


def test_a_reader_that_heard_nothing_is_noticed(recorded: Recorded) -> None:
    """Each that was to be there has got events."""
    recorded.readers.append("raw-h2")
    only(recorded.write(), "raw-h2 has heard nothing")


def test_a_reader_that_nobody_started_is_noticed(recorded: Recorded) -> None:
    """The readers must be exactly the expected ones."""
    recorded.readers.remove("raw-h1")
    only(recorded.write(), "raw-h1", "nobody started")


@pytest.mark.parametrize("change", [lambda told: [*told[:9], *told[8:]], lambda told: [*told[:9], *told[10:]]])
def test_doubles_and_gaps_in_a_masters_stream_are_noticed(
    recorded: Recorded, change: Callable[[list[int]], list[int]]
) -> None:
    """As they came: no library has put them right."""
    recorded.stream = change(recorded.stream)
    only(recorded.write(), "raw-h1 heard index")


@pytest.mark.parametrize(("cut", "after", "fine"), [(20, 19, True), (20, 20, False), (0, 5, False)])
def test_a_410_that_is_not_so_is_noticed(recorded: Recorded, cut: int, after: int, fine: bool) -> None:
    """The journal was kept from where the reader asked, as the watch of the store has seen it."""
    recorded.cut = cut
    gone = Event(111.0, "raw-h1", "seen", None, "gone", {"after": after})
    wrong = client_checks.wrong_gones([gone], [(110.0, cut)] if cut else [])
    assert (wrong == []) is fine


def test_a_reader_writes_down_what_comes_as_it_comes(tmp_path: Path) -> None:
    """The reader records an event twice if it receives it twice.

    It continues after the last one, unless it gets the answer that this one is gone.
    """
    with Recorder(tmp_path / "s") as record:
        reader = raw_readers.Reader("raw-h1", "http://none", record)
        for block in (b": from 0\nid: 1.0", b'id: 1.1\nevent: command\ndata: {"id":"a"}', b": still here"):
            reader.hear(block)
        reader.hear(b'id: 1.1\nevent: command\ndata: {"id":"a"}')
        assert (reader.position, reader.index) == ("1.1", 1)
        reader.hear(b'event: gone\ndata: {"detail":"no"}')
    told = [(event.op, event.fields.get("index", event.fields.get("after"))) for event in load(tmp_path / "s")]
    assert told == [("event", 1), ("event", 1), ("gone", 1)]
    assert reader.position is None
    assert 0.0 < clients.last_heard(tmp_path / "s") <= time.monotonic()
    assert clients.last_heard(tmp_path / "none") == 0.0


# --- programs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "Traceback (most recent call last):",
        "2026-01-01T00:00:00.000Z ERROR masterd h1: GET /v1/x failed (TypeError: no)",
        "2026-01-01T00:00:00.000Z ERROR masterd h1: Task exception was never retrieved",
    ],
)
def test_a_mistake_in_a_program_is_noticed(recorded: Recorded, line: str) -> None:
    """An unexpected error in the log of any program is a finding."""
    (recorded.directory / "log").mkdir()
    (recorded.directory / "log" / "h1-masterd.log").write_text(f"fine\n{line}\n")
    only(recorded.write(), "h1-masterd.log, line 2")


@pytest.mark.parametrize(("program_name", "wrong"), [("masterd", 1), ("noded", 1), ("etcd", 0)])
def test_a_program_that_ends_by_itself_is_noticed(tmp_path: Path, program_name: str, wrong: int) -> None:
    """Though it is started again at once. etcd may, when its disk is full."""
    Run(tmp_path, 1, 1.0, say=lambda line: None).found_ended(program_name, "h1", "why")
    assert len(diary.read(tmp_path).wrong) == wrong


# --- runs that were cut short ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [None, "Ctrl-C", "an error"])
def test_a_run_that_was_cut_short_is_judged(recorded: Recorded, how: str | None) -> None:
    """Missing records after the end of the watch are not a finding, nor are steps that did not take place."""
    recorded.ended, recorded.lost = how, 50
    recorded.readers.append("raw-h2")
    assert recorded.write() == []


def test_a_run_that_was_cut_short_is_judged_by_what_must_always_hold(recorded: Recorded) -> None:
    """A double in a stream is one whenever the run ends."""
    recorded.ended, recorded.lost, recorded.stream = "Ctrl-C", 50, [1, 2, 2]
    only(recorded.write(), "raw-h1 heard index 2 after 2")


def test_a_kept_run_is_judged_again(recorded: Recorded, capsys: pytest.CaptureFixture[str]) -> None:
    """With the same verdict, by --judge."""
    recorded.stream = [1, 2, 2]
    wrong = recorded.write()
    assert program.main([f"--judge={recorded.directory}"]) == 1
    assert "heard index 2 after 2" in capsys.readouterr().out
    assert (recorded.directory / "verdict.txt").read_text().splitlines() == wrong


def test_a_fault_is_in_the_schedule_before_it_begins(tmp_path: Path) -> None:
    """What ends a run is then known."""
    book = diary.Writer(tmp_path)
    book.now(begins="ring")
    (window,) = diary.read(tmp_path).faults
    assert (window.name, window.until) == ("ring", float("inf"))
    assert diary.read(tmp_path).ended == "without a word"
    with (tmp_path / "schedule.jsonl").open("a") as file:
        file.write('{"ends": "ri')
    assert len(diary.read(tmp_path).faults) == 1


class Breaks(Run):
    """A run that raises `error`, or else is interrupted by SIGINT."""

    error: Exception | None = None

    async def _whole(self) -> None:
        if self.error is not None:
            raise self.error
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.Event().wait()


@pytest.mark.skipif(sys.platform == "win32", reason="hosts need Linux")
@pytest.mark.parametrize("error", [None, RuntimeError("the storm broke")])
def test_whatever_ends_a_run_it_is_judged_and_says_how_to_repeat_it(
    recorded: Recorded, error: Exception | None
) -> None:
    """After Ctrl-C or a failed fault, both the reason of the end and the findings are reported."""
    recorded.ended, recorded.stream = None, [1, 2, 2]
    recorded.write()
    said: list[str] = []
    run = Breaks(recorded.directory, 7, 90.0, ["ring"], said.append)
    run.error = error
    assert program.report(run) == 1
    told = "\n".join(said)
    assert "heard index 2 after 2" in told
    assert "repeat: make faults SEED=7 DURATION=90s ONLY=ring" in told
    assert "the storm broke" in told if error else "Ctrl-C" in told


@pytest.mark.skipif(sys.platform != "linux", reason="hosts need Linux")
async def test_ctrl_c_leaves_a_run_time_for_its_verdict(tmp_path: Path) -> None:
    """It is passed on to the run within, whose exit code then counts."""
    within = (
        "import signal,sys,time\nsignal.signal(signal.SIGINT, lambda *_: sys.exit(5))\n"
        "print(flush=True)\ntime.sleep(60)"
    )
    without = (
        "import subprocess,sys\nfrom tests.faults.hosts.lan import namespaces\n"
        f"child = [sys.executable, '-c', {within!r}]\n"
        "process = subprocess.Popen([sys.executable, '-c', "
        "'import signal,subprocess,sys; signal.signal(signal.SIGINT, signal.SIG_IGN); '"
        "'sys.exit(subprocess.run(sys.argv[1:]).returncode)', *child])\n"
        "sys.exit(namespaces.wait_for(process))"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", without, stdout=subprocess.PIPE, cwd=namespaces.ROOT
    )
    assert process.stdout is not None
    await process.stdout.readline()
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(20.0):
        assert await process.wait() == 5


# --- what ten minutes otherwise never meet ---------------------------------------------------------------------------


def test_half_of_the_seeds_have_masters_that_keep_little(tmp_path: Path) -> None:
    """The same seed always the same."""
    brief = [Run(tmp_path, seed, 1.0).brief for seed in range(200)]
    assert 70 < sum(brief) < 130
    assert brief == [Run(tmp_path, seed, 1.0).brief for seed in range(200)]


def test_masters_that_keep_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real settings, with a short journal and ids that are soon forgotten."""
    for module, name in ((settings, "RetentionSettings"), (state, "IDS_MIN"), (state, "IDS_WINDOW_S")):
        monkeypatch.setattr(module, name, getattr(module, name))
    brief_masterd.keep_little()
    arguments = ["--id=h1", "--cluster=c", "--endpoints=127.0.0.1:1", "--snapshot-every=300"]
    retention = settings.parse(arguments, {}).master_settings.leader.retention
    assert (retention.snapshot_every_commands, retention.journal_bytes_max) == (300, 128 << 10)
    assert state.IDS_WINDOW_S > 20.0  # a client repeats a command by itself for so long


def test_two_faults_at_once_in_a_third_of_the_cases() -> None:
    """Of those that make sense together and that this run has, by the seed."""
    names = ["ring", "kill", "pause", "slow-disk", "power-off"]
    chosen = [second(random.Random(seed), "ring", names) for seed in range(300)]
    assert 60 < sum(name is not None for name in chosen) < 140
    assert {name for name in chosen if name} == {"kill", "pause"}
    assert all(second(random.Random(seed), "slow-disk", names) is None for seed in range(50))
    assert all(first not in others for first, others in OVERLAP.items())


async def test_two_faults_at_once_both_end(tmp_path: Path) -> None:
    """The second first, and the first though that one cannot; the second spares the host of the first."""
    done: list[str] = []

    class One(Fault):
        victim = "h1"

        async def begin(self) -> None:
            done.append("one begins")

        async def end(self) -> None:
            done.append("one ends")

    class Other(Fault):
        async def begin(self) -> None:
            done.append(f"other begins, not on {' '.join(self.avoid)}")

        async def end(self) -> None:
            done.append("other ends")
            raise AssertionError("it was not undone")

    hosts = cast(Hosts, None)
    both = OverlappingFaults.of(One(hosts, random.Random(1), 3.0), Other(hosts, random.Random(1), 1.0), 0.001)
    assert both.lasts_s == pytest.approx(2.999)
    await both.begin()
    with pytest.raises(AssertionError, match="not undone"):
        await both.end()
    assert done == ["one begins", "other begins, not on h1", "other ends", "one ends"]
