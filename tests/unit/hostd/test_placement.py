"""Placement of etcd's members: never fewer healthy voters than a majority, one change at a time, and an end."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostd.placement.decide import AddLearner, Change, HostView, MemberView, Promote, Remove, placement, target


def _host(number: int, *, eligible: bool = True, shows: bool = True, lost: int = 0) -> HostView:
    name = f"pc{number}"
    return HostView(name, f"https://{name}:2380", eligible, shows, lost, (float(number), name))


def _member(number: int, *, learner: bool = False, started: bool = True, healthy: bool = True) -> MemberView:
    return MemberView(number, f"https://pc{number}:2380", learner, started, healthy)


def _applied(change: Change, members: list[MemberView]) -> list[MemberView]:
    """The members after the change, if the PC of a new one starts it at once."""
    if isinstance(change, AddLearner):
        number = int(change.host.removeprefix("pc"))
        new_id = max((item.id for item in members), default=0) + 100
        return [*members, replace(_member(number, learner=True), id=new_id)]
    if isinstance(change, Promote):
        return [replace(item, learner=False) if item.id == change.member else item for item in members]
    return [item for item in members if item.id != change.member]


def _has_quorum(members: list[MemberView]) -> bool:
    voters = [item for item in members if not item.learner]
    return sum(item.healthy for item in voters) > len(voters) // 2


@pytest.mark.parametrize(
    ("eligible", "wanted", "expected"),
    [(0, 3, 1), (1, 3, 1), (2, 3, 1), (3, 3, 3), (4, 3, 3), (9, 3, 3), (3, 5, 3), (4, 5, 3), (5, 5, 5), (9, 1, 1)],
)
def test_the_number_of_members_is_odd_and_two_pcs_have_one(eligible: int, wanted: int, expected: int) -> None:
    assert target(eligible, wanted) == expected


def test_two_pcs_stay_with_one_member() -> None:
    assert placement([_host(1), _host(2)], [_member(1)], 3) is None


def test_the_third_pc_makes_three_members_one_after_another() -> None:
    hosts, members, seen = [_host(1), _host(2), _host(3)], [_member(1)], []
    while (change := placement(hosts, members, 3)) is not None:
        seen.append(str(change))
        members = _applied(change, members)
    assert seen == [
        "add a member on pc2", "give the member on pc2 its vote",
        "add a member on pc3", "give the member on pc3 its vote",
    ]  # fmt: skip


def test_a_learner_that_was_not_started_is_waited_for_and_then_removed() -> None:
    hosts = [_host(1), _host(2), _host(3)]
    members = [_member(1), _member(2, learner=True, started=False, healthy=False)]
    assert placement(hosts, members, 3) is None
    assert placement(hosts, members, 3, overdue={2}) == Remove("pc2", 2, "its PC did not start it in time")


def test_a_learner_of_a_pc_without_a_record_is_removed() -> None:
    members = [_member(1), _member(7, learner=True)]
    assert placement([_host(1)], members, 3) == Remove("https://pc7:2380", 7, "no PC of the cluster has its address")


def test_a_voter_of_a_pc_that_no_record_names_stays() -> None:
    assert placement([_host(1), _host(2), _host(3)], [_member(1), _member(7), _member(8)], 3) is None


def test_a_dead_pc_is_not_replaced_by_itself() -> None:
    hosts = [_host(1), _host(2), _host(3, shows=False), _host(4)]
    assert placement(hosts, [_member(1), _member(2), _member(3, healthy=False)], 3) is None


def test_a_dead_pc_that_leaves_is_removed_before_its_successor_is_added() -> None:
    hosts = [_host(1), _host(2), _host(3, eligible=False, shows=False), _host(4)]
    members = [_member(1), _member(2), _member(3, healthy=False)]
    change = placement(hosts, members, 3)
    assert change == Remove("pc3", 3, "its PC must not have a member any more")
    assert placement(hosts, _applied(change, members), 3) == AddLearner("pc4", "https://pc4:2380")


def test_a_pc_that_leaves_and_still_serves_goes_after_its_successor_has_come() -> None:
    hosts = [_host(1), _host(2), _host(3, eligible=False), _host(4)]
    members, seen = [_member(1), _member(2), _member(3)], []
    while (change := placement(hosts, members, 3)) is not None:
        seen.append(type(change).__name__)
        members = _applied(change, members)
    assert seen == ["AddLearner", "Promote", "Remove"]


def test_the_only_member_moves_to_another_pc() -> None:
    hosts = [_host(1, eligible=False), _host(2)]
    members, seen = [_member(1)], []
    while (change := placement(hosts, members, 3)) is not None:
        seen.append(type(change).__name__)
        members = _applied(change, members)
    assert seen == ["AddLearner", "Promote", "Remove"]


def test_a_member_whose_data_are_lost_is_removed_and_added_anew() -> None:
    members = [_member(1), _member(2), _member(3, healthy=False)]
    change = placement([_host(1), _host(2), _host(3, lost=3)], members, 3)
    assert change == Remove("pc3", 3, "its data are lost")
    assert placement([_host(1), _host(2), _host(3)], _applied(change, members), 3) == AddLearner(
        "pc3", "https://pc3:2380"
    )


def test_no_member_is_removed_if_that_would_cost_the_majority() -> None:
    hosts = [_host(1), _host(2, shows=False), _host(3, eligible=False), _host(4, shows=False)]
    assert placement(hosts, [_member(1), _member(2, healthy=False), _member(3)], 3) is None


def test_the_last_member_is_never_removed() -> None:
    assert placement([_host(1, eligible=False)], [_member(1)], 3) is None


_PCS = st.integers(1, 9)


def _some_of(count: int) -> st.SearchStrategy[set[int]]:
    return st.sets(st.integers(1, count), min_size=1)


@st.composite
def _clusters(draw: st.DrawFn) -> tuple[list[HostView], list[MemberView], int]:
    numbers = range(1, draw(_PCS) + 1)
    flag = st.booleans()
    hosts = [_host(number, eligible=draw(flag), shows=draw(flag)) for number in numbers]
    places: set[int] = draw(_some_of(len(numbers)))
    members = [_member(number, healthy=draw(flag)) for number in sorted(places)]
    lost = draw(st.sampled_from([0, *numbers]))
    hosts = [replace(host, lost_member=lost) if host.name == f"pc{lost}" else host for host in hosts]
    free = [number for number in numbers if number not in {member.id for member in members}]
    with_learner: bool = draw(flag)
    if free and with_learner:
        members.append(_member(draw(st.sampled_from(free)), learner=True, healthy=draw(st.booleans())))
    return hosts, members, draw(st.sampled_from([1, 3, 5]))


@given(_clusters())
def test_a_change_never_costs_the_majority_and_the_changes_come_to_an_end(
    cluster: tuple[list[HostView], list[MemberView], int],
) -> None:
    hosts, members, wanted = cluster
    kept_majority = _has_quorum(members)
    for _ in range(40):
        change = placement(hosts, members, wanted)
        if change is None:
            return
        before, members = members, _applied(change, members)
        assert any(not item.learner for item in members)
        if kept_majority:
            assert _has_quorum(members)
        else:  # a change that etcd could not commit is at least none that makes it worse
            assert not isinstance(change, Remove) or _has_quorum(members) or len(before) > len(members)
    pytest.fail(f"no end: {members}")


@given(st.integers(1, 9), st.sets(st.integers(1, 9), min_size=1), st.sampled_from([1, 3, 5]))
def test_healthy_pcs_end_with_the_number_that_is_wanted(count: int, places: set[int], wanted: int) -> None:
    hosts = [_host(number, eligible=number <= count) for number in range(1, 10)]
    members = [_member(number) for number in sorted(places)]
    while (change := placement(hosts, members, wanted)) is not None:
        members = _applied(change, members)
    assert len(members) == target(count, wanted)
    assert all(not item.learner for item in members)
