"""How `make bench` measures: in turns, equally often, against the right member; and what it reports if trials fail."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pytest

from bench import suite
from bench.harness import baseline
from bench.harness import cluster as harness
from bench.harness.baseline import baseline_at_leader, describe, endpoints_of
from bench.harness.cluster import BenchCluster, in_turns
from bench.harness.figures import figure
from bench.harness.goals import Goal
from bench.measures import at_rest, cold_start, failovers, scenes
from nodectl.demo.interrupts import Ended
from nodectl.dev import launch
from nodectl.dev.cluster import DevCluster
from nodectl.dev.record import Part, Record, save
from nodestore.errors import NodectlError, Unavailable
from nodestore.etcd.types import EtcdSettings, MemberStatus
from nodestore.processes import child_processes
from tests.support.fakes.members import status_response
from tests.support.waiting import eventually

_DEFAULTS: dict[str, Any] = {
    "report": lambda line: None, "http_session": aiohttp.ClientSession,
    "etcd_settings": lambda endpoints: EtcdSettings(endpoints=tuple(endpoints)),
}  # fmt: skip


def faked(**parts_of_it: Any) -> BenchCluster:
    """A BenchCluster with only these parts."""
    return cast(BenchCluster, SimpleNamespace(**(_DEFAULTS | parts_of_it)))


async def test_actions_take_turns_equally_often() -> None:
    """A block of each, again and again; the first block of each is not counted."""
    called: list[str] = []

    async def action(name: str) -> None:
        called.append(name)

    taken = await in_turns({"ours": lambda: action("ours"), "bare": lambda: action("bare")}, 6, 3)
    assert called == (["ours"] * 3 + ["bare"] * 3) * 3
    assert {name: len(times) for name, times in taken.items()} == {"ours": 6, "bare": 6}


# --- the member of the leading master --------------------------------------------------------------------------------


def recorded() -> Record:
    """Three members and two masters, as a development cluster notes them."""
    members = {f"e{number}": Part(program="etcd", ports={"client": 2000 + number, "peer": 1}) for number in (1, 2, 3)}
    masters = {f"m{number}": Part(program="masterd", ports={"api": 8000 + number}) for number in (1, 2)}
    return Record(cluster="c", token="t", parts={**members, **masters})


def test_a_masters_member_is_the_first_it_was_told_of() -> None:
    """By the command line that development clusters start it with."""
    argv = launch.launch_command(recorded(), "m2", launch.ClusterPaths(Path("/nowhere")), Path("etcd"), {}).argv
    assert endpoints_of(argv) == ("127.0.0.1:2002", "127.0.0.1:2003", "127.0.0.1:2001")
    for wrong in (["masterd"], ["masterd", "--endpoints"]):
        with pytest.raises(NodectlError, match="no --endpoints in `masterd"):
            endpoints_of(wrong)


@pytest.mark.parametrize(
    ("led", "leader", "used", "ending"),
    [
        ([False, False], "m2", 2002, "uses: it does not lead etcd."),
        ([True, False, False], "m2", 2002, "uses: it does not lead etcd."),  # it was waited for
        ([False, True], "m2", 2002, "uses: it led etcd for a part of the time."),
        ([False, False], "m1", 2002, "uses: it does not lead etcd. At the end m1 led."),
        ([False, False], "m2", 2003, "does not lead etcd. Their session had to go on with e3."),
        ([False, None], "m2", 2002, "the state at the end is not known: silent."),
    ],
)
async def test_bare_operations_go_to_the_leading_masters_member(
    monkeypatch: pytest.MonkeyPatch, led: list[bool | None], leader: str, used: int, ending: str
) -> None:
    """The row names the member, and whether it was etcd's leader during the measurement."""
    record = recorded()
    found = launch.launch_command(record, "m2", launch.ClusterPaths(Path("/nowhere")), Path("etcd"), {})
    processes = {"m2": SimpleNamespace(process=SimpleNamespace(argv=found.argv))}
    leaders = iter(["m2", leader])
    answers = iter(led)

    class Session:
        endpoint = f"127.0.0.1:{used}"

        def __init__(self, settings: Any) -> None:
            self.settings = settings

        async def __aenter__(self) -> Any:
            return self

        async def __aexit__(self, *_: object) -> None:
            return

        async def call_member(self, endpoint: str, method: str, request: Any, timeout_s: float) -> Any:
            assert (endpoint, method) == ("127.0.0.1:2002", "Maintenance/Status")
            leads = next(answers)
            if leads is None:
                raise Unavailable("silent")
            return status_response(MemberStatus(7, 7 if leads else 8, "3.5.30", 0, 0, 1, 1, 1, ()))

    async def leads() -> Any:
        return SimpleNamespace(id=next(leaders))

    monkeypatch.setattr(baseline, "Etcd", Session)
    on = faked(client=SimpleNamespace(leader=leads), cluster=SimpleNamespace(record=record, processes=processes))
    async with baseline_at_leader(on) as session:
        assert session.etcd.settings.endpoints == ("127.0.0.1:2002", "127.0.0.1:2003", "127.0.0.1:2001")
        text = await session.describe_member()
    assert text.endswith(ending)
    assert text.startswith("Bare operations ")


