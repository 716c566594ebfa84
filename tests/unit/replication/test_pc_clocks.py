"""The clocks of the PCs: which readings count, and their median."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from masterd.replication.cluster_view import ClusterView
from masterd.replication.pc_clocks import PcClocks
from nodestore.etcd.session import KV, Etcd
from nodestore.etcd.watch import Event
from nodestore.schema.keys import Keys
from nodestore.schema.models import Candidate, Status
from tests.support.fakes.clock import VirtualTime
from tests.support.fakes.etcd import SETTINGS, FakeEtcd

KEYS = Keys("test")


class _Pcs:
    """The cluster view of masterd `m1`, to which readings of other clocks are delivered."""

    def __init__(self, time: VirtualTime) -> None:
        self.time = time
        self.view = ClusterView(Etcd(SETTINGS, connect=FakeEtcd().connect), KEYS)
        self.clocks = PcClocks(self.view, "m1", time.wall_clock, lambda: time.now)

    def master(self, name: str, off_s: float, *, listing: bool = False, late_s: float = 0.0) -> None:
        reading = self.time.wall_clock() + off_s - late_s
        raw = Candidate(id=name, host=name, urls=(), nonce="n", clock=reading).encode()
        key = KEYS.candidate(name)
        if listing:
            self.view.candidates.replace((KV(key, raw, 1, 1, 1, 7),))
        else:
            self.view.candidates.apply_event(Event(key, raw, 1, 1, 7))

    def node(self, name: str, off_s: float, *, listing: bool = False) -> None:
        status = Status(node=name, nonce="n", host=name, phase="idle", time=self.time.wall_clock() + off_s)
        key = KEYS.status_of(name)
        if listing:
            self.view.status.replace((KV(key, status.encode(), 1, 1, 1, 0),))
        else:
            self.view.status.apply_event(Event(key, status.encode(), 1, 1, 0))

    @property
    def off_s(self) -> float:
        return round(self.clocks.target() - self.time.wall_clock(), 3)


@pytest.fixture
def pcs() -> Iterator[_Pcs]:
    with VirtualTime() as time:

        async def build() -> _Pcs:
            return _Pcs(time)

        yield time.run(build())


def test_with_fewer_than_three_pcs_the_own_clock_counts(pcs: _Pcs) -> None:
    pcs.master("m2", 3600)
    assert pcs.off_s == 0


def test_the_median_of_three_ignores_one_wrong_clock(pcs: _Pcs) -> None:
    pcs.master("m2", 3600)
    pcs.master("m3", 1)
    assert pcs.off_s == 1


def test_a_masterd_and_a_noded_of_one_pc_are_one_clock(pcs: _Pcs) -> None:
    pcs.master("m2", 3600)
    pcs.node("m2", 3600)
    assert pcs.off_s == 0


def test_a_status_from_a_listing_may_be_old_and_does_not_count(pcs: _Pcs) -> None:
    pcs.master("m2", -9)
    pcs.node("n1", -86_400, listing=True)
    assert pcs.off_s == 0
    pcs.node("n1", 0.5)
    assert pcs.off_s == 0


def test_a_reading_that_arrives_late_does_not_shift_a_known_clock(pcs: _Pcs) -> None:
    for name in ("m2", "m3"):
        pcs.master(name, 2)
    pcs.time.now += 10
    for name in ("m2", "m3"):
        pcs.master(name, 2, late_s=8)
    assert pcs.off_s == 2


def test_a_clock_that_was_set_back_is_noticed_after_three_readings(pcs: _Pcs) -> None:
    for off in (0, 0, 0, -60, -60, -60):
        pcs.time.now += 10
        pcs.master("m2", off)
        pcs.master("m3", off)
    assert pcs.off_s == -60


def test_a_pc_that_publishes_no_longer_is_forgotten(pcs: _Pcs) -> None:
    for name in ("m2", "m3"):
        pcs.master(name, 5)
    pcs.time.now += 1000
    assert pcs.off_s == 0


def test_a_clock_counts_no_longer_once_its_own_reading_is_too_old(pcs: _Pcs) -> None:
    for name in ("m2", "m3"):
        pcs.master(name, 5)
    pcs.time.now += 600
    pcs.master("m3", 5)
    assert pcs.off_s == 5
    pcs.time.now += 301
    assert pcs.off_s == 0
