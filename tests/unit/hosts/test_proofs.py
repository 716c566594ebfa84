"""Proofs that a fault of a host had its effect: each proof must also detect that it had none."""

from __future__ import annotations

import asyncio
import random
import signal
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from nodestore.errors import Compacted
from nodestore.etcd.watch import Changes, Event
from nodestore.schema.keys import Keys
from tests.faults.checkers.history import Recorder, load
from tests.faults.hosts.judgement import store_watch
from tests.faults.hosts.kinds import disk_faults
from tests.faults.hosts.kinds import fault as fault_module
from tests.faults.hosts.kinds.clock_fault import measured
from tests.faults.hosts.kinds.disk_faults import FullDisk, fill
from tests.faults.hosts.kinds.fault import Fault, FaultFailed, settle, strike
from tests.faults.hosts.kinds.faults import Pause, all_stopped
from tests.faults.hosts.lan import capture, clocks, probe
from tests.faults.hosts.lan.clocks import Measured, WrongClocks, complaint
from tests.faults.hosts.lan.net import Lan
from tests.faults.hosts.lan.pc import Pc, Site
from tests.faults.hosts.lan.site import Hosts
from tests.support.waiting import eventually

DICE = random.Random(1)

# --- clocks ----------------------------------------------------------------------------------------------------------

BEFORE = Measured(7, 100.0, 5000.0, 100.0)


def shown(step_s: float, rate: float, *, jump_s: float = 0.0, pid: int = 7) -> list[Measured]:
    """Return four measurements after BEFORE."""
    return [
        Measured(pid, 100.0 + passed, 5000.0 + step_s + passed * rate, 100.0 + jump_s + passed * rate)
        for passed in (0.5, 1.0, 1.5, 2.0)
    ]


@pytest.mark.parametrize(
    ("how", "lines", "why"),
    [
        ("+3600s", shown(3600, 1.0), None),
        ("-3600s", shown(-3600, 1.0), None),
        ("+0s", shown(0, 1.0), None),
        ("+0 x2", shown(0, 2.0), None),
        ("+0 x0.5", shown(0, 0.5), None),
        ("+3600s", shown(0, 1.0), "it measured"),
        ("+3600s", shown(-3600, 1.0), "it measured"),
        ("+3600s", shown(3600, 1.0, jump_s=3600.0), "it measured"),
        ("+0s", shown(3600, 1.0), "it measured"),
        ("+0 x2", shown(0, 1.0), "it measured"),
        ("+0 x1", shown(0, 2.0), "it measured"),
        ("+3600s", shown(3600, 1.0, pid=8), "started anew"),
        ("+3600s", [], "has not measured"),
        ("+3600s", shown(3600, 1.0)[:1], "has not measured"),
    ],
)
def test_a_clock_that_was_right_is_noticed(how: str, lines: list[Measured], why: str | None) -> None:
    """So is one that went wrong with a new process only, and a step of the clock that no step may touch."""
    found = complaint(lines, BEFORE, how)
    assert (found is None) if why is None else (found is not None and why in found)


def test_some_hosts_have_clocks_that_step_and_others_clocks_with_a_rate(tmp_path: Path) -> None:
    """At least two of five, whatever the seed; the same ones for the same seed."""
    names = ["h1", "h2", "h3", "h4", "h5"]
    found = [WrongClocks(tmp_path, names, seed) for seed in range(20)]
    for wrong in found:
        assert all(len(wrong.of_kind(how)) >= 2 for how in clocks.CLOCKS.values())
    assert WrongClocks(tmp_path, names, 3).kinds == found[3].kinds
    assert len({tuple(sorted(wrong.kinds.items())) for wrong in found}) > 1


@pytest.mark.skipif(clocks.missing() is not None, reason=str(clocks.missing()))
@pytest.mark.parametrize("how", sorted(clocks.CLOCKS.values()))
async def test_a_clock_goes_wrong_and_right_again_under_a_running_program(tmp_path: Path, how: str) -> None:
    """One process measures before, during and after; its monotonic clock does not jump."""
    wrong = WrongClocks(tmp_path, ["h1", "h2"])
    (host,) = wrong.of_kind(how)
    programs = [
        subprocess.Popen([*argv, "-m", "tests.faults.pause"])  # noqa: ASYNC220 - returns at once
        for argv in wrong.wrapped(host).values()
    ]
    try:
        await eventually(lambda: len(wrong.last(host)) == len(programs), "they measure")
        before = wrong.last(host)
        with pytest.raises(AssertionError, match="to have its clock at"):
            assert not (why := wrong.wrong(host, before, how)), why[0]
        wrong.set(host, how)
        await measured(wrong, host, before, how)
        wrong.mend(host)
        await measured(wrong, host, before, clocks.RIGHT[clocks.kind_of(how)])
    finally:
        for program in programs:
            program.kill()
            program.wait(10.0)


# --- packets ---------------------------------------------------------------------------------------------------------


