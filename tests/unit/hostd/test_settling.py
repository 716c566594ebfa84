"""When the next change of members may come."""

from __future__ import annotations

from hostd.placement.decide import AddLearner, HostView, MemberView, Promote, Remove, placement
from hostd.placement.placer import PlacementTiming, Settling

_ADD = AddLearner("pc3", "https://pc3:2380")


class _Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def _member(number: int, *, learner: bool = False, started: bool = True, healthy: bool = True) -> MemberView:
    return MemberView(number, f"https://pc{number}:2380", learner, started, healthy)


def _settling(clock: _Clock) -> Settling:
    return Settling(PlacementTiming(settle_s=10.0, learner_s=60.0), clock)


def test_all_members_are_healthy_for_a_while_before_the_next_one_is_added() -> None:
    clock = _Clock()
    settling, members = _settling(clock), [_member(1), _member(2)]
    settling.observe(members)
    assert not settling.may_make(_ADD, members)
    clock.now += 9.0
    settling.observe([_member(1), _member(2, healthy=False)])
    clock.now += 9.0
    settling.observe(members)
    assert not settling.may_make(_ADD, members)
    clock.now += 1.0
    settling.observe(members)
    assert settling.may_make(_ADD, members)


def test_the_second_member_need_not_wait() -> None:
    settling, members = _settling(_Clock()), [_member(1)]
    settling.observe(members)
    assert settling.may_make(_ADD, members)


def test_what_makes_the_members_healthier_waits_for_nothing() -> None:
    settling = _settling(_Clock())
    members = [_member(1), _member(2, healthy=False), _member(3, learner=True)]
    settling.observe(members)
    assert settling.may_make(Promote("pc3", 3), members)
    assert settling.may_make(Remove("pc2", 2, "it leaves"), members)
    assert settling.may_make(Remove("pc3", 3, "it is not needed"), members)
    assert not settling.may_make(Remove("pc1", 1, "it leaves"), members)


def test_a_learner_is_overdue_only_if_its_pc_has_not_started_it() -> None:
    clock = _Clock()
    settling = _settling(clock)
    waiting = [_member(1), _member(2, learner=True, started=False, healthy=False)]
    settling.observe(waiting)
    clock.now += 60.0
    settling.observe(waiting)
    assert settling.overdue() == set()
    clock.now += 1.0
    settling.observe(waiting)
    assert settling.overdue() == {2}
    settling.observe([_member(1), _member(2, learner=True)])
    assert settling.overdue() == set()


def test_after_a_pc_that_did_not_start_its_member_another_one_is_next() -> None:
    clock = _Clock()
    settling = _settling(clock)
    hosts = [HostView(f"pc{item}", f"https://pc{item}:2380", True, True, 0, (float(item), "")) for item in (1, 2, 3)]
    first, late = _member(1), _member(2, learner=True, started=False)
    settling.observe([first, late])
    clock.now += 61.0
    settling.observe([first, late])
    assert isinstance(placement(settling.ordered(hosts), [first, late], 3, settling.overdue()), Remove)
    settling.observe([first])
    assert placement(settling.ordered(hosts), [first], 3) == AddLearner("pc3", "https://pc3:2380")
    third = _member(3)
    settling.observe([first, third])
    assert placement(settling.ordered(hosts), [first, third], 3) == AddLearner("pc2", "https://pc2:2380")
    settling.observe([first, third, _member(2, learner=True)])
    assert settling.ordered(hosts) == hosts
