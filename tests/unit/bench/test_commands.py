"""How commands are compared with the frozen put, and how their CPU time is measured."""

from __future__ import annotations

import ast
import hashlib
import itertools
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from xml.etree import ElementTree

import pytest

from bench.harness import recorded, yardstick
from bench.harness.callers import run_callers
from bench.harness.core_speed import CoreSpeed, watch_core_speed
from bench.harness.cpu_time import CpuMeter, Usage, cpu_s
from bench.harness.curve import Point, Trial
from bench.harness.figures import figure
from bench.harness.load import Load
from bench.measures import commands, starts
from bench.report import curve_picture
from bench.report.curve import Curves, cpu_rows, rate_rows
from nodestore.errors import NodectlError

FROZEN = Path(yardstick.__file__).with_name("frozen_put.py")
FROZEN_SHA256 = "bb4928339fdd3d697bc1dd5f430ee91f1ac043d81b5563ff92ffc68b692daaca"


def load(calls: int, seconds: float = 1.0, ms: float = 1.0) -> Load:
    return Load(1, calls, seconds, (ms,) * calls)


def trial(rate: int, put_rate: float, leader_us: float, slowdown: float) -> Trial:
    cpu_us = {"client": 10.0, "leader": leader_us, "noded": 500.0}
    return Trial(load(rate), cpu_us, 0.0, 1.0, put_rate, slowdown)


def point(callers: int = 64) -> Point:
    return Point(callers, [trial(200, 100.0, 90.0, 1.0), trial(100, 80.0, 190.0, 2.0)], [load(90, ms=2.0)], [load(70)])


# --- the frozen put ---------------------------------------------------------------------------------------------------


def test_the_frozen_put_is_frozen() -> None:
    """A change makes the ratios of earlier releases incomparable: measure them again before you change the hash."""
    assert hashlib.sha256(FROZEN.read_bytes()).hexdigest() == FROZEN_SHA256


def test_the_frozen_put_uses_nothing_of_this_project_but_messages() -> None:
    """A faster session of ours must not move the yardstick."""
    tree = ast.parse(FROZEN.read_text("utf-8"))
    names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    standard = {name for name in names if (name or "").partition(".")[0] in sys.stdlib_module_names}
    assert names - standard == {"grpc", "nodestore.etcd.pb"}


async def test_a_trial_of_puts_is_what_the_program_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program gets the puts in flight and the seconds; a program that ends is an error."""
    (tmp_path / "fake_put.py").write_text(
        "import sys\n"
        "assert sys.argv[1:] == ['there:1', 'ca', 'cert', 'key']\n"
        "in_flight, seconds = sys.stdin.readline().split()\n"
        'print(\'{"puts": %s, "seconds": %s, "cpu_us": 80.5, "latencies_ms": [1.0, 2.0]}\' % (in_flight, seconds))\n'
    )
    monkeypatch.setattr(yardstick, "PROGRAM", "fake_put")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    async with yardstick.open_yardstick("there:1", ("ca", "cert", "key")) as puts:
        assert await puts.puts(64, 0.5) == Load(64, 64, 0.5, (1.0, 2.0))
        assert puts.cpu_us == [80.5]
        with pytest.raises(NodectlError, match="fake_put ended with code 0"):
            await puts.puts(64, 0.5)


# --- callers ----------------------------------------------------------------------------------------------------------


async def test_each_caller_makes_one_call_after_another() -> None:
    """All calls are counted, with their latencies in order; each caller passes its number."""
    seen: set[int] = set()
    count = itertools.count()

    async def call(number: int) -> None:
        seen.add(number)
        next(count)

    found = await run_callers(call, 3, 0.01)
    assert seen == {0, 1, 2}
    assert found.calls == len(found.latencies_ms) == next(count)
    assert list(found.latencies_ms) == sorted(found.latencies_ms)
    assert found.rate == found.calls / found.seconds


async def test_puts_are_measured_before_and_after_each_trial_of_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are warmed up first; a trial is compared with the mean of its two neighbours."""
    calls: list[str] = []
    rates = iter([1, 100, 200, 400])

    async def puts(in_flight: int, seconds: float) -> Load:
        calls.append(f"frozen {in_flight}")
        return load(next(rates))

    async def run(call: Any, callers: int, seconds: float) -> Load:
        calls.append(f"{await call(0)} {callers}")
        return load(300)

    async def answer(name: str) -> str:
        return name

    monkeypatch.setattr(commands, "run_callers", run)
    meter = SimpleNamespace(read=lambda: None, since=lambda _: Usage(1.0, {"client": 0.6}))
    client = SimpleNamespace(node_set=lambda *_: answer("command"))
    etcd = SimpleNamespace(put=lambda *_, **__: answer("put"))
    series = commands.TrialSeries(
        cast(Any, client), cast(Any, etcd), cast(Any, SimpleNamespace(puts=puts)), cast(Any, meter),
        Usage(10.0, {"client": 3.0}),
    )  # fmt: skip
    found = await series.point(8, 2, 1.0)
    assert calls == [
        "command 8", "frozen 8",
        "frozen 8", "command 8", "frozen 8", "put 8", "command 8", "frozen 8", "put 8",
    ]  # fmt: skip
    assert [each.put_rate for each in found.trials] == [150.0, 300.0]
    assert found.trials[0].cpu_us == {"client": pytest.approx(1_000.0)}  # 0.6 s less 0.3 s at rest, by 300 commands
    assert found.ratio == pytest.approx(1.5)


