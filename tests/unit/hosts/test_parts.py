"""The parts of the harness of failing hosts that need no namespaces."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from nodectl import CommandOutcomeUnknown
from nodestore.errors import Denied, NodectlError, NotLeader, Refused, TooOld, Unavailable
from tests.faults.checkers.history import Recorder, calls, load
from tests.faults.hosts import __main__ as program
from tests.faults.hosts.clients import caller
from tests.faults.hosts.kinds.cuts import Cuts, Halves, Ring
from tests.faults.hosts.kinds.disk_faults import SlowDisk
from tests.faults.hosts.lan import namespaces, slow_disk
from tests.faults.hosts.lan.disks import Fsyncs, fsyncs
from tests.faults.hosts.lan.net import address
from tests.faults.hosts.lan.site import Hosts
from tests.faults.hosts.run import Run

HOSTS = cast(Hosts, type("FiveHosts", (), {"pcs": dict.fromkeys(("h1", "h2", "h3", "h4", "h5"))})())


async def pairs(kind: type[Cuts], seed: int) -> Sequence[tuple[str, str]]:
    return await kind(HOSTS, random.Random(seed)).pairs()


async def test_a_ring_leaves_each_host_two_neighbours() -> None:
    """Each of five sees two of the four others, and is seen by the same."""
    cut = await pairs(Ring, 1)
    assert len(cut) == len(set(cut)) == 10
    for host in HOSTS.pcs:
        lost = {target for source, target in cut if source == host}
        assert len(lost) == 2
        assert lost == {source for source, target in cut if target == host}


async def test_halves_see_nothing_of_each_other_and_all_of_themselves() -> None:
    """Both directions are cut between the two groups, none within one."""
    cut = set(await pairs(Halves, 2))
    assert cut == {(target, source) for source, target in cut}
    few = {source for source, _ in cut if len([1 for one, _ in cut if one == source]) >= 3}
    assert all((source in few) != (target in few) for source, target in cut)


async def test_a_seed_repeats_a_fault() -> None:
    """The same dice cut the same."""
    assert await pairs(Halves, 3) == await pairs(Halves, 3)
    others = [await pairs(Halves, seed) for seed in range(4, 10)]
    third = await pairs(Halves, 3)
    assert any(other != third for other in others)


def test_addresses() -> None:
    """Each host has its own address, and the operator has one that no host has."""
    assert [address("h1"), address("h5"), address("op")] == ["10.77.0.1", "10.77.0.5", "10.77.0.254"]


@pytest.mark.parametrize(("duration_s", "text"), [(90.0, "90s"), (600.0, "10m"), (0.3, "300ms"), (1.25e6, "1250000s")])
def test_a_run_says_how_to_repeat_it(duration_s: float, text: str) -> None:
    """With the same duration, as `make` takes it."""
    assert program.repeat_command(7, duration_s, ["ring"]) == f"make faults SEED=7 DURATION={text} ONLY=ring"


def test_an_unknown_fault_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """In one line that names those there are."""
    with pytest.raises(SystemExit) as ended:
        program.main(["--only=earthquake"])
    assert ended.value.code == 2
    assert "power-off" in capsys.readouterr().err


# --- slow disks ------------------------------------------------------------------------------------------------------

METRICS = """
etcd_disk_wal_fsync_duration_seconds_bucket{le="0.001"} 7
etcd_disk_wal_fsync_duration_seconds_sum 1.25e-01
etcd_disk_wal_fsync_duration_seconds_count 10
etcd_disk_backend_commit_duration_seconds_sum 9
"""


def test_fsyncs_are_read_from_the_members_metrics() -> None:
    """Count and sum, of which the mean is made; what was before can be taken off."""
    assert fsyncs(METRICS) == Fsyncs(10, 0.125)
    assert fsyncs(METRICS).since(Fsyncs(5, 0.025)).mean_ms == pytest.approx(20.0)


@pytest.mark.parametrize(
    ("seen", "complaint"),
    [(Fsyncs(10, 1.0), None), (Fsyncs(10, 0.02), "was to be slow, and was not"), (Fsyncs(0, 0.0), "wrote nothing")],
)
def test_a_disk_that_was_not_slow_is_noticed(seen: Fsyncs, complaint: str | None) -> None:
    """By what etcd itself has measured: a run in which it was to be slow, and was not, fails."""
    fault = SlowDisk(HOSTS, random.Random(1), victim="h1", kind="slow")
    if complaint is None:
        fault.check_slow(seen)
    else:
        with pytest.raises(AssertionError, match=complaint):
            fault.check_slow(seen)
    assert f"{seen.count} of its WAL" in fault.told


def test_what_a_slow_disk_lacks_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line, with the exit code of what cannot be done here; among other faults it is left out."""
    monkeypatch.setattr(slow_disk, "DEVICE", tmp_path / "fuse")
    monkeypatch.setattr(namespaces, "check", lambda: None)
    assert program.main(["--only=slow-disk"]) == namespaces.CANNOT
    assert "slow-disk: " in (told := capsys.readouterr().err)
    assert told.count("\n") == 1
    said: list[str] = []
    run = Run(tmp_path, 1, 1.0, ["slow-disk", "ring"], said.append)
    assert run.fault_names() == ["ring"]
    assert "slow-disk is left out: " in said[0]


