"""Plans the next step from the desired state, the actual state and the earlier attempts. Pure: times are arguments.

`plan` is called again after every task, so it plans one step at a time. Every task carries its reason for the log.
Times are seconds on the monotonic clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import cast

from noded.drivers.contract import Actual
from nodestore.schema.models import Desired, Phase, Spec
from nodestore.support import jsonio
from nodestore.support.backoff import grown_s


@dataclass(frozen=True)
class RetryDelays:
    """Pauses between attempts: none before the first repair, then `first_s`, doubling up to `most_s`."""

    first_s: float = 0.5
    most_s: float = 30.0

    def delay_s(self, attempts: int) -> float:
        """Return the seconds from the start of one attempt to the next. attempts: see `Attempts.count`."""
        if attempts <= 0:
            return 0.0
        return grown_s(self.first_s, self.most_s, attempts - 1)


@dataclass(frozen=True)
class Attempts:
    """The attempts since the node last settled (see `settled`). The last one was for the spec with `digest`.

    count: failed attempts and successful repairs. last_at: when the last of them began. error: the last error.
    changes: how many attempts were made before their pause was over, because the spec had changed. changed_at: when the
    last of those began.
    """

    digest: str = ""
    count: int = 0
    last_at: float = -math.inf
    error: str | None = None
    changes: int = 0
    changed_at: float = -math.inf


@dataclass(frozen=True)
class Rejected:
    """A spec that the driver rejects as impossible. It is not tried again until it changes."""

    digest: str
    error: str


@dataclass(frozen=True)
class Memory:
    """What noded remembers of its own steps.

    driver: the name of the driver that may have applied something, so it is stopped before another one is used.
    applied: the spec that it last applied with success; None if unknown, because noded has just started or an attempt
    failed in the middle. good: the last spec that was applied with success, by this noded or an earlier one; it stays
    in effect while the driver rejects a newer one.
    """

    driver: str | None = None
    applied: Spec | None = None
    good: Spec | None = None
    attempts: Attempts = Attempts()
    rejected: Rejected | None = None


@dataclass(frozen=True)
class Task:
    """One step: apply `spec`, or (without one) stop `driver`.

    target: digest of the spec for which attempts are counted. failure: the error, if the step repairs a failure.
    then: the spec to be applied by another driver after this stop. If that driver cannot be loaded, nothing is stopped.
    """

    driver: str
    reason: str
    target: str
    spec: Spec | None = None
    failure: str | None = None
    then: Spec | None = None


@dataclass(frozen=True)
class Plan:
    """The next task, or None with the phase and error to report.

    wake_at: when to plan again without an event. note: what the node waits for, to be reported with the reason.
    """

    task: Task | None
    phase: Phase
    error: str | None = None
    wake_at: float | None = None
    note: str = ""


def digest_of(spec: Spec) -> str:
    """Return a digest that identifies `spec`."""
    return jsonio.digest(spec.model_dump(mode="json"))


def plan(
    desired: Desired | None,
    actual: Actual,
    memory: Memory,
    now: float,
    *,
    nothing_because: str = "the node has no desired state",
    settle_s: float = 0.0,
    backoff: RetryDelays = RetryDelays(),
) -> Plan:
    """Plan the next step towards `desired` (None: nothing may run; `nothing_because` says why)."""
    if desired is None:
        if memory.driver is None:
            return Plan(None, "idle")
        task = Task(memory.driver, f"stops: {nothing_because}", _NOTHING)
        return _when_due(task, _attempts_to_stop(memory, _NOTHING), now, backoff)
    rejected = memory.rejected if memory.rejected and memory.rejected.digest == digest_of(desired.spec) else None
    if rejected is None:
        return _towards(desired.spec, actual, memory, now, settle_s, backoff)
    if memory.good is None:
        return Plan(None, "failed", rejected.error)
    kept = _towards(memory.good, actual, memory, now, settle_s, backoff)
    return replace(kept, phase="failed", error=rejected.error)


_NOTHING = ""
"""Task.target if the desired state is that nothing runs: there is no spec, so no digest."""


def _towards(spec: Spec, actual: Actual, memory: Memory, now: float, settle_s: float, backoff: RetryDelays) -> Plan:
    digest = digest_of(spec)
    if memory.driver not in (None, spec.driver):
        reason = f"stops driver {memory.driver}: the node's driver is {spec.driver} now"
        task = Task(str(memory.driver), reason, digest, then=spec)
        return _when_due(task, _attempts_to_stop(memory, digest), now, backoff)
    attempts = memory.attempts if memory.attempts.count else Attempts(digest)
    failure = actual.drift if actual.failed else None
    if memory.applied is None or digest_of(memory.applied) != digest:
        task = Task(spec.driver, _why_apply(memory, spec, digest), digest, spec, failure)
        if memory.applied is not None and failure is None:
            return Plan(task, "applying", attempts.error)
        return _when_due(task, attempts, now, backoff)
    if actual.drift is not None:
        task = Task(spec.driver, actual.drift, digest, spec, failure)
        return _when_due(task, replace(attempts, error=failure or attempts.error), now, backoff)
    return _while_settling(actual, attempts, now, settle_s)


def _while_settling(actual: Actual, attempts: Attempts, now: float, settle_s: float) -> Plan:
    """Return the plan for a node without drift: it is ready unless it has to stay so for longer."""
    failures_count_until = attempts.last_at + settle_s if attempts.count else now
    ready_at = now + actual.unsettled_s
    waits = [at for at in (failures_count_until, ready_at) if at > now]
    if not waits:
        return Plan(None, "ready")
    if attempts.count and attempts.error:
        return Plan(None, "retrying", attempts.error, min(waits))
    return Plan(None, "applying" if ready_at > now else "ready", None, min(waits), actual.waits_for)


def _when_due(task: Task, attempts: Attempts, now: float, backoff: RetryDelays) -> Plan:
    """Return the plan with `task` if its pause is over, else one that waits.

    A changed spec may be the remedy, so it is tried before the pause is over. As a stream of changes must not void the
    pauses, such attempts have growing pauses of their own.
    """
    due, phase = attempts.last_at + backoff.delay_s(attempts.count), "retrying" if attempts.error else "applying"
    if task.target != attempts.digest:
        due, phase = min(due, attempts.changed_at + backoff.delay_s(attempts.changes)), "applying"
    if due <= now:
        return Plan(task, cast(Phase, phase), attempts.error)
    return Plan(None, "retrying" if attempts.error else "applying", attempts.error, due)


def _attempts_to_stop(memory: Memory, digest: str) -> Attempts:
    """Return the attempts at a stop for the target `digest`: failures to apply something do not delay it."""
    return memory.attempts if memory.attempts.digest == digest else Attempts(digest)


def _why_apply(memory: Memory, spec: Spec, digest: str) -> str:
    attempts = memory.attempts
    if attempts.count and attempts.digest == digest:
        return f"attempt {attempts.count + 1}, after: {attempts.error}"
    return _why(memory.applied, spec)


def _why(old: Spec | None, new: Spec) -> str:
    if old is None:
        return "this noded has not applied anything yet"
    parts = [name for name in ("settings", "document") if getattr(old, name) != getattr(new, name)]
    names = sorted(
        key
        for part in parts
        for key in {*getattr(old, part), *getattr(new, part)}
        if getattr(old, part).get(key) != getattr(new, part).get(key)
    )
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return f"its {' and '.join(parts)} changed ({shown})"


# --- results of a task -----------------------------------------------------------------------------------------------


def succeeded(memory: Memory, task: Task, started_at: float) -> Memory:
    """Return the memory after `task` succeeded. A repair counts as an attempt until `settled` resets it."""
    if task.spec is None:
        return Memory(good=memory.good if task.target != _NOTHING else None)
    repair = memory.applied == task.spec or task.failure is not None
    attempts = replace(memory.attempts, digest=task.target)
    if memory.applied is None or repair:  # a change of what works is no attempt
        attempts = replace(
            _counted_change(memory.attempts, task, started_at),
            count=memory.attempts.count + (1 if repair else 0),
            last_at=started_at,
            error=task.failure or memory.attempts.error,
        )
    return replace(memory, driver=task.driver, applied=task.spec, good=task.spec, attempts=attempts)


def failed(memory: Memory, task: Task, started_at: float, error: str, *, retryable: bool) -> Memory:
    """Return the memory after `task` failed.

    If not retryable, the driver changed nothing and only another spec can succeed. A spec that was applied with success
    before is retried all the same.
    """
    if task.spec is not None and not retryable and memory.good != task.spec:
        return replace(memory, rejected=Rejected(task.target, error))
    if task.spec is None:
        count = _attempts_to_stop(memory, task.target).count + 1
        return replace(memory, applied=None, attempts=Attempts(task.target, count, started_at, error))
    attempts = _counted_change(memory.attempts, task, started_at)
    attempts = replace(attempts, count=attempts.count + 1, last_at=started_at, error=error)
    return replace(memory, driver=task.driver, applied=None, attempts=attempts)


def _counted_change(attempts: Attempts, task: Task, started_at: float) -> Attempts:
    """Return the attempts with the target of `task`, counted as a change if there were failures for another one."""
    if not attempts.count or attempts.digest == task.target:
        return replace(attempts, digest=task.target)
    return replace(attempts, digest=task.target, changes=attempts.changes + 1, changed_at=started_at)


def restarting(memory: Memory) -> Memory:
    """Return the memory at the start of the action restart: the spec is due at once, however often it failed."""
    return replace(memory, applied=None, attempts=Attempts())


def settled(memory: Memory, actual: Actual, now: float, settle_s: float) -> Memory:
    """Reset the attempts once the applied spec has been without drift for `settle_s`."""
    attempts = memory.attempts
    if not attempts.count or memory.applied is None or actual.drift is not None or actual.unsettled_s > 0:
        return memory
    if attempts.digest != digest_of(memory.applied) or now < attempts.last_at + settle_s:
        return memory
    return replace(memory, attempts=Attempts(attempts.digest))
