"""The parts of the harness of failing hosts that need no namespaces."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from tests.faults.hosts import __main__ as program
from tests.faults.hosts.clocks import WrongClocks
from tests.faults.hosts.faults import Cuts, Halves, Ring
from tests.faults.hosts.net import address
from tests.faults.hosts.site import Hosts

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
    """Each host has its own, and the operator one that no host has."""
    assert [address("h1"), address("h5"), address("op")] == ["10.77.0.1", "10.77.0.5", "10.77.0.254"]


@pytest.mark.parametrize(
    ("how", "told", "fits"),
    [
        ("+0 x2", {"wall": 2.01, "monotonic": 1.98, "off_s": 9.0}, True),
        ("+0 x2", {"wall": 1.0, "monotonic": 1.0, "off_s": 0.0}, False),
        ("+0 x0.5", {"wall": 0.5, "monotonic": 0.5, "off_s": 0.0}, True),
        ("+0 x0.5", {"wall": 0.5, "monotonic": 1.0, "off_s": 0.0}, False),
        ("-3600s", {"wall": 1.0, "monotonic": 1.0, "off_s": -3600.2}, True),
        ("-3600s", {"wall": 1.0, "monotonic": 1.0, "off_s": 0.1}, False),
    ],
)
def test_a_clock_that_was_right_is_noticed(tmp_path: Path, how: str, told: dict[str, Any], fits: bool) -> None:
    """A run in which a clock was to be wrong, and was not, proves nothing: it fails."""
    clocks = WrongClocks(tmp_path)
    for command in clocks.wrapped("h1", how).values():
        Path(command[-1]).write_text(json.dumps(told) + "\n")
    if fits:
        clocks.check("h1", how)
    else:
        with pytest.raises(AssertionError, match="was to have its clock"):
            clocks.check("h1", how)


@pytest.mark.parametrize(("text", "seconds"), [("90", 90.0), ("90s", 90.0), ("10m", 600.0), ("8h", 28_800.0)])
def test_durations(text: str, seconds: float) -> None:
    """As people write them."""
    assert program.duration(text) == seconds


def test_an_unknown_fault_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """In one line that names those there are."""
    with pytest.raises(SystemExit) as ended:
        program.main(["--only=earthquake"])
    assert ended.value.code == 2
    assert "power-off" in capsys.readouterr().err
