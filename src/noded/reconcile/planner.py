"""Plans the next step from what is wanted, what is, and what has been tried. Pure: times are handed in.

Called again after every task, so it plans one step at a time. Every task carries the reason that goes into the log.
Times are seconds on the monotonic clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

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
        """From the start of one attempt to the next, after `attempts` of them in a row that did not hold."""
        if attempts <= 0:
            return 0.0
        return grown_s(self.first_s, self.most_s, attempts - 1)


@dataclass(frozen=True)
class Attempts:
    """How often in a row the spec with `digest` was applied in vain, when last, and what went wrong."""

    digest: str = ""
    count: int = 0
    last_at: float = -math.inf
    error: str | None = None


@dataclass(frozen=True)
class Rejected:
    """A spec that the driver says can never work: not tried again until it changes."""

    digest: str
    error: str


@dataclass(frozen=True)
class Memory:
    """What noded knows of its own doing.

    driver: the one that may have something in effect. applied: what it was last told with success; None when that is
    not known, because noded has just started or an attempt failed half-way. good: the last spec that was ever applied
    with success, by an earlier noded too: what is kept going when the driver refuses another one.
    """

    driver: str | None = None
    applied: Spec | None = None
    good: Spec | None = None
    attempts: Attempts = Attempts()
    rejected: Rejected | None = None


@dataclass(frozen=True)
class Task:
    """One step: make `spec` true, or (without one) end what `driver` has in effect.

    target: what the attempts are counted for. failure: what of the thing driven failed, when that is the reason.
    then: the spec, for another driver, that makes room necessary: see that its driver exists before stopping this one.
    """

    driver: str
    reason: str
    target: str
    spec: Spec | None = None
    failure: str | None = None
    then: Spec | None = None


@dataclass(frozen=True)
class Plan:
    """The next task, or None and how things stand. `wake_at`: when to look again though nothing happens."""

    task: Task | None
    phase: Phase
    error: str | None = None
    wake_at: float | None = None


def digest_of(spec: Spec) -> str:
    """What tells one spec from another."""
    return jsonio.digest(spec.model_dump(mode="json"))


def plan(
    desired: Desired | None,
    actual: Actual,
    memory: Memory,
    now: float,
    *,
    nothing_because: str = "it has no desired state",
    settle_s: float = 0.0,
    backoff: RetryDelays = RetryDelays(),
) -> Plan:
    """The next step from `memory` and `actual` to `desired` (None: nothing may run, `nothing_because`)."""
    if desired is None:
        if memory.driver is None:
            return Plan(None, "idle")
        task = Task(memory.driver, f"stops: {nothing_because}", _NOTHING)
        return _when_due(task, _attempts(memory, _NOTHING), now, backoff)
    rejected = memory.rejected if memory.rejected and memory.rejected.digest == digest_of(desired.spec) else None
    if rejected is None:
        return _towards(desired.spec, actual, memory, now, settle_s, backoff)
    if memory.good is None:
        return Plan(None, "failed", rejected.error)
    kept = _towards(memory.good, actual, memory, now, settle_s, backoff)
    return replace(kept, phase="failed", error=rejected.error)


_NOTHING = ""
"""Stands for the digest of a spec where the target is that nothing runs."""


def _towards(spec: Spec, actual: Actual, memory: Memory, now: float, settle_s: float, backoff: RetryDelays) -> Plan:
    attempts = _attempts(memory, digest_of(spec))
    if memory.driver not in (None, spec.driver):
        reason = f"stops what driver {memory.driver} runs: the node has driver {spec.driver} now"
        task = Task(str(memory.driver), reason, attempts.digest, then=spec)
        return _when_due(task, attempts, now, backoff)
    if memory.applied is None or digest_of(memory.applied) != attempts.digest:
        again = f"attempt {attempts.count + 1}, after: {attempts.error}"
        reason = again if attempts.count else _why(memory.applied, spec)
        return _when_due(Task(spec.driver, reason, attempts.digest, spec), attempts, now, backoff)
    if actual.drift is not None:
        failure = actual.drift if actual.failed else None
        task = Task(spec.driver, actual.drift, attempts.digest, spec, failure)
        return _when_due(task, replace(attempts, error=failure or attempts.error), now, backoff)
    if attempts.count and (settles_at := attempts.last_at + settle_s) > now:
        return Plan(None, "retrying" if attempts.error else "ready", attempts.error, settles_at)
    return Plan(None, "ready")


def _when_due(task: Task, attempts: Attempts, now: float, backoff: RetryDelays) -> Plan:
    due = attempts.last_at + backoff.delay_s(attempts.count)
    phase: Phase = "retrying" if attempts.error else "applying"
    return Plan(task if due <= now else None, phase, attempts.error, None if due <= now else due)


def _attempts(memory: Memory, digest: str) -> Attempts:
    """Those at this target: another target is tried at once."""
    return memory.attempts if memory.attempts.digest == digest else Attempts(digest)


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


# --- what came of a task ---------------------------------------------------------------------------------------------


def succeeded(memory: Memory, task: Task, started_at: float) -> Memory:
    """After a task that succeeded. A repair counts as an attempt until it has held; see `settled`."""
    if task.spec is None:
        return Memory(good=memory.good if task.target != _NOTHING else None)
    attempts = _attempts(memory, task.target)
    repair = memory.applied == task.spec
    attempts = replace(
        attempts,
        count=attempts.count + (1 if repair else 0),
        last_at=started_at,
        error=task.failure or attempts.error,
    )
    return replace(memory, driver=task.driver, applied=task.spec, good=task.spec, attempts=attempts)


def failed(memory: Memory, task: Task, started_at: float, error: str, *, retryable: bool) -> Memory:
    """After a task that failed. Not retryable means that nothing has been changed and that only another spec helps,
    which is not believed of a spec that has worked before."""
    if task.spec is not None and not retryable and memory.good != task.spec:
        return replace(memory, rejected=Rejected(task.target, error), attempts=Attempts())
    attempts = Attempts(task.target, _attempts(memory, task.target).count + 1, started_at, error)
    return replace(memory, driver=task.driver, applied=None, attempts=attempts)


def restarting(memory: Memory) -> Memory:
    """When what runs is to be stopped and applied anew, because somebody asked: at once, whatever failed before."""
    return replace(memory, applied=None, attempts=Attempts())


def settled(memory: Memory, actual: Actual, now: float, settle_s: float) -> Memory:
    """Forget earlier attempts once what was applied has held for `settle_s`."""
    attempts = memory.attempts
    if not attempts.count or memory.applied is None or actual.drift is not None:
        return memory
    if attempts.digest != digest_of(memory.applied) or now < attempts.last_at + settle_s:
        return memory
    return replace(memory, attempts=Attempts(attempts.digest))