# --- CPU time ---------------------------------------------------------------------------------------------------------


def test_the_cpu_time_of_a_process_includes_its_threads_that_have_ended() -> None:
    before = cpu_s(os.getpid())
    end = time.process_time() + 0.02
    while time.process_time() < end:
        pass
    assert 0.02 <= cpu_s(os.getpid()) - before < 5.0


def test_processes_are_counted_by_kind() -> None:
    """This process is the client. A process that does not run is not counted."""
    this = SimpleNamespace(running=True, process=SimpleNamespace(pid=os.getpid()))
    gone = SimpleNamespace(running=False, process=SimpleNamespace(pid=1 << 22))
    parts = {"masterd": {"m1": this, "m2": this, "m3": gone}, "etcd": {"e1": this}, "noded": {"n1": gone}}
    cluster = SimpleNamespace(record=SimpleNamespace(parts_of=lambda program: parts[program]))
    used = CpuMeter(cast(Any, SimpleNamespace(cluster=cluster)), "m2").read().cpu_s
    assert {kind for kind, seconds in used.items() if seconds} == {"client", "leader", "standbys", "members"}
    assert used["noded"] == 0


def test_what_a_process_uses_at_rest_is_not_part_of_a_command() -> None:
    rest = Usage(10.0, {"leader": 0.5, "noded": 0.0})
    assert Usage(2.0, {"leader": 1.1, "noded": 0.2}).per_call_us(1_000, rest) == {
        "leader": pytest.approx(1_000.0), "noded": pytest.approx(200.0),
    }  # fmt: skip


def test_the_slowdown_is_relative_to_undisturbed_probes() -> None:
    speed = CoreSpeed()
    for number in range(100):
        speed.add(float(number), 1.0 if number < 50 else 2.0)
    assert speed.slowdown(0.0, 49.0) == 1.0
    assert speed.slowdown(60.0, 70.0) == 2.0
    assert speed.slowdown(99.5, 99.6) == 2.0  # the nearest probe counts, in a short trial
    with pytest.raises(NodectlError, match="did not run during a trial"):
        speed.slowdown(200.0, 201.0)


async def test_the_probe_runs_during_a_trial() -> None:
    begun = time.monotonic()
    async with watch_core_speed() as speed:
        assert 1.0 <= speed.slowdown(begun, time.monotonic()) < 100.0


# --- the curve --------------------------------------------------------------------------------------------------------


def test_the_cpu_time_of_a_command_is_that_on_undisturbed_cores() -> None:
    """Each trial is divided by its slowdown. noded is not on the path of a command, so it does not count."""
    found = point()
    assert (found.cpu_us("leader"), found.cpu_us("client")) == (92.5, 7.5)
    assert (found.total_us, found.slowdown) == (100.0, 1.5)
    assert found.ratio == pytest.approx(1.625)


def test_the_figures_carry_the_goals() -> None:
    """One command by its latency, 4, 16 and 64 callers by their rates, and the CPU time of 64."""
    found = {item.name: item.goal for item in commands.curve_figures([point(n) for n in commands.CALLERS], "")}
    assert {name: goal for name, goal in found.items() if goal} == {
        "one command through Client": "at most 2x (aim: 1.7x)",
        "commands of 4 callers of one Client": "at least 0.9x (aim: 1.1x)",
        "commands of 16 callers of one Client": "at least 1.2x (aim: 1.5x)",
        "commands of 64 callers of one Client": "at least 2.2x (aim: 2.6x)",
        "CPU of a command, 64 callers": "median at most 140 us (aim: 115)",
    }
    assert "CPU of a command, 1 caller" in found


