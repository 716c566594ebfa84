"""When a standby suspects its leader: only when silence, an unanswered challenge and a timely clock come together."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masterd.election.suspicion import (
    LAN,
    PROFILES,
    SLOW,
    STREAK_FORGOTTEN_S,
    Decision,
    ElectionTiming,
    Suspicion,
    SuspicionStep,
    streak_after,
)

BEGUN = 100.0


def followed(timing: ElectionTiming = LAN, streak: int = 0) -> tuple[Suspicion, float]:
    """Return a suspicion that has just received a heartbeat, and the time of that."""
    suspicion, now = Suspicion("m1", timing, BEGUN, streak), BEGUN + 10.0
    suspicion.beat(now)
    return suspicion, now


def until(suspicion: Suspicion, now: float, step: SuspicionStep) -> tuple[Decision, float]:
    """Decide at each `wake_at` until the decision is `step`."""
    for _ in range(20):
        verdict = suspicion.decide(now)
        if verdict.step is step:
            return verdict, now
        assert verdict.step is SuspicionStep.WAIT, verdict
        assert verdict.wake_at > now
        now = verdict.wake_at
    raise AssertionError(f"never {step}")


@pytest.mark.parametrize("timing", PROFILES.values(), ids=PROFILES)
def test_a_silent_leader_is_challenged_then_suspected(timing: ElectionTiming) -> None:
    """At the first missed beat, and after a few."""
    suspicion, heard = followed(timing)
    _, asked = until(suspicion, heard, SuspicionStep.CHALLENGE)
    assert asked == pytest.approx(heard + timing.missed_s)
    suspicion.challenged(asked + 0.002)
    verdict, suspected = until(suspicion, asked + 0.002, SuspicionStep.SUSPECT)
    assert suspected == pytest.approx(max(heard + timing.silence_s, asked + 0.002 + timing.answer_s))
    assert verdict.cause == "silent"
    assert verdict.why.startswith("m1 has been silent for ")


@pytest.mark.parametrize("timing", PROFILES.values(), ids=PROFILES)
def test_a_leader_whose_stream_broke_is_challenged_at_once(timing: ElectionTiming) -> None:
    """Windows reports a refused port late. So only the answer to the challenge is awaited, and no further heartbeat."""
    suspicion, heard = followed(timing)
    suspicion.broke()
    _, asked = until(suspicion, heard + 0.001, SuspicionStep.CHALLENGE)
    assert asked == heard + 0.001
    suspicion.challenged(asked + 0.002)
    verdict, suspected = until(suspicion, asked + 0.002, SuspicionStep.SUSPECT)
    assert suspected == pytest.approx(asked + 0.002 + timing.answer_s)
    assert verdict.why.startswith("the follow stream of m1 broke, and a challenge")


@pytest.mark.parametrize("sign", ["beat", "proof", "late"])
def test_a_sign_of_life_after_its_stream_broke_calms(sign: str) -> None:
    """It was the connection alone; or we slept, and know nothing."""
    suspicion, now = followed()
    suspicion.broke()
    _, now = until(suspicion, now + 0.001, SuspicionStep.CHALLENGE)
    suspicion.challenged(now)
    verdict = suspicion.decide(now)
    if sign == "beat":
        suspicion.beat(now + 0.01)
    elif sign == "proof":
        suspicion.proof(now + 0.01)
    now = verdict.wake_at + (LAN.late_s * 2 if sign == "late" else 0.0)
    assert suspicion.decide(now).step is not SuspicionStep.SUSPECT


def test_a_heartbeat_after_the_break_is_the_end_of_the_break() -> None:
    """Before a challenge was sent: then none is needed, and silence counts from that heartbeat."""
    suspicion, now = followed()
    suspicion.broke()
    suspicion.beat(now + 0.01)
    _, asked = until(suspicion, now + 0.01, SuspicionStep.CHALLENGE)
    assert asked == pytest.approx(now + 0.01 + LAN.missed_s)


def test_heartbeats_prevent_a_suspicion() -> None:
    """As long as heartbeats arrive, nothing is suspected."""
    suspicion, now = followed()
    for _ in range(100):
        now += LAN.beat_s
        assert suspicion.decide(now).step is SuspicionStep.WAIT
        suspicion.beat(now)


def test_a_challenge_that_etcd_has_not_stored_causes_no_suspicion() -> None:
    """A standby that cannot write to etcd could not lead either. It tries again later."""
    suspicion, now = followed()
    _, now = until(suspicion, now, SuspicionStep.CHALLENGE)
    assert suspicion.decide(now + 5.0) == Decision(SuspicionStep.WAIT)
    suspicion.not_challenged(now + 5.0)
    assert suspicion.decide(now + 5.0).step is SuspicionStep.WAIT
    until(suspicion, now + 5.0, SuspicionStep.CHALLENGE)


@pytest.mark.parametrize("heard", ["beat", "proof"])
def test_any_sign_of_life_ends_a_suspicion(heard: str) -> None:
    """A beat that was late, or an answer through etcd."""
    suspicion, now = followed()
    _, now = until(suspicion, now, SuspicionStep.CHALLENGE)
    suspicion.challenged(now)
    getattr(suspicion, heard)(now + 0.05)
    suspicion.decide(now + 0.05)
    assert suspicion.decide(now + 0.1).step is SuspicionStep.WAIT


def test_a_leader_that_answers_through_etcd_only_is_asked_ever_more_rarely() -> None:
    """Two PCs that do not see each other must not take turns, nor fill etcd with challenges."""
    suspicion, now = followed()
    asked = []
    for _ in range(12):
        _, now = until(suspicion, now, SuspicionStep.CHALLENGE)
        asked.append(now)
        suspicion.challenged(now + 0.001)
        suspicion.proof(now + 0.003)
        now += 0.003
    gaps = [later - earlier for earlier, later in itertools.pairwise(asked)]
    assert gaps == sorted(gaps)
    assert 1.9 < gaps[-1] < 2.1
    suspicion.challenged(now)  # late news of an answered challenge
    assert suspicion.decide(now + 0.001).step is SuspicionStep.WAIT


def test_a_late_timer_of_our_own_proves_nothing() -> None:
    """This process was paused, and wakes with a challenge that seems unanswered."""
    suspicion, now = followed()
    _, now = until(suspicion, now, SuspicionStep.CHALLENGE)
    suspicion.challenged(now)
    due = suspicion.decide(now).wake_at
    woken = due + 30.0
    assert suspicion.decide(woken).step is SuspicionStep.WAIT
    _, again = until(suspicion, woken, SuspicionStep.CHALLENGE)
    assert again == pytest.approx(woken + LAN.missed_s)


def test_a_leader_that_cannot_commit_says_so_and_is_replaced_by_one_that_can() -> None:
    """Although it beats; and not if it can again."""
    suspicion, now = followed()
    suspicion.beat(now, LAN.stuck_s - 0.1)
    assert suspicion.decide(now).step is SuspicionStep.WAIT
    suspicion.beat(now + 0.1, LAN.stuck_s)
    assert suspicion.decide(now + 0.1).step is SuspicionStep.CHALLENGE
    suspicion.challenged(now + 0.1)
    verdict, _ = until(suspicion, now + 0.1, SuspicionStep.SUSPECT)
    assert verdict.cause == "stuck"
    suspicion.beat(now + 0.2, 0.0)
    assert suspicion.decide(now + 0.2).step is SuspicionStep.WAIT


def test_a_leader_whose_stream_never_came_about_is_suspected_too() -> None:
    """It may have died with its PC just after it won."""
    suspicion = Suspicion("m1", LAN, BEGUN)
    _, asked = until(suspicion, BEGUN, SuspicionStep.CHALLENGE)
    assert asked == pytest.approx(BEGUN + LAN.connect_s + LAN.missed_s)


@pytest.mark.parametrize("streak", [0, 1, 3, 5, 50])
def test_a_streak_makes_patient(streak: int) -> None:
    """Twice as much each time, from the second on, up to a bound."""
    suspicion, heard = followed(streak=streak)
    _, asked = until(suspicion, heard, SuspicionStep.CHALLENGE)
    suspicion.challenged(asked)
    _, suspected = until(suspicion, asked, SuspicionStep.SUSPECT)
    assert suspected - heard >= LAN.silence_s * 2 ** min(max(0, streak - 1), 5) - 1e-6


@pytest.mark.parametrize(
    ("cause", "streak", "held_s", "after"),
    [
        ("silent", 0, 5.0, 1),
        ("stuck", 2, 5.0, 3),
        ("silent", 2, STREAK_FORGOTTEN_S, 1),
        ("died", 4, 1.0, 0),
        ("resigned", 4, 1.0, 0),
    ],
)
def test_what_counts_as_a_streak(cause: str, streak: int, held_s: float, after: int) -> None:
    """Takeovers on mere suspicion, one soon after another."""
    assert streak_after(cause, streak, held_s) == after  # type: ignore[arg-type]


@given(st.lists(st.sampled_from(["beat", "proof", "challenged", "not_challenged", "wait", "stuck"]), max_size=40))
def test_nothing_is_suspected_without_a_challenge_that_etcd_took_after_the_last_sign_of_life(events: list[str]) -> None:
    """This holds for any order of inputs."""
    suspicion, now, taken, asked = Suspicion("m1", SLOW, BEGUN), BEGUN, False, False
    for event in events:
        now += 0.2
        if event == "wait":
            verdict = suspicion.decide(now)
            if math.isfinite(verdict.wake_at):
                now = verdict.wake_at
                verdict = suspicion.decide(now)
            asked = asked or verdict.step is SuspicionStep.CHALLENGE
            assert verdict.step is not SuspicionStep.SUSPECT or taken
        elif event == "stuck":
            suspicion.beat(now, 9.0)
        elif event == "challenged":
            taken = taken or asked
            suspicion.challenged(now)
        else:
            getattr(suspicion, event)(now)
            taken = asked = False