def test_it_is_said_when_the_member_leads_etcd() -> None:
    """The row says so only if the member was etcd's leader all the time."""
    text = describe(("e1", "e1"), ("m1", "m1"), [True, True])
    assert text == "Bare operations go to e1, the member that the leading masterd, m1, uses: it leads etcd."


# The tests replace private functions that start masterd: the suite has no parameter for them.

# --- what fails -----------------------------------------------------------------------------------------------------


async def test_failovers_that_break_off_say_so_in_their_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values measured before the failure are kept with the planned number.

    A kind without a trial is listed as missing.
    """

    async def once(self: failovers.Failovers, kind: failovers.FailoverKind) -> None:
        if len(kind.gaps) == 2:
            raise ExceptionGroup("tasks", [TimeoutError("it took too long")])
        kind.gaps.append(20.0)

    monkeypatch.setattr(failovers.Failovers, "_run_trial", once)
    measured = failovers.Failovers(faked(cluster=None, client=answering()))
    await measured.measure(5, 2, 3)
    rows = [(item.n, item.planned, "After 2 of" in item.how, item.met) for item in measured.figures()]
    assert rows == [(2, 5, True, True), (2, 2, False, True)]
    assert "After 2 of 5 trials the failovers broke off: it took too long." in measured.figures()[0].how
    assert measured.missing() == {"planned switchover": "the failovers broke off: it took too long"}


async def test_failovers_that_end_well_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Complete series are not marked as incomplete."""

    async def once(self: failovers.Failovers, kind: failovers.FailoverKind) -> None:
        kind.gaps.append(20.0)

    monkeypatch.setattr(failovers.Failovers, "_run_trial", once)
    measured = failovers.Failovers(faked(cluster=None, client=answering()))
    await measured.measure(2, 1, 3)
    assert [(item.n, item.planned, item.is_incomplete) for item in measured.figures()] == [
        (2, 2, False), (1, 1, False), (3, 3, False), (1, 1, False),
    ]  # fmt: skip
    assert measured.missing() == {}
    assert all("had run 7 commands" in item.how for item in measured.figures()[:3])
    assert (measured.figures()[3].median, measured.figures()[3].goal) == (0.0, "at most 0")


@pytest.mark.parametrize(
    ("is_fresh", "name", "goal"), [(False, "(-9)", "at most 35 ms"), (True, "(-9), fresh store", "at most 25 ms")]
)
async def test_a_killed_leader_is_judged_by_the_age_of_the_store(
    monkeypatch: pytest.MonkeyPatch, is_fresh: bool, name: str, goal: str
) -> None:
    """A masterd that remembers many commands has more memory, which the kernel frees before it closes connections."""

    async def once(self: failovers.Failovers, kind: failovers.FailoverKind) -> None:
        kind.gaps.append(30.0)

    monkeypatch.setattr(failovers.Failovers, "_run_trial", once)
    measured = failovers.Failovers(faked(cluster=None, client=answering()), is_fresh=is_fresh)
    await measured.measure(1, 0, 0)
    (found,) = measured.figures()
    assert found.name.endswith(name)
    assert found.goal.startswith(f"median {goal}")
    assert found.met is not is_fresh


def answering() -> Any:
    """A client whose commands get index 7."""

    async def node_set(*_: object) -> Any:
        return SimpleNamespace(index=7)

    return SimpleNamespace(node_set=node_set)


