"""Drills: when the leader accepts one, what it does, and the report."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from masterd import settings
from masterd.api.fault_injection import EXIT_CODE, FREEZE_S, DrillRequest, parse_drill_request, start_drill
from masterd.election.leader_watch import LeaderWatch
from masterd.election.timeline import Timeline
from masterd.term.leader import Leader
from nodectl.drill.marks import ProbeCommand
from nodectl.drill.report import ClientTimes, Report, judge_promises
from nodectl.drill.run import answer_gap
from nodectl.reports.takeover import Takeover, TakeoverStep
from nodectl.workload.verdicts import JournalLine, Repeat
from nodestore.cluster.election import LeaderSeen
from nodestore.errors import Conflict, Denied, Invalid, NodectlError, Unavailable
from nodestore.etcd.session import Etcd
from nodestore.schema.models import Answer, Candidate, Challenge, Paused
from tests.support.cli import InProcessNodectl
from tests.support.fakes.clock import VirtualTime
from tests.support.fakes.etcd import SETTINGS, FakeEtcd
from tests.support.fakes.leader_watch import KEYS, quiet_cluster_view, running, watch
from tests.support.fakes.masterd import fake_cluster
from tests.support.fakes.masterd_parts import FakeMasterd

# --- the master ---


@pytest.mark.parametrize(
    ("body", "order"),
    [
        ({"how": "kill"}, DrillRequest("kill")),
        ({"how": "freeze", "seconds": 1, "term": 7, "actor": "ann"}, DrillRequest("freeze", 1.0, 7, "ann")),
        ({"how": "freeze", "seconds": None, "term": None, "actor": None}, DrillRequest("freeze", FREEZE_S)),
    ],
)
def test_an_order_is_read(body: dict[str, Any], order: DrillRequest) -> None:
    assert parse_drill_request(body) == order


@pytest.mark.parametrize(
    "body",
    [
        {}, {"how": "reboot"}, {"how": ["kill"]}, {"how": "freeze", "seconds": 10.5}, {"how": "freeze", "seconds": 0},
        {"how": "freeze", "seconds": True}, {"how": "freeze", "seconds": float("nan")}, {"how": "kill", "term": 0},
        {"how": "kill", "term": True}, {"how": "kill", "actor": 5},
    ],
)  # fmt: skip
def test_what_is_no_order_is_refused(body: dict[str, Any]) -> None:
    """Invalid requests are refused; the duration of a freeze is limited."""
    with pytest.raises(Invalid):
        parse_drill_request(body)


def leading(*, paused: Paused | None = None, others: tuple[str, ...] = ("m2",)) -> tuple[FakeMasterd, Leader]:
    """m1, which leads in term 10, with these standbys."""
    masterd = FakeMasterd()
    masterd.view.shown_pause = paused
    for name in ("m1", *others):
        candidate = Candidate(id=name, host=name, urls=(f"http://{name}",), nonce="n")
        masterd.view.candidates.items[name] = candidate
    return masterd, masterd.lead().role


@pytest.mark.parametrize(
    ("how", "done"),
    [(DrillRequest("kill"), ("end", EXIT_CODE)), (DrillRequest("freeze", 2.0, 10), ("stand still", 2.0))],
)
async def test_the_leader_answers_and_then_obeys(how: DrillRequest, done: tuple[str, float]) -> None:
    """The leader sends its answer before the fault begins."""
    did: asyncio.Queue[tuple[str, float]] = asyncio.Queue()
    masterd, leader = leading()
    answer = start_drill(
        masterd.sources, leader, how, allowed=True,
        exit_process=lambda code: did.put_nowait(("end", code)),
        freeze_process=lambda s: did.put_nowait(("stand still", s)),
    )  # fmt: skip
    assert did.empty()
    assert (answer["master"], answer["how"], answer["term"]) == ("m1", how.how, {"epoch": 1, "revision": 10})
    async with asyncio.timeout(30.0):
        assert await did.get() == done
    await masterd.close()


@pytest.mark.parametrize(
    ("allowed", "paused", "others", "order", "error"),
    [
        (False, None, ("m2",), DrillRequest("kill"), Denied),
        (True, None, ("m2",), DrillRequest("kill", term=6), Conflict),
        (True, Paused(actor="ann", time=0.0), ("m2",), DrillRequest("kill"), Conflict),
        (True, None, (), DrillRequest("kill"), Unavailable),
    ],
)
async def test_the_leader_refuses(
    allowed: bool, paused: Paused | None, others: tuple[str, ...], order: DrillRequest, error: type[NodectlError]
) -> None:
    """The leader refuses if drills are off, the request names another term, takeovers are paused, or no standby could
    take over. Nothing happens."""
    masterd, leader = leading(paused=paused, others=others)
    with pytest.raises(error):
        start_drill(masterd.sources, leader, order, allowed=allowed, exit_process=lambda _: pytest.fail("it obeyed"))
    await masterd.close()


def test_drills_are_off_unless_allowed(capsys: pytest.CaptureFixture[str]) -> None:
    """By an option or in the environment; what is neither yes nor no is refused."""
    needed = ["--id=m1", "--cluster=c"]
    assert not settings.parse(needed, {}).master_settings.allow_drills
    assert not settings.parse(needed, {"NODECTL_ALLOW_DRILLS": "0"}).master_settings.allow_drills
    assert settings.parse([*needed, "--allow-drills"], {}).master_settings.allow_drills
    assert settings.parse(needed, {"NODECTL_ALLOW_DRILLS": "1"}).master_settings.allow_drills
    with pytest.raises(SystemExit):
        settings.parse(needed, {"NODECTL_ALLOW_DRILLS": "perhaps"})
    assert "NODECTL_ALLOW_DRILLS: 'perhaps' is neither 1 nor 0" in capsys.readouterr().err


# --- what a standby notes of the leader before ---


async def _challenge(etcd: Etcd, found: LeaderWatch) -> None:
    """Run the watch until the missing heartbeats have made it challenge the leader."""
    async with running(found):
        while await etcd.get(KEYS.challenge("m3")) is None:
            await asyncio.sleep(0.01)


def test_a_challenge_before_the_last_heartbeat_is_not_part_of_the_timeline() -> None:
    """A leader is challenged, sends heartbeats again, and dies an hour later: the timeline begins with the last one."""

    async def die_later() -> Timeline:
        async with Etcd(SETTINGS, connect=FakeEtcd().connect) as etcd:
            found = watch(etcd=etcd)
            await _challenge(etcd, found)
            assert "challenged" in found.timeline().phases()
        await asyncio.sleep(3600)
        found.on_heartbeat(0.0)
        found.on_process_died()
        return found.timeline()

    with VirtualTime() as world:
        timeline = world.run(die_later())
    assert list(timeline.phases()) == ["heard", "suspected"]
    assert min(timeline.phases().values()) == 0.0
    assert timeline.suspected_by == ()


def test_a_leader_that_was_never_heard_is_timed_from_when_it_was_watched() -> None:
    """Nothing is ever negative, though its first heartbeat would have been due later."""
    found = watch()
    found.on_process_died()
    assert list(found.timeline().phases()) == ["heard", "suspected"]
    assert found.timeline().marks["heard"] == found.begun_at


def test_the_timeline_names_the_masters_whose_challenge_of_this_term_is_open() -> None:
    """Challenges that the leader has answered, and those of an earlier term, are left out."""
    cluster_view = quiet_cluster_view()
    cluster_view.challenges.items.update(
        m2=Challenge(term=7, nonce="open"), m4=Challenge(term=7, nonce="answered"), m5=Challenge(term=6, nonce="old"),
        m3=Challenge(term=7, nonce="mine, and over"),
    )  # fmt: skip
    cluster_view.answers.items.update(m4=Answer(term=7, nonce="answered"))

    async def suspected_by() -> list[tuple[str, ...]]:
        async with Etcd(SETTINGS, connect=FakeEtcd().connect) as etcd:
            found = watch(etcd=etcd, cluster_view=cluster_view)
            before = found.timeline().suspected_by
            await _challenge(etcd, found)
            return [before, found.timeline().suspected_by]

    with VirtualTime() as world:
        assert world.run(suspected_by()) == [("m2",), ("m2", "m3")]


def test_a_time_without_a_leader_goes_on_from_the_last_heartbeat() -> None:
    """If the lease expired, the timeline begins with the last heartbeat of the previous leader.

    A watch over one's own term records none.
    """
    assert watch(seen=LeaderSeen(), heard_at=5.0).timeline().marks == {"heard": 5.0}
    assert watch(seen=LeaderSeen()).timeline().marks == {}
    assert watch(own_id="m1", heard_at=5.0).timeline().marks == {}


# --- the client ---


def line(index: int, term: int = 1, known_as: str = "") -> JournalLine:
    return JournalLine(index, index, known_as or f"d-{index}", "ann", (1, term))


def test_the_gap_is_between_the_terms() -> None:
    """From the last answer of the old leader to the first of the new one, a repeat that it recognised included."""
    marks = [
        ProbeCommand("a", 0, 1.0, 1),
        ProbeCommand("b", 0, 1.5, 2),
        ProbeCommand("c", 0, 2.5, 3, repeated=True),
        ProbeCommand("d", 0, 2.75, 4),
    ]
    terms = {1: (1, 5), 2: (1, 5), 3: (1, 5), 4: (1, 9)}
    assert answer_gap([*marks, ProbeCommand("e", 0)], terms, (1, 5)) == (1.5, 2.5)
    with pytest.raises(NodectlError, match="history"):
        answer_gap(marks[:2], terms, (1, 5))


def takeover(**more: Any) -> Takeover:
    told: dict[str, Any] = {"taken_from": "m1", "steps": (TakeoverStep("heard", "m1 is heard", 0.0, 0.0),), **more}
    return Takeover(1, 9, "m2", 0.0, "died", "it died", **told)


GOOD: dict[str, Any] = {
    "acknowledged": {"d-1": 1, "d-2": 2}, "failed": [], "repeats": [Repeat("d-1", 1, 1, True)],
    "lines": [line(1), line(2, 9)], "found": takeover(), "old": "m1", "gap_s": 0.1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "broken", "measured"),
    [
        ({}, None, ""),
        ({"lines": [line(1)]}, "No acknowledged command is lost", "2 acknowledged, 1 of them in the history"),
        (
            {"lines": [line(1), line(2, 9), line(3, 9, "d-1")]}, "No command takes effect twice",
            "1 of 1 repeats recognised; of 3 commands 1 twice",
        ),
        (
            {"repeats": [Repeat("d-1", 1, 3, False)]}, "No command takes effect twice",
            "0 of 1 repeats recognised; of 2 commands none twice",
        ),
        (
            {"lines": [line(1, 9), line(2, 1)]}, "A deposed master changes nothing",
            "2 commands in one history, not in order",
        ),
        (
            {"failed": ["d-3: Unavailable"]}, "Clients continue by themselves",
            "100 ms without an answer, 1 command failed",
        ),
        (
            {"found": takeover(steps=(), note="not written")}, "Anyone can see what happened",
            "died, in 0 steps: nodectl why 1.9",
        ),
        (
            {"found": takeover(taken_from="m7")}, "Anyone can see what happened",
            "died, in 1 steps: nodectl why 1.9",
        ),
    ],
)  # fmt: skip
def test_each_promise_can_be_found_broken(wrong: dict[str, Any], broken: str | None, measured: str) -> None:
    """Each violation is reported, and no other one; what is said to be measured is then true as well."""
    found = judge_promises(**(GOOD | wrong))
    assert [(item.text, item.measured) for item in found if not item.held] == ([(broken, measured)] if broken else [])


def test_what_is_measured_is_said_when_all_is_well() -> None:
    assert [promise.measured for promise in judge_promises(**GOOD)] == [
        "2 acknowledged, all in the history",
        "1 of 1 repeats recognised; of 2 commands none twice",
        "2 commands in one history, no gap, terms in order",
        "100 ms without an answer, no command failed",
        "died, in 1 steps: nodectl why 1.9",
    ]


def test_the_client_s_part_is_in_the_order_in_which_it_came() -> None:
    """The leader may be found before its last answer comes, or after the first of the new one."""
    report = Report("kill", "ends abruptly", "m1", takeover(), ClientTimes(1.0, 0.5, 3.0, 2.0))
    assert [step.phase for step in report.steps] == ["struck", "last_answer_before", "first_answer_after", "found"]
    assert [step.at_s for step in report.steps] == [0.0, 0.5, 1.5, 2.5]
    assert report.data()["client"]["gap_s"] == 1.0


@pytest.mark.parametrize(("how", "cause"), [("kill", "died"), ("freeze", "silent"), ("handover", "switchover")])
async def test_a_drill_is_told(how: str, cause: str) -> None:
    """The takeover, the client's part, each promise; and all of it for programs."""
    async with fake_cluster() as cluster:
        said = await InProcessNodectl(cluster.urls, timeout_s=20.0)(
            "drill", "--yes", "--how", how, "--seconds", "0.1", "--json"
        )
        assert said.code == 0, said
        told = said.json
        assert (told["how"], told["leader"], told["held"]) == (how, "m1", True)
        assert (told["takeover"]["cause"], told["takeover"]["master"]) == (cause, "m2")
        assert told["client"]["gap_s"] > 0
        assert len(told["promises"]) == 5
        names = {command["name"] for command in cluster.executed}
        assert names == {"drill.mark"}, "a drill leaves nothing but marks"


