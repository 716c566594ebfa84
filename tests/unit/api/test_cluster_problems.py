"""Problems of the cluster that other programs publish, or that show only in how often something changes."""

from __future__ import annotations

from typing import Any

import pytest

from masterd.api.cluster_problems import (
    application_problems,
    leadership_problem,
    master_problems,
    noded_problems,
    standby_problem,
    waiting_nodeds,
)
from nodestore.schema.models import Alive, ApplicationOrder, Candidate, Cause, TermRecord, Waiting


def _candidate(name: str, **fields: Any) -> Candidate:
    return Candidate(id=name, host=name, urls=(), nonce=name, application="scenes", **fields)


def _candidates(*candidates: Candidate) -> dict[str, Candidate]:
    return {candidate.id: candidate for candidate in candidates}


def test_what_the_other_masters_publish_is_listed() -> None:
    """One line a master; this master's own problems are listed elsewhere."""
    found = master_problems(
        "m1",
        _candidates(
            _candidate("m1", unfit="stuck"), _candidate("m2", unfit="stuck", problem="stuck"),
            _candidate("m3", problem="etcd is nearly full"), _candidate("m4", age_s=40.0), _candidate("m5", age_s=5.0),
        ),
        "m1",
    )  # fmt: skip
    assert found == [
        "master m2 is not fit to lead: stuck",
        "master m3: etcd is nearly full",
        "master m4: its state is 40 s old",
    ]


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ([], "no standby: "),
        ([_candidate("m2")], None),
        ([_candidate("m2", unfit="stuck")], "no standby is fit to lead"),
        ([_candidate("m2", unfit="stuck"), _candidate("m3")], None),
    ],
)
def test_an_unfit_standby_does_not_count_as_one(others: list[Candidate], expected: str | None) -> None:
    """The leader itself does not count either."""
    found = standby_problem(_candidates(_candidate("m1"), *others), "m1")
    assert (found is None) is (expected is None)
    assert (found or "").startswith(expected or "")


def test_an_adoption_that_no_leader_has_carried_out_is_listed() -> None:
    """Until the journal records the application."""
    order, masters = ApplicationOrder(name="b", replaces="a", actor="ann"), [_candidate("m1")]
    assert "was adopted by ann" in application_problems("a", order, masters, "m1")[0]
    assert application_problems("b", order, masters, "m1") == []
    assert application_problems("a", None, masters, "m1") == []


def test_masters_with_other_commands_than_the_leader_are_listed() -> None:
    """A masterd of an older release publishes no hash, and proves nothing."""
    masters = [
        _candidate("m1", commands_hash="x"), _candidate("m2", commands_hash="y"), _candidate("m3", commands_hash="x"),
        _candidate("m4"),
    ]  # fmt: skip
    (line,) = application_problems("scenes", None, masters, "m1")
    assert line.startswith("masters m2 run a version")


def _terms(name: str, cause: Cause, count: int, *, age_s: float = 60.0, why: str = "") -> list[TermRecord]:
    one = TermRecord(id=name, host=name, nonce="n", epoch=1, since=10_000.0 - age_s, cause=cause, why=why)
    return [one] * count


def test_leadership_that_flaps_is_counted_and_the_slow_timing_advised() -> None:
    """The advice depends on the causes."""
    found = leadership_problem([*_terms("m1", "silent", 6), *_terms("m2", "stuck", 5)], 10_000.0)
    assert found is not None
    assert "11 times" in found
    assert "m1 6 times" in found
    assert "--timing slow" in found
    dies = leadership_problem(_terms("m1", "died", 11), 10_000.0)
    assert dies is not None
    assert "--timing" not in dies


@pytest.mark.parametrize(
    "terms",
    [
        _terms("m1", "silent", 7),
        _terms("m1", "switchover", 20),
        _terms("m1", "resigned", 20, why="m2 resigned: asked to stop"),
        _terms("m1", "silent", 20, age_s=4_000.0),
    ],
)
def test_few_old_or_ordered_changes_of_leadership_are_no_problem(terms: list[TermRecord]) -> None:
    """Upgrades and switchovers are ordered."""
    assert leadership_problem(terms, 10_000.0) is None


def test_terms_that_their_leaders_gave_up_count() -> None:
    """A masterd that cannot lead takes over again and again."""
    assert leadership_problem(_terms("m1", "resigned", 9, why="m2 resigned: cannot lead: x"), 10_000.0)


def test_nodeds_of_unknown_nodes_and_nodes_with_several_nodeds_are_listed() -> None:
    """Both say what to do."""
    alive = {name: Alive(host_id="h", nonce="n", host="pc1") for name in ("n1", "n9")}
    found = noded_problems({"n1"}, alive, {"n1": ["pc1", "pc2", "pc1", "pc2"]})
    assert [line.partition(" is ")[0].partition(":")[0] for line in found] == ["node n9", "node n1"]
    assert "on pc1, pc2" in found[1]


def test_nodeds_without_any_configuration_are_no_problem() -> None:
    """PCs that have just become a cluster."""
    alive = {"n1": Alive(host_id="h", nonce="n", host="pc1")}
    assert noded_problems(None, alive, {}) == []
    assert len(noded_problems((), alive, {})) == 1  # the configuration names no node


def test_a_noded_that_waits_for_another_host_is_listed() -> None:
    """With the host that holds the claim; not while no host holds it, because then it claims the node itself."""
    waiting = {"n1/b": Waiting(host_id="id-b", nonce="b", host="pc2", pid=7)}
    alive = {"n1": Alive(host_id="id-a", nonce="a", host="pc1", pid=5)}
    (line,) = noded_problems(["n1"], alive, {}, waiting)
    assert line == (
        "node n1: a noded on pc2 (pid 7, host id id-b) waits and drives nothing, because one on pc1 (pid 5) holds the "
        "claim: stop one of them, or give it another name"
    )
    assert noded_problems(["n1"], {}, {}, waiting) == []


def test_waiting_nodeds_are_listed_by_node() -> None:
    """One whose name begins like another's is a node of its own. The lines are in the order of the names."""
    waiting = {
        f"{node}/{nonce}": Waiting(host_id=f"id-{nonce}", nonce=nonce, host=f"pc-{nonce}")
        for node, nonce in (("n1", "c"), ("n1-a", "d"), ("n1", "b"))
    }
    alive = {name: Alive(host_id="id-a", nonce="a", host="pc1") for name in ("n1", "n1-a")}
    assert waiting_nodeds(waiting) == {
        "n1": ["pc-b (pid 0, host id id-b)", "pc-c (pid 0, host id id-c)"],
        "n1-a": ["pc-d (pid 0, host id id-d)"],
    }
    lines = noded_problems(["n1", "n1-a"], alive, {}, waiting)
    assert [line.partition(":")[0] for line in lines] == ["node n1", "node n1-a"]
