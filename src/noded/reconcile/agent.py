"""The reconcile loop that puts the node into its desired state.

Level-triggered: whatever woke it, the loop reads desired and actual state, plans one step and executes it, until no
step is due. An event only wakes the loop, so a lost event delays a step by one tick at most.
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import NoReturn, TypeVar

from noded.drivers.contract import Actual, Context, Driver, DriverError, DriverFactory
from noded.reconcile import planner
from noded.reconcile.last_applied import LastAppliedStore
from noded.reconcile.orders import Orders, order_text
from noded.reconcile.planner import Memory, Plan, RetryDelays, Task
from noded.registration.claim import NodeClaim
from nodestore.schema.models import Desired, Status
from nodestore.support.jsonio import Document, Json, dumps
from nodestore.support.logs import RateLimitedLog, one_line
from nodestore.support.secrets import SecretFields, without_secrets
from nodestore.support.waiting import set_within

log = logging.getLogger(__name__)

T = TypeVar("T")

ACTUAL_BYTES_MAX = 64 << 10
ERROR_CHARS_MAX = 2_000
_NOTE_CHARS_MAX = 300
_INSPECT_TIMEOUT_S = 10.0
_SHOW_APPLYING_S = 1.0
_SETTLE_WAIT_S = 90.0
"""How long the action restart waits until what it started counts as ready. Meanwhile nothing else is applied."""
_STEPS_MAX = 8
"""Maximum number of steps in a row without a pause. A safeguard: the delays between attempts end each row earlier."""


@dataclass(frozen=True, kw_only=True)
class AgentTiming:
    """tick_s: interval of the periodic comparison. start_wait_s: how long the agent waits for etcd after its start,
    before it applies the last applied state again. backoff: delays between attempts."""

    tick_s: float = 5.0
    start_wait_s: float = 5.0
    backoff: RetryDelays = field(default_factory=RetryDelays)


class Agent:
    """Drives one node.

    report: called with each status. load: returns the driver class with the given name. on_reconciled: called when the
    loop has reconciled with another value of `desired/<node>` than before.

    The driver lock admits one step of the loop, or one action (see `hold_driver`), at a time.
    """

    def __init__(
        self,
        context: Context,
        orders: Orders,
        claim: NodeClaim,
        report: Callable[[Status], None],
        load: Callable[[str], DriverFactory],
        timing: AgentTiming,
        last_applied: LastAppliedStore,
        on_reconciled: Callable[[], None],
    ) -> None:
        self._context = context
        self._orders = orders
        self._claim = claim
        self._report = report
        self._load = load
        self._timing = timing
        self._last_applied = last_applied
        self._on_reconciled = on_reconciled
        self._persisted = self._last_applied.load()
        before = self._persisted.spec if self._persisted else None
        self._memory = Memory(driver=before.driver if before else None, good=before)
        self._driver: tuple[str, Driver] | None = None
        self._wake = asyncio.Event()
        self._driver_lock = asyncio.Lock()
        self._inspect_lock = asyncio.Lock()
        self._keep_inspecting = False
        self._reconciled: tuple[bytes | None] | None = None
        self._log_order = RateLimitedLog(log, math.inf)
        self._started_at = time.monotonic()
        self._is_offline = False
        self._reason = ""
        self._persist_error = ""
        self._log_unwritable = RateLimitedLog(log, math.inf)

    def wake(self) -> None:
        """Make the loop reconcile soon."""
        self._wake.set()

    async def reconcile_forever(self) -> NoReturn:
        """Reconcile at each wake and each tick. Never returns."""
        while True:
            self._wake.clear()
            again_in_s = await self._reconcile()
            await set_within(self._wake, again_in_s)

    async def shut_down(self, reason: str) -> None:
        """Stop the driver because noded ends, and report that. Logs an error of the driver instead of raising it."""
        # includes a driver that is not in the memory because its apply was cancelled: it may have started something
        name = self._driver[0] if self._driver is not None else self._memory.driver
        if name is not None:
            log.info("stops driver %s: %s", name, reason)
            try:
                await self._execute_task(Task(name, reason, ""))
            except DriverError as error:
                log.error("cannot stop driver %s, end its processes by hand: %s", name, error.message)
                return
        self._reason = reason
        self._memory = Memory()
        self._report_status(self._desired_in_force, Actual(), Plan(None, "idle"))

    # --- actions ---

    @property
    def driver(self) -> tuple[str, Driver] | None:
        """The name and the instance of the driver that last applied something or tried to; None if none did."""
        return self._driver

    def has_reconciled(self, raw: bytes | None) -> bool:
        """Whether `raw` was the value of `desired/<node>` when the loop last had no step to execute."""
        return self._reconciled == (raw,)

    @asynccontextmanager
    async def hold_driver(self, *, keep_inspecting: bool) -> AsyncIterator[None]:
        """Hold the driver lock for an action: the loop executes no step. keep_inspecting: it goes on inspecting."""
        self._keep_inspecting = keep_inspecting
        try:
            async with self._driver_lock:
                yield
        finally:
            self._keep_inspecting = False
            self.wake()

    def show_reason(self, reason: str) -> None:
        """Show `reason` in the status."""
        self._reason = reason
        self.wake()

    async def restart(self, reason: str) -> None:
        """Stop the driver, apply the spec again and wait until it has settled. Call it within `hold_driver`.

        Raises DriverError if that fails; the loop then retries.
        """
        target, driver_name = self._desired_state(), self._memory.driver
        if target is None or target[0] is None or driver_name is None:
            raise DriverError("no driver is in effect on this node: there is nothing to restart")
        desired = target[0]
        self._memory = planner.restarting(self._memory)
        async with self._inspect_lock:  # an inspect that began during the previous action may still be running
            await self._execute_task(Task(driver_name, reason, ""))
        plan = planner.plan(desired, Actual(), self._memory, time.monotonic(), backoff=self._timing.backoff)
        if plan.task is None:
            raise DriverError(plan.error or "cannot restart: by the desired state nothing may run")
        await self._run_task(replace(plan.task, reason=reason), desired, Actual(), plan)
        if self._memory.applied is None:
            rejected = self._memory.rejected
            raise DriverError((rejected and rejected.error) or self._memory.attempts.error or "nothing was applied")
        await self._wait_settled(desired)

    async def _wait_settled(self, desired: Desired) -> None:
        """Wait until what was started counts as ready. Raises DriverError if it fails, or takes too long."""
        deadline = time.monotonic() + _SETTLE_WAIT_S
        while True:
            self._wake.clear()
            actual, settle_s = await self._inspect()
            if actual.drift is not None:
                raise DriverError(actual.drift)
            now = time.monotonic()
            plan = planner.plan(desired, actual, self._memory, now, settle_s=settle_s, backoff=self._timing.backoff)
            self._report_status(desired, actual, plan)
            if actual.unsettled_s <= 0:
                return
            if now >= deadline:
                raise DriverError(f"not ready {_SETTLE_WAIT_S:g} s after the restart: {actual.waits_for}")
            await set_within(self._wake, min(actual.unsettled_s, self._timing.tick_s, deadline - now))

    # --- the desired state ---

    def _desired_state(self) -> tuple[Desired | None, str] | None:
        """Return the desired state and a reason; None while it is not known yet whether there is one.

        The desired state in the pair is None if nothing may run; the reason says why.
        """
        claim, orders = self._claim, self._orders
        if not claim.was_held and claim.other_holder is not None:
            self._is_offline = False
            return None, f"{claim.other_holder} drives this node"
        if orders.is_known and (claim.was_held or self._is_offline):
            self._persisted = None  # etcd was read: the file is never used again
            return orders.desired, "the node has no desired state"
        if not self._is_offline and time.monotonic() >= self._started_at + self._timing.start_wait_s:
            log.warning(
                "cannot claim the node in etcd within %g s: drives the node without the claim, by the desired state in "
                "etcd if it can be read, else by the last applied one; check etcd",
                self._timing.start_wait_s,
            )
            self._is_offline = True
        if not self._is_offline:
            return None
        if orders.is_known:
            return orders.desired, "the node has no desired state"
        return (self._persisted, "") if self._persisted is not None else None

    # --- reconciling ---

    async def _reconcile(self) -> float:
        """Execute steps until none is due. Returns how many seconds to sleep unless woken."""
        for _ in range(_STEPS_MAX):
            if self._keep_inspecting:
                again_in_s = await self._step(inspect_only=True)
            else:
                async with self._driver_lock:
                    again_in_s = await self._step()
            if again_in_s is not None:
                return again_in_s
        return 0.0

    async def _step(self, *, inspect_only: bool = False) -> float | None:
        """Inspect, and execute the step that is due. Returns the seconds to sleep; None if a step was executed.

        inspect_only: inspect and report, but execute nothing.
        """
        target = self._desired_state()
        from_etcd = self._orders.is_known and (self._claim.was_held or self._is_offline)
        raw = self._orders.raw
        if target is None:
            left_s = self._started_at + self._timing.start_wait_s - time.monotonic()
            return min(self._timing.tick_s, left_s) if left_s > 0 else self._timing.tick_s
        desired, nothing_because = target
        if from_etcd and not inspect_only:
            self._log_order_once(desired)
        actual, settle_s = await self._inspect()
        now = time.monotonic()
        self._memory = planner.settled(self._memory, actual, now, settle_s)
        plan = planner.plan(
            desired,
            actual,
            self._memory,
            now,
            nothing_because=nothing_because,
            settle_s=settle_s,
            backoff=self._timing.backoff,
        )
        if plan.task is not None and not inspect_only:
            if not await self._claim.may_act():
                return self._timing.tick_s  # the claim's loop ends noded
            await self._run_task(plan.task, desired, actual, plan)
            return None
        self._report_status(desired, actual, plan)
        if plan.task is not None:
            return self._timing.tick_s
        self._persist_last_applied(desired)
        if from_etcd and self._reconciled != (raw,):
            self._reconciled = (raw,)
            self._on_reconciled()
        wait_s = self._timing.tick_s if plan.wake_at is None else plan.wake_at - now
        return max(0.0, min(self._timing.tick_s, wait_s))

    def _log_order_once(self, desired: Desired | None) -> None:
        """Log each order once, so that later log lines can be attributed to it."""
        if desired is not None:
            self._log_order.log(logging.INFO, f"obeys order {order_text(desired.order)} (epoch.term.generation)")

    async def _inspect(self) -> tuple[Actual, float]:
        if self._driver is None:
            return Actual(), 0.0
        name, driver = self._driver
        try:
            async with self._inspect_lock, asyncio.timeout(_INSPECT_TIMEOUT_S):
                found = await driver.inspect()
                if not found.unsettled_s >= 0:  # drivers are third-party code
                    raise DriverError(f"its unsettled_s is {found.unsettled_s!r}, not a number of seconds")
                return replace(found, drift=self.without_secrets(found.drift)), driver.settle_s
        except DriverError as error:
            drift = error.message
        except TimeoutError:
            drift = f"inspect did not return within {_INSPECT_TIMEOUT_S:g} s"
        except Exception as error:
            log.debug("driver %s", name, exc_info=True)
            drift = f"{type(error).__name__}: {error}"
        drift = self.without_secrets(drift)
        return Actual(drift=f"driver {name} cannot inspect the node: {drift}", failed=True), driver.settle_s

    async def _run_task(self, task: Task, desired: Desired | None, actual: Actual, plan: Plan) -> None:
        """Execute one task, log it, and keep its result in the memory."""
        generation = f"generation {desired.generation}: " if desired is not None else ""
        verb = f"applies by driver {task.driver}: " if task.spec is not None else ""
        log.info("%s%s%s", generation, verb, task.reason)
        self._reason = task.reason
        started_at = time.monotonic()
        # report `applying` only for a slow step: most steps end sooner, and each status is a write to etcd
        slow = asyncio.get_running_loop().call_later(
            _SHOW_APPLYING_S, self._report_status, desired, actual, Plan(None, "applying", plan.error)
        )
        try:
            await self._execute_task(task)
        except _TaskRejected as rejected:
            message = self.without_secrets(rejected.message)
            self._memory = planner.failed(self._memory, rejected.task, started_at, message, retryable=False)
            log.error("%srejected by driver %s: %s", generation, rejected.task.driver, message)
        except DriverError as error:
            message = self.without_secrets(error.message)
            self._memory = planner.failed(self._memory, task, started_at, message, retryable=error.retryable)
            log.error("%sfailed, will be tried again: %s", generation, message)
        else:
            self._memory = planner.succeeded(self._memory, task, started_at)
            if task.spec is None:
                self._driver = None
        finally:
            slow.cancel()

    async def _execute_task(self, task: Task) -> None:
        """Call the driver. Raises DriverError, whatever the driver raised."""
        try:
            if task.spec is not None:
                previous = self._memory.applied if self._memory.driver == task.driver else None
                await self._driver_of(task.driver).apply(task.spec, previous)
                return
            if task.then is not None:
                self._check_exists(task.then.driver, Task(task.then.driver, task.reason, task.target, task.then))
            await self._driver_of(task.driver).stop()
        except DriverError:
            raise
        except Exception as error:
            log.debug("driver %s", task.driver, exc_info=True)
            raise DriverError(f"driver {task.driver}: {type(error).__name__}: {error}") from None

    def _check_exists(self, name: str, task: Task) -> None:
        """Check that driver `name` can be loaded, so that a mistyped name does not stop the present driver."""
        try:
            self._load(name)
        except DriverError as error:
            raise _TaskRejected(error.message, task) from None

    def _driver_of(self, name: str) -> Driver:
        """Return the instance of driver `name`, made if necessary. Raises DriverError if it cannot be loaded."""
        if self._driver is None or self._driver[0] != name:
            self._driver = (name, self._load(name)(self._context))
        return self._driver[1]

    # --- reports ---

    def without_secrets(self, value: T, *others: Json) -> T:
        """A copy of what is to be logged or reported, without what the specs and `others` hold in secret fields.

        Secret are fields with such a name, and those that the desired state marks.
        """
        desired, memory = self._desired_in_force, self._memory
        fields = SecretFields(() if desired is None else desired.secret_fields)
        specs = (None if desired is None else desired.spec, memory.applied, memory.good)
        values = [part for spec in specs if spec is not None for part in (spec.settings, spec.document)]
        return without_secrets(value, fields.texts(*values, *others))

    @property
    def _desired_in_force(self) -> Desired | None:
        return self._orders.desired if self._orders.is_known else self._persisted

    def _persist_last_applied(self, desired: Desired | None) -> None:
        """Save the applied state for a start without etcd. An OSError becomes a warning in the status."""
        if desired is not None and self._memory.applied != desired.spec:
            return  # not applied yet
        if desired is None and self._claim.other_holder is not None:
            return  # nothing runs because another host drives the node, not because etcd has no desired state
        try:
            self._last_applied.save(desired)
            self._persist_error = ""
            self._log_unwritable.reset()
        except OSError as error:
            self._persist_error = f"cannot save the last applied state: {error.strerror or error}"
            self._log_unwritable.log(logging.WARNING, self._persist_error)

    def _report_status(self, desired: Desired | None, actual: Actual, plan: Plan) -> None:
        error = plan.error or self._orders.problem
        self._report(
            Status(
                node=self._context.node,
                nonce=self._context.nonce,
                host=socket.gethostname(),
                epoch=desired.epoch if desired else 0,
                term=desired.term if desired else 0,
                observed_generation=desired.generation if desired else 0,
                phase="failed" if plan.error is None and self._orders.problem else plan.phase,
                reason="; ".join(part for part in (self._reason, one_line(plan.note, _NOTE_CHARS_MAX)) if part),
                actual=self.without_secrets(_bounded_state(actual.state)),
                error=error[:ERROR_CHARS_MAX] if error else None,
                warning=self._orders.store_problem or self._persist_error or self._claim.warning,
                attempts=self._memory.attempts.count,
                driver=desired.spec.driver if desired else None,
            )
        )


def _bounded_state(state: Document) -> Document:
    """Return `state` if it is JSON of bounded size, else the reason for omitting it. Drivers are third-party code."""
    try:
        size = len(dumps(state))
    except ValueError as error:
        return {"omitted": one_line(f"not JSON: {error}", 200)}
    return state if size <= ACTUAL_BYTES_MAX else {"omitted": f"larger than {ACTUAL_BYTES_MAX} bytes"}


class _TaskRejected(DriverError):
    """The driver that is to replace the present one cannot be loaded, so the present one is not stopped.

    task: the task that would have applied the spec by the new driver.
    """

    def __init__(self, message: str, task: Task) -> None:
        super().__init__(message, retryable=False)
        self.task = task