# --- answers to a client ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (TooOld("it may have run"), "unknown"),
        (CommandOutcomeUnknown("nobody answered", command_id="c", after=0), "unknown"),
        (Denied("not you"), "unknown"),
        (NodectlError("something else"), "unknown"),
        (Refused("no"), "fail"),
        (Unavailable("nobody there"), "fail"),
        (NotLeader("not me"), "fail"),
    ],
)
async def test_only_what_surely_did_not_run_counts_as_failed(tmp_path: Path, error: NodectlError, end: str) -> None:
    """Of all else it is left open whether it ran: to call it failed would accuse the cluster of what is no fault."""

    class Answers:
        async def command(self, *_: Any, **__: Any) -> None:
            raise error

    with Recorder(tmp_path / "history") as record:
        told = await caller.send(cast(Any, Answers()), record, "c1", "c1-1", "node.set", {}, 1.0)
    (call,) = calls(load(tmp_path / "history"))
    assert (told, call.end) == (end, end)


# --- repeating a run -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("make") is None, reason="make is missing: on Debian, apt-get install make")
def test_a_run_that_found_something_says_how_to_repeat_it(tmp_path: Path) -> None:
    """In one command, which asks for the same seed, the same time and the same faults."""
    said: list[str] = []

    class Finds(Run):
        async def go(self) -> list[str]:
            return ["something"]

    assert program.report(Finds(tmp_path, 7, 90.0, ["ring", "kill"], said.append)) == 1
    again = said[-1].partition("repeat: ")[2]
    done = subprocess.run(
        [*again.split(), "--dry-run"], cwd=namespaces.ROOT, capture_output=True, text=True, timeout=20.0
    )
    (line,) = [line for line in done.stdout.splitlines() if program.MODULE in line]
    assert "--duration=90s --seed=7 --only=ring,kill " in line
    assert "CHAOS_SECONDS=90s CHAOS_SEED=7 " in done.stdout  # without root


@pytest.mark.skipif(not Path("/bin/bash").exists(), reason="bash is missing")
@pytest.mark.parametrize(("given", "told"), [({}, "true"), ({"CI": "mine"}, "mine")])
def test_the_check_of_a_change_says_that_it_is_one(tmp_path: Path, given: dict[str, str], told: str) -> None:
    """`.ci/run` sets CI for every program that it starts."""
    for name in ("make", "iptables", "faketime", "fusermount3"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho "$CI" >> {tmp_path}/told\n')
        (tmp_path / name).chmod(0o755)
    env = {key: value for key, value in os.environ.items() if key != "CI"}
    env |= {"PATH": f"{tmp_path}:{os.environ['PATH']}", **given}
    subprocess.run(
        ["/bin/bash", ".ci/run"], cwd=namespaces.ROOT, env=env, check=True, capture_output=True, timeout=60.0
    )
    assert set((tmp_path / "told").read_text().split()) == {told}
