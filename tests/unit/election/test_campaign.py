"""For which reasons a standby takes over, and in which order standbys try."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masterd.election import campaign as campaign_module
from masterd.election.campaign import Campaign, MasterIdentity, differing_report, rank_of, takeover_reason
from masterd.election.leader_watch import TakeoverReason
from masterd.election.suspicion import LAN
from masterd.replication.replica import Replica
from nodestore.cluster.election import Fence, LeaderSeen, TakeoverWon, parse_leader
from nodestore.errors import Garbage
from nodestore.etcd.session import KV, Range
from nodestore.schema.keys import Keys
from nodestore.schema.models import Candidate, LeaderRecord, StoreMark, Term, decode
from tests.support.cluster_views import SteeredClusterView

ME = MasterIdentity("m1", "pc1", ("http://pc1:8401",), 0, "mine")
OURS = Candidate(id="m1", host="pc1", urls=(), index=0, priority=0, nonce="mine")


def seen(name: str = "m2", host: str = "pc2", revision: int = 7, lease: int = 5) -> LeaderSeen:
    return LeaderSeen(revision, LeaderRecord(id=name, host=host, urls=(), nonce="n", since=0.0), lease)


ABSENT = LeaderSeen()
GARBAGE = LeaderSeen(7, None, 5, "leader is not JSON")


@pytest.mark.parametrize(
    ("case", "now", "before", "dead", "cause"),
    [
        ("a new store", ABSENT, ABSENT, False, "first"),
        ("it was there and is gone", ABSENT, seen(), False, "expired"),
        ("it was garbage and is gone", ABSENT, ABSENT, False, "first"),
        ("somebody leads", seen(), seen(), False, None),
        ("its process died", seen(), seen(), True, "died"),
        ("unreadable", GARBAGE, seen(), False, "unreadable"),
        ("unreadable, and nobody before", GARBAGE, ABSENT, True, "unreadable"),
        ("on no lease", seen(lease=0), seen(lease=0), False, "unreadable"),
        ("on no lease, and dead", seen(lease=0), seen(lease=0), True, "unreadable"),
        ("our own earlier process", seen("m1", "pc1"), seen("m1", "pc1"), False, "restarted"),
        ("our name on another PC", seen("m1", "pc2"), seen("m1", "pc2"), False, None),
        ("our name on another PC, dead", seen("m1", "pc2"), seen("m1", "pc2"), True, "died"),
        ("another name on our PC", seen("m2", "pc1"), seen("m2", "pc1"), False, None),
    ],
)
def test_the_takeover_reason(case: str, now: LeaderSeen, before: LeaderSeen, dead: bool, cause: str | None) -> None:
    """Each reason has a sentence that names the replaced leader, if there is one."""
    watched = TakeoverReason("died", f"the process of {now.record.id if now.record else '?'} died") if dead else None
    reason = takeover_reason(now, before, ME, watched, OURS)
    assert (reason and reason.cause) == cause, case
    if reason is not None:
        assert reason.why
    if reason is not None and cause in ("expired", "died"):
        assert before.record is not None
        assert before.record.id in reason.why


@pytest.mark.parametrize("own_candidacy", [None, OURS.model_copy(update={"nonce": "later"})])
def test_a_process_whose_name_another_has_taken_does_not_depose_that(own_candidacy: Candidate | None) -> None:
    """Each would be the other's earlier process, and they would take turns. Other reasons hold."""
    now = seen("m1", "pc1")
    assert takeover_reason(now, now, ME, None, own_candidacy) is None
    died = TakeoverReason("died", "the process of m1 died")
    assert takeover_reason(now, now, ME, died, own_candidacy) is died


def candidate(name: str, index: int = 0, priority: int = 0) -> Candidate:
    return Candidate(id=name, host=name, urls=(), index=index, priority=priority, nonce=name)


@pytest.mark.parametrize(
    ("case", "candidates", "gone", "ranks"),
    [
        ("alone", [candidate("m1")], None, {"m1": 0}),
        ("most caught up first", [candidate("m1", 5), candidate("m2", 50_000)], None, {"m2": 0, "m1": 1}),
        ("not far behind is caught up", [candidate("m1", 5), candidate("m2", 9)], None, {"m1": 0, "m2": 1}),
        (
            "not beside etcd's leader",
            [candidate("m1").model_copy(update={"beside_etcd_leader": True, "priority": 9}), candidate("m2")],
            None,
            {"m2": 0, "m1": 1},
        ),
        (
            "then priority, then name",
            [candidate("m3", 5, 1), candidate("m2", 5), candidate("m1", 5)],
            None,
            {"m3": 0, "m1": 1, "m2": 2},
        ),
        (
            "unfit last",
            [candidate("m1", 50_000, 9).model_copy(update={"unfit": "stuck"}), candidate("m2")],
            None,
            {"m2": 0, "m1": 1},
        ),
        ("who is gone does not count", [candidate("m1", 50_000), candidate("m2", 5)], "m1", {"m2": 0, "m1": 1}),
        ("who is not announced goes last", [candidate("m1"), candidate("m2")], None, {"m1": 0, "m2": 1, "m9": 2}),
        ("nobody is announced", [], "m1", {"m1": 0, "m2": 0}),
    ],
)
def test_the_rank(case: str, candidates: list[Candidate], gone: str | None, ranks: dict[str, int]) -> None:
    """The rank is the number of candidates that go first."""
    by_id = {item.id: item for item in candidates}
    assert {name: rank_of(name, gone, by_id) for name in ranks} == ranks, case


