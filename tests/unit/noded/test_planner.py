"""noded's plan: every decision and its reason."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noded.drivers.contract import Actual
from noded.reconcile import planner
from noded.reconcile.planner import Attempts, Memory, Rejected, RetryDelays, Task, digest_of, plan
from nodestore.schema.models import Desired, Spec

NOW = 1000.0


def spec(driver: str = "process", **document: Any) -> Spec:
    return Spec(driver=driver, settings={"argv": ["show"]}, document=document)


def desired(of: Spec, generation: int = 7) -> Desired:
    return Desired(epoch=1, term=5, generation=generation, spec=of)


ONE, TWO, EXEC = spec(scene="one"), spec(scene="two"), spec("exec", scene="one")
RUNNING = Memory(driver="process", applied=ONE, good=ONE)
CRASHED = Actual(drift="the program exited with code 1", failed=True)
ALTERED = Actual(drift="document.json was altered")


def tried(memory: Memory, count: int, ago_s: float, error: str | None = "boom") -> Memory:
    digest = memory.applied and digest_of(memory.applied)
    return replace(memory, attempts=Attempts(digest or digest_of(ONE), count, NOW - ago_s, error))


@pytest.mark.parametrize(
    ("case", "want", "actual", "memory", "phase", "driver", "reason"),
    [
        ("nothing wanted, nothing there", None, Actual(), Memory(), "idle", None, ""),
        ("removed from the inventory", None, Actual(), RUNNING, "applying", "process", "stops: it is gone"),
        ("first look", desired(ONE), Actual(), Memory(), "applying", "process", "has not applied anything yet"),
        ("as it should be", desired(ONE), Actual(), RUNNING, "ready", None, ""),
        ("document changed", desired(TWO), Actual(), RUNNING, "applying", "process", "its document changed (scene)"),
        ("crash, first time", desired(ONE), CRASHED, RUNNING, "retrying", "process", "exited with code 1"),
        ("altered by somebody", desired(ONE), ALTERED, RUNNING, "applying", "process", "was altered"),
        ("crash, too soon", desired(ONE), CRASHED, tried(RUNNING, 2, 0.2), "retrying", None, ""),
        (
            "crash, due again",
            desired(ONE),
            CRASHED,
            tried(RUNNING, 2, 1.0),
            "retrying",
            "process",
            "exited with code 1",
        ),
        ("failed, too soon", desired(ONE), Actual(), tried(Memory(), 1, 0.1), "retrying", None, ""),
        ("failed, due again", desired(ONE), Actual(), tried(Memory(), 1, 0.5), "retrying", "process", "after: boom"),
        (
            "failed, but another is wanted",
            desired(TWO),
            Actual(),
            tried(Memory(), 9, 0.1),
            "applying",
            "process",
            "yet",
        ),
        ("repaired, not settled", desired(ONE), Actual(), tried(RUNNING, 1, 3.0), "retrying", None, ""),
        ("repaired, settled", desired(ONE), Actual(), tried(RUNNING, 1, 10.0), "ready", None, ""),
        ("altered and put right", desired(ONE), Actual(), tried(RUNNING, 1, 3.0, None), "ready", None, ""),
        ("another driver", desired(EXEC), Actual(), RUNNING, "applying", "process", "driver is exec now"),
        (
            "refused, nothing before",
            desired(ONE),
            Actual(),
            Memory(rejected=Rejected(digest_of(ONE), "no argv")),
            "failed",
            None,
            "",
        ),
        (
            "refused, the one before goes on",
            desired(TWO),
            Actual(),
            replace(RUNNING, rejected=Rejected(digest_of(TWO), "no argv")),
            "failed",
            None,
            "",
        ),
        (
            "refused, the one before crashed",
            desired(TWO),
            CRASHED,
            replace(RUNNING, rejected=Rejected(digest_of(TWO), "no argv")),
            "failed",
            "process",
            "exited with code 1",
        ),
        (
            "refused once, but another is wanted now",
            desired(ONE),
            Actual(),
            Memory(rejected=Rejected(digest_of(TWO), "no argv")),
            "applying",
            "process",
            "yet",
        ),
    ],
)
def test_plan_table(
    case: str, want: Desired | None, actual: Actual, memory: Memory, phase: str, driver: str | None, reason: str
) -> None:
    """Each situation has its phase, its next step and a reason."""
    made = plan(want, actual, memory, NOW, nothing_because="it is gone", settle_s=10.0)
    assert made.phase == phase, case
    assert (made.task.driver if made.task else None) == driver, case
    if made.task is not None:
        assert reason in made.task.reason, case


def test_a_new_order_for_the_same_spec_does_nothing() -> None:
    """Another generation or term is no reason to touch what runs."""
    assert plan(desired(ONE, 8), Actual(), RUNNING, NOW).task is None


def test_waiting_tells_when_to_look_again() -> None:
    """A plan that waits has the time of the next step."""
    made = plan(desired(ONE), CRASHED, tried(RUNNING, 3, 0.5), NOW)
    assert made.task is None
    assert made.wake_at == pytest.approx(NOW - 0.5 + 2.0)
    assert made.error == CRASHED.drift


def test_a_repair_holds_only_after_settling() -> None:
    """A restart counts against the program until it has run for settle_s."""
    task = plan(desired(ONE), CRASHED, RUNNING, NOW).task
    assert task is not None
    memory = planner.succeeded(RUNNING, task, NOW)
    assert (memory.attempts.count, memory.attempts.error) == (1, CRASHED.drift)
    assert planner.settled(memory, Actual(), NOW + 9.9, 10.0) == memory
    assert planner.settled(memory, CRASHED, NOW + 10.0, 10.0) == memory
    assert planner.settled(memory, Actual(), NOW + 10.0, 10.0).attempts.count == 0


def test_a_spec_that_worked_is_never_refused_for_good() -> None:
    """A driver that calls a spec impossible which has worked before is asked again, later."""
    task = Task("process", "", digest_of(ONE), ONE)
    assert planner.failed(RUNNING, task, NOW, "no", retryable=False).rejected is None
    fresh = planner.failed(Memory(), task, NOW, "no", retryable=False)
    assert fresh.rejected == Rejected(digest_of(ONE), "no")


def test_after_a_stop_the_same_spec_is_applied_anew() -> None:
    """A node that is removed and comes back begins from nothing."""
    task = plan(None, Actual(), RUNNING, NOW).task
    assert task is not None
    memory = planner.succeeded(RUNNING, task, NOW)
    assert memory == Memory()
    assert plan(desired(ONE), Actual(), memory, NOW).task is not None


@given(st.integers(0, 10_000))
def test_backoff_is_bounded_and_never_shrinks(attempts: int) -> None:
    """Pauses grow up to the bound, however many attempts there were."""
    backoff = RetryDelays(0.5, 30.0)
    assert 0 <= backoff.delay_s(attempts) <= backoff.delay_s(attempts + 1) <= 30.0


SPECS = [ONE, TWO, EXEC]
OUTCOMES = st.sampled_from(["ok", "retryable", "refused", "cut"])


@given(
    st.lists(
        st.tuples(st.sampled_from([None, *SPECS]), st.sampled_from([Actual(), CRASHED, ALTERED]), OUTCOMES), max_size=30
    ),
    st.sampled_from(SPECS),
)
def test_any_history_converges(history: list[tuple[Spec | None, Actual, str]], last: Spec) -> None:
    """Whatever was wanted, failed or was cut short before, a spec that can be applied is in effect in the end, at
    most one driver has something in effect, and it takes a bounded time."""
    memory, now, effect = Memory(), 0.0, dict[str, Spec]()

    def step(want: Spec | None, actual: Actual, outcome: str) -> bool:
        nonlocal memory, now
        memory = planner.settled(memory, actual, now, 1.0)
        made = plan(desired(want) if want else None, actual, memory, now, settle_s=1.0)
        if made.task is None:
            now = made.wake_at if made.wake_at is not None else now
            return made.wake_at is None
        task = made.task
        now += 0.01
        if outcome == "cut":  # a new noded that knows only the file
            memory = Memory(driver=memory.driver or task.driver, good=memory.good)
        elif outcome == "ok":
            memory = planner.succeeded(memory, task, now)
            effect.pop(task.driver, None)
            if task.spec is not None:
                effect[task.driver] = task.spec
        else:
            memory = planner.failed(memory, task, now, "boom", retryable=outcome == "retryable")
            if outcome == "retryable":
                effect.pop(task.driver, None)
        assert len(effect) <= 1
        return False

    for want, actual, outcome in history:
        step(want, actual, outcome)
    memory = replace(memory, rejected=None)  # refused for good means that only another spec, or a new noded, helps
    began = now
    for _ in range(20):
        if step(last, Actual(), "ok"):
            break
    assert effect == {last.driver: last}
    assert now - began <= 31.0 + 1.0 + 1.0


# --- settling and streams of changes ---------------------------------------------------------------------------------


def test_what_was_just_started_is_not_ready() -> None:
    """A state that must still last is not `ready`; the plan says what has to happen and when to plan again."""
    started = Actual(unsettled_s=4.0, waits_for="the program must run for 10 s")
    made = plan(desired(ONE), started, RUNNING, NOW)
    assert (made.task, made.phase, made.wake_at) == (None, "applying", NOW + 4.0)
    assert made.note == "the program must run for 10 s"
    assert plan(desired(ONE), Actual(), RUNNING, NOW).phase == "ready"


def test_after_a_failure_what_was_just_started_is_retrying() -> None:
    """The earlier error stays visible until the state has settled."""
    made = plan(desired(ONE), Actual(unsettled_s=4.0), tried(RUNNING, 1, 6.0), NOW, settle_s=10.0)
    assert (made.phase, made.error) == ("retrying", "boom")


def test_failures_are_not_forgotten_before_the_state_has_settled() -> None:
    """A state that must still last resets nothing, although the last failure was long ago."""
    memory = tried(RUNNING, 3, 60.0)
    assert planner.settled(memory, Actual(unsettled_s=1.0), NOW, 10.0) == memory
    assert planner.settled(memory, Actual(), NOW, 10.0).attempts.count == 0


def run_stream(every_s: float, for_s: float, lives_s: float) -> tuple[list[float], set[str]]:
    """Change the document every `every_s`; what is applied ends after `lives_s`. Returns the starts and the phases."""
    memory, now, generation, dies_at = RUNNING, 0.0, 0, 0.0
    starts: list[float] = []
    phases: set[str] = set()
    while now < for_s:
        generation = int(now / every_s)
        actual = CRASHED if now >= dies_at else Actual(unsettled_s=10.0)
        memory = planner.settled(memory, actual, now, 10.0)
        made = plan(desired(spec(scene=generation)), actual, memory, now, settle_s=10.0)
        if made.task is None:
            phases.add(made.phase)
        else:
            if actual.drift is not None:
                starts.append(now)
                dies_at = now + lives_s
            memory = planner.succeeded(memory, made.task, now)
        now += 0.01
    return starts, phases


@pytest.mark.parametrize("lives_s", [0.02, 2.0])
def test_a_stream_of_changes_neither_voids_the_pauses_nor_keeps_the_program_down(lives_s: float) -> None:
    """The starts of a program that always ends become rare, whatever changes meanwhile; but they go on."""
    starts, phases = run_stream(0.05, 120.0, lives_s)
    assert len(starts) <= 16
    pauses = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert max(pauses) <= 30.1 + lives_s
    assert "ready" not in phases
    assert starts[-1] > 60.0


def test_the_first_change_after_failures_is_tried_at_once() -> None:
    """An operator's remedy does not wait for the pause; the remedy of the remedy waits half a second."""
    failing = tried(replace(RUNNING, applied=None), 7, 0.1)
    first = plan(desired(TWO), Actual(), failing, NOW).task
    assert first is not None
    memory = planner.failed(failing, first, NOW, "boom", retryable=True)
    assert plan(desired(spec(scene="three")), Actual(), memory, NOW + 0.4).task is None
    assert plan(desired(spec(scene="three")), Actual(), memory, NOW + 0.5).task is not None


def test_a_rejected_spec_does_not_void_the_pauses() -> None:
    """What runs and fails keeps its pauses, although a spec was rejected meanwhile."""
    memory = planner.failed(
        tried(RUNNING, 5, 1.0), Task("process", "", digest_of(TWO), TWO), NOW, "no", retryable=False
    )
    assert plan(desired(TWO), CRASHED, memory, NOW).task is None


def test_a_stop_does_not_wait_for_the_pauses() -> None:
    """A node that is removed while its program fails is stopped at once."""
    assert plan(None, CRASHED, tried(RUNNING, 9, 0.1), NOW).task is not None