def test_tables_of_the_curve_show_the_change() -> None:
    head, row = cpu_rows([point()], {64: 125.0})
    assert dict(zip(head, row, strict=True)) == {
        "callers": "64", "client": "8", "leader": "92", "together": "100", "recorded": "125", "change": "-20%",
        "noded": "375", "slowdown of the cores": "1.50x",
    }  # fmt: skip
    assert rate_rows([point()])[1] == ["64", "150", "90", "1.62x", "70", "1.0", "1.0", "2.0", "2.0"]


def test_curves_with_tls_and_nodeds_are_compared_with_the_first() -> None:
    """Each has its tables; the first one is compared with the recorded CPU time."""
    found = dict(Curves([point()], [point()], [point()], {64: 125.0}).tables())
    assert [title for title in found if "CPU" not in title] == [
        "commands by the number of callers", "commands by the number of callers, nine nodeds",
        "commands by the number of callers, with TLS",
    ]  # fmt: skip
    compared = {title: rows[0][-4] for title, rows in found.items() if "CPU" in title}
    assert list(compared.values()) == ["recorded", "without nodeds", "without TLS"]
    assert [rows[1][-3] for title, rows in found.items() if "CPU" in title] == ["-20%", "+0%", "+0%"]
    assert list(Curves().tables()) == []


def test_noded_has_a_row_of_its_own() -> None:
    """Its CPU time for a command is that on undisturbed cores too."""
    found = commands.noded_figure(point())
    assert (found.median, found.goal) == (375.0, "")


def test_the_picture_of_the_curve_stays_inside() -> None:
    """Two lines for rates and four for latencies, within the frame."""
    tree = ElementTree.fromstring(curve_picture.svg([point(n) for n in commands.CALLERS]))
    width, height = (float(part) for part in tree.attrib["viewBox"].split()[2:])
    lines = [part.attrib["points"].split() for part in tree.iter() if part.tag.endswith("polyline")]
    assert len(lines) == 6
    places = [tuple(map(float, place.split(","))) for line in lines for place in line]
    assert all(0 <= x <= width and 0 <= y <= height for x, y in places)


def test_recorded_figures_are_of_the_same_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A partial run keeps the other figures; those of another machine are not used."""
    path = tmp_path / "recorded.json"
    assert recorded.load(path).median("one") is None
    recorded.save("first", [figure("one", [1.0], "ms"), figure("two", [2.0], "ms")], [point()], path)
    recorded.save("second", [figure("two", [3.0], "ms")], [], path)
    found = recorded.load(path)
    assert (found.median("one"), found.median("two"), found.cpu_us) == (1.0, 3.0, {64: 100.0})
    monkeypatch.setattr(recorded, "machine", lambda: "another one")
    assert recorded.load(path).cpu_us == {}


# --- starts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "goal", "met"), [(None, "", None), (100.0, "at most 1.1x", True), (90.0, "at most 1.1x", False)]
)
async def test_a_start_is_judged_by_what_it_cost_before(
    monkeypatch: pytest.MonkeyPatch, before: float | None, goal: str, met: bool | None
) -> None:
    """Its CPU time is divided by the slowdown of the cores. Without a recorded time it is not judged."""

    @asynccontextmanager
    async def watch() -> AsyncIterator[Any]:
        yield SimpleNamespace(slowdown=lambda begun, ended: 2.0)

    async def standby(_: object) -> starts.Start:
        return starts.Start(10.0, 11.0, 0.8)

    monkeypatch.setattr(starts, "watch_core_speed", watch)
    monkeypatch.setattr(starts, "_nodectl_help", lambda: starts.Start(10.0, 10.5, 0.2))
    monkeypatch.setattr(starts, "_standby", standby)
    data = {} if before is None else {"figures": {"CPU of the start of nodectl --help": {"median": before}}}
    found = {item.name: item for item in await starts.starts(cast(Any, None), recorded.Recorded(data), 2)}
    judged = found["CPU of the start of nodectl --help"]
    assert (judged.median, judged.goal, judged.met) == (100.0, goal, met)
    assert found["start of nodectl --help"].median == 500.0
    assert found["CPU of the start of a masterd until it stands by"].median == 400.0


def test_the_help_of_nodectl_is_run_as_a_program() -> None:
    found = starts._nodectl_help()
    assert found.ended > found.begun
    assert found.cpu_s > 0
