"""Commands compared with the frozen put, by the number of callers: rates, latencies, and CPU time by process.

Trials of puts and of commands alternate, so that noise of the machine affects both. Each command changes its node's
document, and so its spec.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from bench.harness.baseline import Baseline
from bench.harness.callers import Call, run_callers
from bench.harness.cluster import VALUE, BenchCluster, in_turns
from bench.harness.commands import send_command
from bench.harness.core_speed import CoreSpeed, watch_core_speed
from bench.harness.costs import make_request, make_transaction
from bench.harness.cpu_time import CpuMeter, Usage
from bench.harness.curve import NODED, Point, Trial
from bench.harness.figures import Figure, figure
from bench.harness.goals import CPU_OF_A_COMMAND, ONE_COMMAND, RATE
from bench.harness.load import Load
from bench.harness.yardstick import Yardstick, open_yardstick
from nodectl import Client
from nodestore.etcd.session import Etcd

CALLERS = (1, 2, 4, 8, 16, 32, 64, 256)
QUICK_CALLERS = (1, 4, 16, 64)
MANY = 64
PUTS = "frozen puts, as many in flight"
_BLOCK = 20
_PUT = "one frozen put"
_SESSION_PUT = "a put through our session"
_WARM_UP_S = 0.2
_PUT_TIMEOUT_S = 30.0
"""As that of the frozen put. An overloaded machine must not end the measurement."""
_REST_S = 3.0
_LONGER = 3
"""A trial with MANY callers lasts so many times as long. Within one second the leader writes a snapshot, or none: it
takes as much CPU time as some thousand commands, so short trials differ by half."""
_PART_OF_PUTS = 0.5
"""A trial of puts lasts this part of a trial of commands."""


def make_put(etcd: Etcd) -> Call:
    """Return a call by which each caller puts a key of its own through our session."""
    return lambda number: etcd.put(f"/bench/{number}", VALUE, timeout_s=_PUT_TIMEOUT_S)


class TrialSeries:
    """Takes trials of frozen puts, commands and puts through our session in turns."""

    def __init__(self, client: Client, etcd: Etcd, yardstick: Yardstick, meter: CpuMeter, rest: Usage) -> None:
        self._send: Call = lambda _: send_command(client)
        self._put = make_put(etcd)
        self._yardstick, self._meter, self._rest = yardstick, meter, rest

    async def point(self, callers: int, trials: int, seconds: float) -> Point:
        """Measure with this many callers; the slowdown of the trials is not known yet."""
        puts_s = seconds * _PART_OF_PUTS
        await run_callers(self._send, callers, _WARM_UP_S)
        await self._yardstick.puts(callers, _WARM_UP_S)
        taken: list[Trial] = []
        ours: list[Load] = []
        bare = [await self._yardstick.puts(callers, puts_s)]
        for _ in range(trials):
            trial = await self._trial(callers, seconds * _LONGER if callers == MANY else seconds)
            bare.append(await self._yardstick.puts(callers, puts_s))
            taken.append(replace(trial, put_rate=(bare[-2].rate + bare[-1].rate) / 2))
            ours.append(await run_callers(self._put, callers, puts_s / 2))
        return Point(callers, taken, bare, ours)

    async def _trial(self, callers: int, seconds: float) -> Trial:
        begun, before = time.monotonic(), self._meter.read()
        load = await run_callers(self._send, callers, seconds)
        cpu_us = self._meter.since(before).per_call_us(load.calls, self._rest)
        return Trial(load, cpu_us, begun, time.monotonic())


async def measure_curve(
    bench_cluster: BenchCluster, baseline: Baseline, callers: Sequence[int], trials: int, seconds: float
) -> list[Point]:
    """Measure commands with each number of callers: `trials` trials of `seconds` seconds each, of MANY three times as
    long."""
    leader = await bench_cluster.client.leader()
    meter = CpuMeter(bench_cluster, leader.id)
    async with watch_core_speed() as speed, open_yardstick(baseline.endpoints[0], baseline.tls_files) as yardstick:
        series = TrialSeries(bench_cluster.client, baseline.etcd, yardstick, meter, await meter.at_rest(_REST_S))
        points = [await series.point(count, trials, seconds) for count in callers]
        return [with_slowdowns(point, speed) for point in points]


def with_slowdowns(point: Point, speed: CoreSpeed) -> Point:
    """Return the point with the slowdown of each trial."""
    trials = [replace(trial, slowdown=speed.slowdown(trial.begun, trial.ended)) for trial in point.trials]
    return replace(point, trials=trials)


_HOW = (
    "Tasks that share one Client send one command after the other, each when the last is acknowledged. Puts: the "
    "program bench/harness/frozen_put.py, with as many in flight. Trials of puts and of commands alternate, after a "
    "warm-up. No noded runs; three masterds and three members do. "
)
_CPU_HOW = (
    "All processes on the path of a command: client, leader, two standbys, three members; without what they use at "
    "rest in the same time. The median of the trials, each divided by the slowdown of the cores during it: how much "
    "more CPU time than undisturbed the same work took in a process of its own (bench/harness/speed_probe.py)."
)


def curve_figures(points: Sequence[Point], member: str) -> list[Figure]:
    """Return the rows of the table. member: a description of the member that the puts used."""
    figures = []
    for point in points:
        if point.callers == 1:
            figures.append(_one_command(point, member))
        else:
            figures.append(_rate(point, member))
    return figures + [_cpu(point) for point in points if point.callers in (1, MANY)]


def _one_command(point: Point, member: str) -> Figure:
    ms = [ms for trial in point.trials for ms in trial.commands.latencies_ms]
    puts = [ms for load in point.puts for ms in load.latencies_ms]
    return figure("one command through Client", ms, "ms", puts, _PUT, goals=[ONE_COMMAND], how=_HOW + member)


def _rate(point: Point, member: str) -> Figure:
    goal = RATE.get(point.callers)
    return figure(
        f"commands of {point.callers} callers of one Client", [trial.commands.rate for trial in point.trials], "1/s",
        [load.rate for load in point.puts], PUTS, goals=[goal] if goal else [], how=_HOW + member,
        ratios=[trial.ratio for trial in point.trials],
    )  # fmt: skip


def _cpu(point: Point) -> Figure:
    name = f"CPU of a command, {point.callers} caller{'s' if point.callers > 1 else ''}"
    goals = [CPU_OF_A_COMMAND] if point.callers == MANY else []
    return figure(name, point.totals_us, "us", goals=goals, how=_CPU_HOW)


def noded_figure(point: Point) -> Figure:
    """Return the row about noded, from trials while all nodeds run."""
    us = [trial.cpu_us[NODED] / trial.slowdown for trial in point.trials]
    return figure(
        f"CPU of noded for a command, {point.callers} callers", us, "us",
        how="All nine nodeds together, while they follow commands that change their specs. A node applies its newest "
        "spec and skips those before it, so this is no share of a command's path. Without what noded uses at rest, "
        "divided by the slowdown of the cores.",
    )  # fmt: skip


async def parts_of_a_command(bench_cluster: BenchCluster, baseline: Baseline, trials: int) -> list[Figure]:
    """Measure the transaction and the HTTP request of a command alone, compared with puts through our session."""
    etcd, leader = baseline.etcd, await bench_cluster.client.leader()
    async with bench_cluster.http_session() as session:
        actions = {
            "put": lambda: etcd.put("/bench/one", VALUE), "transaction": make_transaction(etcd),
            "request": make_request(session, leader.url),
        }  # fmt: skip
        ms = await in_turns(actions, trials, _BLOCK)
    turns = f"In alternating blocks of {_BLOCK} with puts through our session, from the same process."
    return [
        figure(
            "of one command: the transaction alone", ms["transaction"], "ms", ms["put"], _SESSION_PUT,
            how="One transaction of three compares and five puts, with the sizes of a command of the built-in "
            f"application, in the same session as the puts. {turns}",
        ),
        figure(
            "of one command: the HTTP request alone", ms["request"], "ms", ms["put"], _SESSION_PUT,
            how=f"GET /v1/health on a connection that is kept open, with the same libraries. {turns}",
        ),
    ]  # fmt: skip