def packet(source: str, target: str, ports: tuple[int, int], flags: int) -> bytes:
    """IPv4 and TCP headers, as far as they are read."""
    addresses = b"".join(bytes(int(part) for part in place.split(".")) for place in (source, target))
    return bytes([0x45]) + bytes(11) + addresses + struct.pack("!HHIIBB", *ports, 0, 0, 0x50, flags)


def test_what_was_said_is_read_from_packets() -> None:
    """Addresses, ports and what it was; of a packet that was cut short nothing."""
    whole = packet("10.77.0.1", "10.77.0.2", (5000, 2380), 0x11)
    assert capture.parsed(whole, 3.0) == capture.SeenPacket(3.0, "10.77.0.1", "10.77.0.2", (5000, 2380), "FIN")
    assert capture.parsed(whole[:30], 3.0) is None
    assert capture.parsed(b"", 3.0) is None


def test_what_was_left_of_a_dead_pc_is_told_from_what_it_says_anew() -> None:
    """A FIN on a connection that was not opened since is of a program that lost its power; a RST is the new kernel's
    answer to what still comes for such a one."""
    (a, b), since = ("10.77.0.1", "10.77.0.2"), 10.0

    def seen(at: float, source: str, ports: tuple[int, int], kind: str) -> capture.SeenPacket:
        return capture.SeenPacket(at, source, b if source == a else a, ports, kind)

    fine = [
        seen(9.0, a, (1, 2), "FIN"),
        seen(11.0, a, (1, 2), "RST"),
        seen(11.0, b, (2, 1), "FIN"),
        seen(11.5, b, (9, 8), "SYN"),
        seen(12.0, a, (8, 9), "FIN"),
    ]
    assert capture.leftovers(fine, a, since) == []
    late = seen(12.0, a, (3, 4), "FIN")
    assert capture.leftovers([seen(9.5, a, (3, 4), "SYN"), *fine, late], a, since) == [late]


@pytest.mark.parametrize(
    ("cut", "lost", "why"),
    [
        ({("h1", "h2")}, {("h1", "h2")}, None),
        (set(), set(), None),
        ({("h1", "h2")}, set(), "was to be cut, and is heard: h1 by h2"),
        ({("h1", "h2")}, {("h1", "h2"), ("h2", "h1")}, "was not to be cut, and is not heard: h2 by h1"),
        (set(), {("op", "h1")}, "was not to be cut, and is not heard: op by h1"),
    ],
)
def test_a_cut_that_cuts_too_little_or_too_much_is_noticed(
    cut: set[probe.Pair], lost: set[probe.Pair], why: str | None
) -> None:
    """The proof compares which hosts received messages from which."""
    hosts = ["h1", "h2"]
    assert probe.complaint(cut, probe.pairs(hosts) - lost, hosts) == why


# --- processes and disks ---------------------------------------------------------------------------------------------


@pytest.fixture
def pc(tmp_path: Path) -> Iterator[Pc]:
    """One whose masterd is a process that waits."""
    made = Pc("h1", Site(tmp_path, cast(Lan, None), Path("etcd"), ("h1",)))
    made.running["masterd"] = subprocess.Popen([sys.executable, "-m", "tests.faults.pause"])
    yield made
    made.kill("masterd")


def hosts_of(pc: Pc) -> Hosts:
    return cast(Hosts, type("OneHost", (), {"pcs": {"h1": pc}, "disks": {}})())


async def test_a_pause_has_stopped_every_process(pc: Pc) -> None:
    """There are processes and all are stopped. One that runs during the pause is detected at its end."""
    fault = Pause(hosts_of(pc), DICE, victim="h1", programs=("masterd",))
    await eventually(fault.stopped, "it is stopped")
    await fault.end()
    await eventually(lambda: not all_stopped(pc.states("masterd")), "it goes on")
    await eventually(fault.stopped, "it is stopped")
    pc.signal("masterd", signal.SIGCONT)
    await eventually(lambda: not all_stopped(pc.states("masterd")), "it goes on")
    with pytest.raises(AssertionError, match="were to be stopped until now"):
        await fault.end()


def test_nothing_is_not_stopped() -> None:
    """A pause of a program that does not run is none."""
    assert not all_stopped({})