@given(st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1))
def test_ranks_are_all_different(standing: dict[str, tuple[int, int]]) -> None:
    """Two candidates with one view of the others never have the same turn."""
    candidates = {name: candidate(name, *rest) for name, rest in standing.items()}
    assert sorted(rank_of(name, None, candidates) for name in candidates) == list(range(len(candidates)))


@pytest.mark.parametrize(
    ("value", "lease", "vacant"),
    [
        (None, 0, True),
        (b"not json", 5, True),
        (b"{}", 5, True),
        (b'{"v":2,"id":"m1","host":"h","urls":[],"nonce":"n","since":0}', 5, True),
        (b'{"v":1,"id":"m1","host":"h","urls":[],"nonce":"n","since":0}', 0, True),
        (b'{"v":1,"id":"m1","host":"h","urls":[],"nonce":"n","since":0,"new":1}', 5, False),
    ],
)
def test_a_leader_key_that_nobody_can_lead_by_is_vacant(value: bytes | None, lease: int, vacant: bool) -> None:
    """Absent, unreadable, of a newer schema, or without a lease; unknown fields are fine."""
    kv = None if value is None else KV("/leader", value, 3, 9, 2, lease)
    found = parse_leader(kv)
    assert found.is_vacant is vacant
    assert found.revision == (0 if kv is None else 9)
    if kv is not None and found.record is None:
        assert found.garbage is not None
        assert found.garbage.startswith("/leader")
        with pytest.raises(Garbage):
            decode(LeaderRecord, kv.value, kv.key)


async def test_a_change_during_a_step_causes_another_step_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for the next routine check would delay a takeover."""
    monkeypatch.setattr(campaign_module, "_CHECK_EVERY_S", 60.0)
    keys = Keys("test")
    view = SteeredClusterView(cast(Any, None), keys)
    record = b'{"v":1,"id":"m2","host":"h","urls":[],"nonce":"%s","since":0}'
    observed: list[LeaderSeen] = []

    class Slow(Campaign):
        async def _wait_for_rank(self, seen: LeaderSeen) -> bool:
            """While this standby waits for its turn, another one takes over and resigns."""
            observed.append(seen)
            if len(observed) == 1:
                view.show_leader(KV(keys.leader, record % b"other", 7, 7, 1, 5))
                view.show_leader(None)
                return False
            return True

        async def _attempt_takeover(self, reason: TakeoverReason, seen: LeaderSeen, lease: int) -> Any:
            return won

    won = TakeoverWon(Fence(Term(1, 9), 1, "mine"), None, None, None, Range(9, (), False, 0))
    view.show_leader(None)
    campaign = Slow(cast(Any, None), keys, ME, view, Replica(cast(Any, None), keys), LAN)
    monkeypatch.setattr(campaign_module, "resignation_reason", _no_resignation)
    assert await asyncio.wait_for(campaign.win(5), 30.0) is won
    assert len(observed) == 2


async def _no_resignation(*_: Any) -> None:
    return None


@pytest.mark.parametrize(
    ("mark", "report", "differs"),
    [
        (None, ("a", 1, 5), True),
        (("a", 2, 100), ("a", 2, 100), False),
        (("a", 2, 100), ("a", 2, 99), False),
        (("a", 2, 100), ("a", 2, 101), True),
        (("a", 2, 100), ("b", 2, 50), True),
        (("a", 2, 100), ("a", 3, 50), True),
        (("a", 2, 100), ("b", 1, 900), False),
    ],
)
def test_which_report_names_another_store(
    mark: tuple[str, int, int] | None, report: tuple[str, int, int], differs: bool
) -> None:
    """A masterd without a memory of its own believes it. One of a lower epoch is older than the last recovery."""
    known, reported = [
        value and StoreMark(cluster_id=value[0], epoch=value[1], revision=value[2]) for value in (mark, report)
    ]
    assert reported is not None
    assert differing_report(known, {"node n1": reported}) == ("node n1" if differs else None)
