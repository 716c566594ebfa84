"""What must run on a PC: a table of situations, among them every kind of lost or former data."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hostd.agent.plan import FIRST_MEMBER, Facts, ListedMember, MemberMark, make_plan

_OWN = "https://10.0.0.2:2380"


def _member(number: int, *, learner: bool = False, name: str | None = None) -> ListedMember:
    client = (f"https://10.0.0.{number}:2379",) if name != "" else ()
    return ListedMember(
        number, f"pc{number}" if name is None else name, f"https://10.0.0.{number}:2380", client, learner
    )


def _mark(member: int) -> MemberMark:
    return MemberMark(member, {"pc2": _OWN}, existing=True)


_FACTS = Facts(
    host="pc2", kind="host", peer_url=_OWN, state="in_service", members=(_member(1), _member(2), _member(3)),
    mark=_mark(2), has_data=True,
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "etcd", "masterd", "noded"),
    [
        ({}, "run", True, True),
        ({"kind": "node", "members": (_member(1),), "mark": None, "has_data": False}, "stop", False, True),
        ({"members": (_member(1),)}, "stop", False, True),
        ({"members": (_member(1), _member(2, learner=True, name="")), "mark": None}, "begin", False, True),
        ({"members": (_member(1), _member(2, learner=True, name="")), "mark": _mark(9)}, "begin", False, True),
        ({"members": (_member(1), _member(2, learner=True, name="")), "has_data": False}, "run", False, True),
        ({"members": (_member(1), _member(2, learner=True))}, "run", False, True),
        ({"has_data": False}, "lost", False, True),
        ({"mark": None}, "lost", False, True),
        ({"mark": _mark(9)}, "lost", False, True),
        ({"members": None}, "run", True, True),
        ({"members": None, "state": None}, "run", True, True),
        ({"members": None, "mark": None}, "stop", False, True),
        ({"members": None, "has_data": False}, "stop", False, True),
        ({"members": None, "mark": _mark(FIRST_MEMBER), "has_data": False}, "run", True, True),
        ({"mark": _mark(FIRST_MEMBER)}, "run", True, True),
        ({"mark": _mark(FIRST_MEMBER), "has_data": False}, "lost", False, True),
        ({"state": "drained"}, "run", False, True),
        ({"state": "leaving"}, "run", False, False),
        ({"state": "leaving", "members": (_member(1),)}, "stop", False, False),
        ({"state": "removed", "members": (_member(1),)}, "stop", False, False),
    ],
)
def test_what_must_run(changes: dict[str, object], etcd: str, masterd: bool, noded: bool) -> None:
    plan = make_plan(replace(_FACTS, **changes), ["10.0.0.1:2379"])  # type: ignore[arg-type]
    assert (plan.etcd, plan.masterd, plan.noded) == (etcd, masterd, noded)


def test_a_new_member_begins_with_all_members_of_the_list() -> None:
    members = (_member(1), _member(2, learner=True, name=""))
    plan = make_plan(replace(_FACTS, members=members, mark=None), ["10.0.0.1:2379"])
    assert plan.initial_cluster == {"pc1": "https://10.0.0.1:2380", "pc2": _OWN}
    assert plan.member == 2


def test_endpoints_are_the_members_that_vote_the_own_one_first() -> None:
    assert make_plan(_FACTS, []).endpoints == ("10.0.0.2:2379", "10.0.0.1:2379", "10.0.0.3:2379")
    learner = replace(_FACTS, members=(_member(1), _member(2, learner=True)))
    assert make_plan(learner, []).endpoints == ("10.0.0.1:2379",)
    assert make_plan(replace(_FACTS, members=None), ["10.0.0.9:2379"]).endpoints == ("10.0.0.9:2379",)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"members": (_member(1), _member(3), _member(4)), "mark": None, "has_data": False}, ""),
        ({"members": (_member(1), _member(2, learner=True))}, "catches up"),
        ({"has_data": False}, "its data are lost"),
    ],
)
def test_a_pc_that_needs_no_member_of_etcd_has_no_problem(changes: dict[str, object], reason: str) -> None:
    """Six of nine PCs have none for good: an operator is to see only what needs attention."""
    plan = make_plan(replace(_FACTS, **changes), ["10.0.0.1:2379"])  # type: ignore[arg-type]
    assert plan.reason.startswith(reason) if reason else plan.reason == ""