async def test_a_full_disk_counts_once_etcd_has_noticed(pc: Pc, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault counts once etcd has reported the full disk or ended."""
    monkeypatch.setattr(disk_faults, "fill", lambda path: None)
    pc.running["etcd"] = pc.running["masterd"]
    log = pc.log("etcd")
    log.parent.mkdir()
    log.write_text("no space left on device\n")
    fault = FullDisk(hosts_of(pc), DICE, victim="h1", member=pc.pid("etcd"), said=log.stat().st_size)
    assert not await fault.noticed()
    with log.open("a") as file:
        file.write("write wal: no space left on device\n")
    assert await fault.noticed()
    fault.said = log.stat().st_size
    assert not await fault.noticed()
    pc.kill("masterd")
    assert await fault.noticed()


def test_what_hinders_filling_a_disk_but_room_is_told(tmp_path: Path) -> None:
    """A disk that is not there cannot be full."""
    with pytest.raises(FileNotFoundError):
        fill(tmp_path / "missing" / "filler")


# --- report of a failed fault ----------------------------------------------------------------------------------------


class Broken(Fault):
    """A fault that fails at the given step."""

    where = ""

    def _at(self, where: str) -> None:
        assert self.where != where, f"it did nothing in {where}"

    async def begin(self) -> None:
        self.told = "h1"
        self._at("begin")

    async def end(self) -> None:
        self._at("end")
        if self.where == "begin":
            raise KeyError("what comes of it")

    async def settled(self) -> None:
        self._at("settled")


@pytest.mark.parametrize("where", ["begin", "end", "undone", "settled"])
async def test_a_fault_that_did_nothing_is_named_with_its_seed(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line, and what comes of it does not hide it."""

    async def undone(_: Hosts) -> None:
        assert where != "undone", "it did nothing in undone"

    monkeypatch.setattr(fault_module, "undone", undone)
    hosts = cast(Hosts, type("Captured", (), {"capture": type("Looks", (), {"drain": lambda self: None})()})())
    fault = Broken(hosts, DICE, lasts_s=0.0)
    fault.where = where

    async def whole() -> None:
        await strike("ring", 7, fault)
        await settle("ring", 7, fault)

    with pytest.raises(FaultFailed) as failed:
        await whole()
    assert str(failed.value).startswith(f"fault ring (h1; seed 7): it did nothing in {where}")


# --- the harness's own watch -----------------------------------------------------------------------------------------

KEYS = Keys("hosts")


def change(revision: int) -> Changes:
    """Return a status at `revision` under its own key, which the watch did not deliver."""
    return Changes(revision, (Event(KEYS.prefix + f"other/{revision}", b"{}", revision, revision, 0),))


def union() -> tuple[store_watch.Union, list[int], list[tuple[int, int]]]:
    told: list[int] = []
    holes: list[tuple[int, int]] = []
    made = store_watch.Union(
        lambda kv: told.append(kv.mod_revision),
        lambda first, last: holes.append((first, last)),
        lambda key, revision: told.append(-revision),
    )
    return made, told, holes


def test_two_watches_tell_each_revision_once_and_in_order() -> None:
    """Whichever shows it first, with all changes of a revision; deletions too."""
    made, told, holes = union()
    both = Changes(2, (Event("a", b"", 2, 2, 0), Event("b", None, 2, 1, 0)))
    for changes in (change(1), both, both, change(1), change(3), change(2), change(4)):
        made.take(changes)
    assert told == [1, 2, -2, 3, 4]
    assert holes == []


def test_what_no_watch_has_is_a_hole() -> None:
    """What one of them has shown is none."""
    made, told, holes = union()
    made.take(change(3))
    made.lost(3)
    assert holes == []
    made.lost(8)
    made.take(change(7))
    made.take(change(9))
    assert holes == [(4, 8)]
    assert told == [3, 9]


Follow = Callable[..., AsyncIterator[Changes]]


async def watched(
    monkeypatch: pytest.MonkeyPatch, directory: Path, follow: Follow, done: int, wait_s: float
) -> list[str]:
    """What two watches come to that show what `follow` does, once they are through with revision `done`;
    what one lacks is waited for as long as `wait_s`."""
    monkeypatch.setattr(store_watch, "follow", follow)
    with Recorder(directory / "history") as record:
        watch = store_watch.StoreWatch(cast(Any, ("first", "second")), KEYS, record, wait_s=wait_s)

        def through() -> bool:
            watch.check()
            return watch.union.done >= done

        try:
            await eventually(through, "they are through")
        finally:
            await watch.close()
    return store_watch.holes(load(directory / "history"))


async def test_a_compaction_that_one_watch_survives_leaves_no_hole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other brings what the first has lost, be it late."""

    async def follow(session: Any, _: str, *, end: bytes, revision: int) -> AsyncIterator[Changes]:
        if session == "first" and revision < 5:
            raise Compacted(5)
        for number in range(revision, 9):
            await asyncio.sleep(0.01)
            yield change(number)
        await asyncio.Event().wait()

    assert await watched(monkeypatch, tmp_path, follow, 8, wait_s=30.0) == []


async def test_a_compaction_of_what_nobody_saw_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The watch continues after the compaction, but a run with a gap is not a success."""

    async def follow(session: Any, _: str, *, end: bytes, revision: int) -> AsyncIterator[Changes]:
        if revision < 5:
            raise Compacted(5)
        yield change(6)
        await asyncio.Event().wait()

    (wrong,) = await watched(monkeypatch, tmp_path, follow, 6, wait_s=0.3)
    assert "revisions 1 to 5" in wrong


async def test_a_watch_that_has_ended_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The finding names what ended the watch."""

    async def follow(session: Any, _: str, *, end: bytes, revision: int) -> AsyncIterator[Changes]:
        yield change(1)
        raise ValueError("something else")

    with pytest.raises(AssertionError, match=r"watch 1 of the store has ended: ValueError\('something else'\)"):
        await watched(monkeypatch, tmp_path, follow, 6, wait_s=0.3)