async def test_a_drill_is_shown() -> None:
    """The report has three tables; the progress is printed meanwhile."""
    async with fake_cluster() as cluster:
        said = await InProcessNodectl(cluster.urls, timeout_s=20.0)("drill", "--yes", "--how", "handover")
        assert said.code == 0, said
        assert "m2 took over from m1" in said.out
        assert "gap as seen by the client" in said.out
        assert said.out.count("held\n") == 5
        assert "sending commands that change nothing" in said.err


async def test_a_drill_asks_first() -> None:
    """Without a terminal to confirm on, nothing happens."""
    async with fake_cluster() as cluster:
        said = await InProcessNodectl(cluster.urls)("drill")
        assert (said.code, cluster.leader, cluster.executed) == (2, "m1", [])
        assert "--yes" in said.err


async def test_a_drill_is_refused_where_nobody_would_take_over() -> None:
    """While takeovers are paused, and without a standby; not with the exit code of a broken promise."""
    async with fake_cluster() as cluster:
        cluster.paused = {"actor": "ann", "time": 0.0, "reason": ""}
        said = await InProcessNodectl(cluster.urls)("drill", "--yes")
        assert (said.code, cluster.executed) == (4, [])
        assert "takeovers are paused" in said.err
    async with fake_cluster("m1") as cluster:
        said = await InProcessNodectl(cluster.urls)("drill", "--yes")
        assert (said.code, cluster.executed) == (5, [])
        assert "no standby" in said.err


async def test_a_drill_that_is_not_allowed_says_what_to_do() -> None:
    """Exit code 6, and the leader leads on."""
    async with fake_cluster() as cluster:
        cluster.allows_drills = False
        said = await InProcessNodectl(cluster.urls)("drill", "--yes")
        assert (said.code, cluster.leader) == (6, "m1")
        assert "--allow-drills" in said.err
        assert "credentials" not in said.err


async def test_a_leader_of_an_earlier_version_knows_no_drills() -> None:
    """The drill ends with an error before anything happens to the leader."""
    async with fake_cluster() as cluster:
        cluster.refuse["drill.mark"] = (404, "not_found", "there is no command 'drill.mark'")
        said = await InProcessNodectl(cluster.urls)("drill", "--yes")
        assert (said.code, cluster.leader) == (3, "m1")
        assert "does not support drills" in said.err