async def test_a_part_that_fails_does_not_end_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The failure of one measurement, or of a task in it, is reported with its reason, and the others run."""

    class Cluster:
        endpoints = ("127.0.0.1:1",)

        def __init__(self, *_: object, **__: object) -> None:
            pass

        async def up(self) -> None:
            pass

        async def destroy(self) -> None:
            pass

        @asynccontextmanager
        async def client(self) -> AsyncIterator[None]:
            yield None

        operator_tls = None

        def etcd_settings(self) -> EtcdSettings:
            return EtcdSettings(endpoints=self.endpoints)

    async def in_a_task(bench: suite.BenchRun) -> None:
        raise ExceptionGroup("tasks", [NodectlError("a node has ended")])

    async def well(bench: suite.BenchRun) -> None:
        bench.figures.append(figure("one", [1.0], "ms"))

    monkeypatch.setattr(suite, "DevCluster", Cluster)
    monkeypatch.setattr(suite, "PARTS", {"nodes": in_a_task, "rest": well})
    bench = suite.BenchRun(suite.QUICK, lambda line: None)
    await bench.run_on_cluster(tmp_path, ["nodes", "rest"])
    assert bench.notes == ["nodes: not measured: a node has ended"]
    assert [item.name for item in bench.figures] == ["one"]


def test_parts_are_measured_again_in_a_cluster_with_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that the trials name, in the order of the first run, after it; their figures have no goals."""
    begun: list[tuple[bool, list[str]]] = []

    async def run_on_cluster(bench: suite.BenchRun, folder: Path, parts: list[str]) -> None:
        begun.append((bench.is_tls, parts))
        bench.figures.append(figure("one", [1.0], "ms", goals=[Goal("median", "at most", 2.0)]))

    monkeypatch.setattr(suite.BenchRun, "run_on_cluster", run_on_cluster)
    found = suite.run(suite.Trials(with_tls=("rest", "commands")), ("commands", "nodes", "rest"), lambda line: None)
    assert begun == [(False, ["commands", "nodes", "rest"]), (True, ["commands", "rest"])]
    assert found.with_tls is not None
    assert (found.figures[0].goal, found.with_tls.figures[0].goal) == ("median at most 2 ms", "")
    assert suite.run(suite.QUICK, ("nodes",), lambda line: None).with_tls is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_its_cleanup(monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    """A second signal does not break the cleanup off. No further part runs, and the folder is gone."""
    monkeypatch.setattr(suite, "POWER", "")
    before, done = signal.signal(number, signal.default_int_handler), list[Path]()

    async def run_on_cluster(bench: suite.BenchRun, folder: Path, parts: list[str]) -> None:
        try:
            signal.raise_signal(number)
            await asyncio.sleep(600.0)
        finally:
            signal.raise_signal(number)
            await asyncio.sleep(0.05)
            done.append(folder)

    monkeypatch.setattr(suite.BenchRun, "run_on_cluster", run_on_cluster)
    try:
        with pytest.raises(Ended) as ended:
            suite.run(suite.QUICK, (), lambda line: None)
    finally:
        signal.signal(number, before)
    assert (ended.value.code, str(ended.value)) == (128 + number, number.name)
    (folder,) = done
    assert not folder.parent.exists()


async def test_a_bench_that_ends_starts_no_nodes_again() -> None:
    """After a failure of a part they are started for the next one; after a signal the cluster ends."""
    calls: list[str] = []

    async def call(name: str) -> None:
        calls.append(name)

    record = SimpleNamespace(parts_of=lambda program: {"n1": None})
    cluster = SimpleNamespace(record=record, stop=lambda n: call(f"stop {n}"), start=lambda n: call(f"start {n}"))

    async def nodes() -> list[dict[str, bool]]:
        return [{"converged": True}]

    on = BenchCluster(cast(Any, cluster), cast(Any, SimpleNamespace(nodes=nodes)), cast(Any, None), Path(), print)

    async def part(error: Exception | None) -> None:
        async with on.without_nodes():
            if error is not None:
                raise error
            await asyncio.sleep(600.0)

    with pytest.raises(NodectlError, match="it failed"):
        await part(NodectlError("it failed"))
    running = asyncio.create_task(part(None))
    await eventually(lambda: len(calls) == 3, "the part runs")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert calls == ["stop n1", "start n1", "stop n1"]


def test_the_reason_of_a_group_is_that_of_the_first() -> None:
    """The reason is the text of the first nested exception, or its type if it has no text."""
    assert harness.failure_reason(ExceptionGroup("", [ExceptionGroup("", [NodectlError("why")])])) == "why"
    assert harness.failure_reason(TimeoutError()) == "TimeoutError"


async def test_commands_that_fail_while_all_is_busy_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failed commands are counted and reported. The name of the row does not depend on the duration."""
    children: list[str] = []

    async def spawn(*_: object, **__: object) -> Any:
        children.append("spawned")
        return SimpleNamespace(stop=stop)

    async def stop(grace_s: float) -> None:
        children.append("stopped")

    async def terms() -> list[dict[str, str]]:
        return [{"nonce": "old", "id": "m1"}]

    sent = itertools.count()

    async def node_set(*_: object) -> None:
        if next(sent) == 1:
            raise Unavailable("nobody leads")

    monkeypatch.setattr(child_processes, "spawn", spawn)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(at_rest, "_PAUSE_S", 0.0)
    found = await at_rest.false_takeovers(faked(client=SimpleNamespace(terms=terms, node_set=node_set)), 0.05)
    assert children == ["spawned", "spawned", "stopped", "stopped"]
    assert found.name == "needless takeovers with all cores busy"
    assert f"{next(sent):,} in all, of which 1 failed" in found.how
    assert (found.median, found.met) == (0.0, True)


# --- rows -----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="PSS is Linux's")
def test_memory_is_told_divided_and_whole() -> None:
    """One row divides shared memory among the processes. Another counts it fully for each process, and has no goal."""
    process = SimpleNamespace(pid=os.getpid())
    record = SimpleNamespace(parts_of=lambda program: {f"{program}1": SimpleNamespace(process=process)})
    found = {item.name: item for item in at_rest.memory(faked(cluster=SimpleNamespace(record=record)), 120_000)}
    assert list(found) == [
        "memory of noded", "memory of masterd", "memory of etcd",
        "memory of noded, all counted as its own (RSS)", "memory of masterd, all counted as its own (RSS)",
    ]  # fmt: skip
    pss, rss = found["memory of masterd"], found["memory of masterd, all counted as its own (RSS)"]
    assert pss.worst < rss.worst
    assert "alone on a PC each has more" in pss.how
    assert (pss.goal, rss.goal) == ("at most 90 MB", "")


async def test_a_cold_start_is_told_with_and_without_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the process's start it takes longer, by what comes before masterd's first line."""

    class Store:
        def __init__(self, *_: object) -> None:
            pass

        async def write(self, inventory: object) -> None:
            pass

    @asynccontextmanager
    async def masterd(cluster: str) -> AsyncIterator[str]:
        stamp = datetime.fromtimestamp(time.time() + 5.0, UTC).isoformat(timespec="milliseconds").replace("+00:00", "")
        (tmp_path / f"{cluster}.log").write_text(f"{stamp}Z INFO    masterd m1: starts; pid 1\n", "utf-8")
        yield "http://there"

    async def answer(url: str) -> float:
        return time.time() + 5.2

    async def config() -> dict[str, Any]:
        return {"current": {"inventory": {}}}

    async def txn(*_: object) -> None:
        pass

    monkeypatch.setattr(cold_start, "_Store", Store)
    monkeypatch.setattr(cold_start, "_first_answer", answer)
    on = faked(
        folder=tmp_path, masterd=masterd, client=SimpleNamespace(config=config), etcd=SimpleNamespace(txn=txn)
    )  # fmt: skip
    after, whole = await cold_start.cold_start(on, 2)
    assert after.name == "cold start of a masterd, after its imports"
    assert whole.name == "cold start of a masterd, from its process's start"
    assert after.median + 4_000 < whole.median
    assert (after.goal, whole.goal, whole.n) == ("under 1,000 ms", "", 2)


def test_what_a_node_costs_is_judged_beside_fewer_nodes() -> None:
    """Time and CPU per node with 1,000 nodes are compared with those of 100 nodes, not the totals."""
    few = scenes.SceneMeasurement(100, [10.0, 20.0] * 100, [0.2, 0.2], {"leader": 300.0, "members": 500.0})
    many = scenes.SceneMeasurement(1_000, [100.0, 200.0] * 500, [0.2], {"leader": 150.0, "members": 600.0})
    found = {item.name: item for item in scenes.scene_figures(few, many)}
    judged = {name: item.ratio for name, item in found.items() if item.goal == "at most 1.2x"}
    assert list(judged.values()) == pytest.approx([1.0, 0.5, 1.2])
    assert found["a scene to 1,000 watching nodes"].ratio == pytest.approx(10.0)
    assert "all 100 nodes: 2 scenes, 200 changes" in found["a scene to 100 watching nodes"].how
    assert "all 1,000 nodes: 1 scenes, 1,000 changes" in found["a scene to 1,000 watching nodes"].how


# --- TLS --------------------------------------------------------------------------------------------------------------


async def test_a_cluster_with_tls_is_measured_with_a_certificate(tmp_path: Path) -> None:
    """The session with etcd, the frozen put and the requests to masters all present the same files."""
    save(tmp_path, recorded().model_copy(update={"tls": True}))
    cluster = DevCluster(tmp_path)
    cluster.paths.certificates.issue(cluster.record, ())
    files = cluster.operator_tls
    assert files is not None
    on = BenchCluster(cluster, cast(Any, None), cast(Any, None), tmp_path, lambda line: None)
    settings = on.etcd_settings(["https://127.0.0.1:1"])
    assert (settings.ca, settings.cert, settings.key) == (files.ca, files.cert, files.key)
    bare = baseline.Baseline(on, cast(Any, SimpleNamespace(settings=settings)), "m1")
    assert bare.tls_files == (str(files.ca), str(files.cert), str(files.key))
    async with on.http_session() as session:
        assert session.connector is not None
