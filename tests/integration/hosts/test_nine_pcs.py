"""Nine PCs with a real systemd become a cluster by `nodectl host`, lose power one by one and all at once, and go on.

`NINE_PCS=3` runs it with three PCs. One more PC takes the place of a dead one. Times are printed, and none is asserted:
they depend on the machine.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

import pytest

from tests.lab.host_cluster import HostCluster
from tests.lab.image import nodectl_image
from tests.lab.lab import Lab, LabMissing
from tests.lab.pc import Pc
from tests.support.etcd_cluster import find_etcd
from tests.support.waiting import first_true

PCS = int(os.environ.get("NINE_PCS") or 9)
PATIENCE_S = 240.0
MEMBERS, _AT_ONCE = 3, 4

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1200)]


class Laps:
    """Prints what happened, and how long it took since the last line."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.restart()

    def restart(self) -> None:
        self._last = time.monotonic()

    def __call__(self, text: str) -> None:
        self._print(f"{time.monotonic() - self._last:7.1f} s  {text}")
        self.restart()

    def explain(self, text: str) -> None:
        """Print a line without a time."""
        self._print(f"{'':9}  {text}")

    def _print(self, line: str) -> None:
        with self._capsys.disabled():
            print(line, flush=True)  # noqa: T201


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    try:
        with Lab(tmp_path / "lab", nodectl_image(find_etcd().parent)) as lab:
            yield lab
            for number in lab.numbers:  # shown if the test fails
                if (pc := lab.pc(number)).is_on:
                    print(f"--- {pc.name}\n{pc.run('journalctl --no-pager -o cat -n 30').stdout}", file=sys.stderr)  # noqa: T201
    except LabMissing as reason:
        pytest.skip(str(reason))


@pytest.fixture
def laps(capsys: pytest.CaptureFixture[str]) -> Laps:
    return Laps(capsys)


async def on_all(work: Callable[[Pc], object], pcs: Iterable[Pc]) -> None:
    """Do `work` on each PC, on four at a time."""
    free = asyncio.Semaphore(_AT_ONCE)

    async def one(pc: Pc) -> None:
        async with free:
            await asyncio.to_thread(work, pc)

    await asyncio.gather(*(one(pc) for pc in pcs))


async def is_well(cluster: HostCluster) -> set[str]:
    """Wait until three members vote and `nodectl status --check` finds no problem; return the PCs of the members."""

    def look() -> set[str]:
        voters = cluster.voters()
        return voters if len(voters) == MEMBERS and not cluster.problems() else set()

    what = lambda: f"voters: {cluster.voters()}, problems: {cluster.problems()}"  # noqa: E731
    return set(await first_true(look, what, timeout_s=PATIENCE_S))


async def acknowledged(cluster: HostCluster, key: str, before: Collection[str]) -> None:
    """A new command is acknowledged, and what was acknowledged before is still there."""
    await first_true(lambda: cluster.set(key), lambda: f"{key} is set: {cluster.problems()}", timeout_s=PATIENCE_S)
    document = await first_true(cluster.document, "the document is shown", timeout_s=PATIENCE_S)
    assert set(document) == {*before, key}


async def leader_of(cluster: HostCluster) -> Pc:
    found: Pc = await first_true(cluster.leader, lambda: f"a master leads: {cluster.problems()}", timeout_s=PATIENCE_S)
    return found


async def test_a_cluster_outlives_its_pcs(lab: Lab, tmp_path: Path, laps: Laps) -> None:
    cluster = HostCluster(lab, tmp_path / "operator")
    pcs = [lab.pc(number) for number in range(1, PCS + 1)]
    await asyncio.to_thread(cluster.init)
    laps("host init")
    token = cluster.token()
    await on_all(lambda pc: cluster.join(pc, token), pcs[1:])
    laps(f"{PCS - 1} PCs have joined, {_AT_ONCE} at a time")
    await is_well(cluster)
    cluster.copy_operator_files()
    laps("three members vote, and there is no problem")
    await acknowledged(cluster, "first", ())

    await the_leader_loses_power(cluster, laps)
    voters = await a_dead_pc_is_replaced(cluster, lab.pc(PCS + 1), laps)
    await all_lose_power_and_a_majority_returns(cluster, lab, voters, laps)


async def the_leader_loses_power(cluster: HostCluster, laps: Laps) -> None:
    lost = await leader_of(cluster)
    laps.restart()
    lost.power_off()
    await acknowledged(cluster, "second", ("first",))
    laps(f"the leader's PC, {lost.name}, has lost power: another one has acknowledged a command")
    assert await leader_of(cluster) is not lost
    laps.explain(f"`nodectl why`: {cluster.takeover()}")
    laps.restart()
    lost.on()
    await is_well(cluster)
    laps(f"{lost.name} is back: three members vote, and there is no problem")


async def a_dead_pc_is_replaced(cluster: HostCluster, new: Pc, laps: Laps) -> set[str]:
    """Return the PCs of the members."""
    before = cluster.voters()
    dead = cluster.pc(max(before - {cluster.signer.name}))
    dead.power_off()
    laps.restart()
    await asyncio.to_thread(cluster.join, new, cluster.token())
    laps(f"{dead.name}, of a member, is dead: {new.name} has joined")
    await asyncio.to_thread(cluster.host, f"replace {dead.name} {new.name} --yes")
    voters = await is_well(cluster)
    laps(f"{new.name} has replaced {dead.name}: three members vote, and there is no problem")
    assert voters == before - {dead.name} | {new.name}
    cluster.copy_operator_files()
    return voters


async def all_lose_power_and_a_majority_returns(cluster: HostCluster, lab: Lab, voters: set[str], laps: Laps) -> None:
    """The signer does not return at first: a cluster works without it."""
    on = [pc for number in lab.numbers if (pc := lab.pc(number)).is_on]
    majority = [pc for pc in on if pc.name in voters - {cluster.signer.name}]
    assert len(majority) == 2
    await on_all(Pc.power_off, on)
    laps.restart()
    await on_all(Pc.on, majority)
    await acknowledged(cluster, "third", ("first", "second"))
    laps(f"all have lost power, only {' and '.join(pc.name for pc in majority)} are back: a command is acknowledged")
    await on_all(Pc.on, on)
    assert await is_well(cluster) == voters
    laps("all are back: three members vote, and there is no problem")
