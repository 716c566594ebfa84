"""Calls a driver as noded does: makes instances, calls them within limits, and checks what they leave behind."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from noded.drivers.conformance.surroundings import (
    POLL_S,
    Nonconformance,
    Surroundings,
    describe_error,
    expect_no_loop_errors,
)
from noded.drivers.contract import Actual, Context, Driver, DriverAction, DriverError, DriverFactory, actions_of
from nodestore.schema.models import Spec
from nodestore.support.jsonio import Document, copy, dumps
from nodestore.support.tasks import owned_task

T = TypeVar("T")

NODE, CLUSTER = "n1", "conformance"
_POLL_S = 0.02


@dataclass(frozen=True)
class Limits:
    """Time limits in seconds.

    call_s: for one call of the driver. inspect_s: for one call of `inspect`, the same as in noded. block_s: how long a
    call may block the event loop. end_s: how long tasks, threads and processes may still run after `stop` has returned,
    and how long the state may take to become stable. stable_s: a state that has not changed for so long is stable.
    """

    call_s: float = 60.0
    inspect_s: float = 10.0
    block_s: float = 2.0
    end_s: float = 10.0
    stable_s: float = 0.6


class Bench:
    """The driver and the inputs of a check. The driver's author gives `first`, `others` and `actions`."""

    def __init__(
        self,
        factory: DriverFactory,
        specs: tuple[Spec, ...],
        work_dir: Path,
        look: Callable[[Path], object] | None,
        limits: Limits,
        actions: Mapping[str, Document] = MappingProxyType({}),
    ) -> None:
        self.actions = actions
        self.factory = factory
        self.first = specs[0]
        self.others = specs[1:]
        self.work_dir = work_dir
        self.limits = limits
        self._look = look
        self._instances = 0

    def look(self) -> object:
        """Return the real state from the author's `look`; None if there is no such function."""
        return None if self._look is None else self._look(self.work_dir)

    def context(self, wake: Callable[[], None], tasks: asyncio.TaskGroup) -> Context:
        self._instances += 1
        return Context(NODE, CLUSTER, self.work_dir, f"nonce{self._instances}", wake, tasks)

    @asynccontextmanager
    async def driver(self) -> AsyncIterator[Trial]:
        """Make an instance, as a new noded would. Stop it at the end, and check that it leaves nothing behind."""
        try:
            async with asyncio.TaskGroup() as tasks:
                before, wakes = Surroundings(), _WakeCounter()
                context = self.context(wakes, tasks)
                trial = Trial(self._make(context), wakes, self.limits)
                try:
                    with expect_no_loop_errors():
                        yield trial
                        await trial.stop()
                        await before.wait_restored(context, self.limits.end_s)
                except BaseException:
                    await trial.abandon()
                    raise
        except BaseExceptionGroup as errors:
            raise _first_error(errors) from None

    def _make(self, context: Context) -> Driver:
        try:
            return self.factory(context)
        except Exception as error:  # noqa: BLE001 - whatever third-party code raises is the result
            raise Nonconformance(f"making an instance raised {describe_error(error)}") from None


class Trial:
    """Calls the methods of one instance of the driver. Raises Nonconformance if a call breaks a rule."""

    def __init__(self, driver: Driver, wakes: _WakeCounter, limits: Limits) -> None:
        self.wakes = wakes
        self._driver = driver
        self._limits = limits

    async def inspect(self) -> Actual:
        """Call `inspect` and check what it returns. Raises DriverError if the driver does."""
        actual = await self._call("inspect", self._driver.inspect(), self._limits.inspect_s)
        if not isinstance(actual, Actual):
            raise Nonconformance(f"inspect returned {actual!r}, not an Actual")
        try:
            dumps(actual.state)
        except ValueError as error:
            raise Nonconformance(f"the state that inspect returned is not JSON: {error}") from None
        for name, seconds in (("settle_s", self._driver.settle_s), ("unsettled_s", actual.unsettled_s)):
            if not isinstance(seconds, int | float) or math.isnan(seconds) or seconds < 0:
                raise Nonconformance(f"{name} is {seconds!r}, not a number of seconds")
        return actual

    async def apply(self, spec: Spec, previous: Spec | None) -> None:
        """Call `apply`. Raises DriverError if the driver does."""
        await self._call("apply", self._driver.apply(spec, previous), self._limits.call_s)

    async def stop(self) -> None:
        """Call `stop`. Raises Nonconformance if that fails."""
        try:
            await self._call("stop", self._driver.stop(), self._limits.call_s)
        except DriverError as error:
            raise Nonconformance(f"stop failed: {error.message}") from None

    def offered(self) -> dict[str, DriverAction]:
        """Return the driver's present actions. Raises Nonconformance if they break the contract."""
        try:
            return actions_of("under trial", self._driver)
        except DriverError as error:
            raise Nonconformance(error.message) from None

    async def run_action(self, name: str, args: Document) -> None:
        """Run the action and check its result. Raises DriverError if the driver does."""
        action = self._offered(name)
        result = await self._call(f"action {name}", action.run(copy(args)), min(action.timeout_s, self._limits.call_s))
        try:
            dumps(result)
        except ValueError as error:
            raise Nonconformance(f"what action {name} returned is not JSON: {error}") from None

    def _offered(self, name: str) -> DriverAction:
        offered = self.offered()
        if name not in offered:
            raise Nonconformance(f"after apply there is no action {name} (there is: {', '.join(offered) or 'none'})")
        return offered[name]

    async def apply_and_inspect(self, spec: Spec, previous: Spec | None) -> Actual:
        """Apply `spec` and return the actual state. Raises Nonconformance if that fails or if there is drift."""
        try:
            await self.apply(spec, previous)
        except DriverError as error:
            raise Nonconformance(f"apply of a spec that should succeed failed: {error.message}") from None
        return await self.expect_applied("after apply")

    async def expect_applied(self, when: str) -> Actual:
        """Return the actual state. Raises Nonconformance if there is drift or if `inspect` fails."""
        try:
            actual = await self.inspect()
        except DriverError as error:
            raise Nonconformance(f"inspect {when} failed: {error.message}") from None
        if actual.drift is not None:
            raise Nonconformance(f"inspect {when} reports drift: {actual.drift}")
        return actual

    async def stable_state(self, when: str) -> Document:
        """Return the state once it has not changed for `stable_s`; health, for example, changes after a start."""
        state, since = (await self.expect_applied(when)).state, time.monotonic()
        deadline = since + self._limits.end_s
        while time.monotonic() < min(since + self._limits.stable_s, deadline):
            await asyncio.sleep(POLL_S)
            if (now := (await self.expect_applied(when)).state) != state:
                state, since = now, time.monotonic()
        return state

    async def expect_state(self, state: Document, what: str) -> None:
        """Check that `what` did not change the state. Raises Nonconformance if it did."""
        deadline = time.monotonic() + self._limits.end_s
        while (now := (await self.expect_applied(f"after {what}")).state) != state:
            if time.monotonic() > deadline:
                raise Nonconformance(f"{what} has changed the state: {state} became {now}")
            await asyncio.sleep(POLL_S)

    async def cancel_apply(self, spec: Spec, previous: Spec | None, after: Callable[[], Awaitable[None]]) -> None:
        """Start to apply `spec`, and cancel that when `after` returns, as noded does after a stop signal."""
        await self._cancel_call("apply", self._driver.apply(spec, previous), after)

    async def cancel_action(self, name: str, args: Document, after: Callable[[], Awaitable[None]]) -> None:
        """Start an action, and cancel it when `after` returns."""
        await self._cancel_call(f"action {name}", self._offered(name).run(copy(args)), after)

    async def _cancel_call(self, name: str, call: Awaitable[Any], after: Callable[[], Awaitable[None]]) -> None:
        task = owned_task(call)
        try:
            await after()
        finally:
            task.cancel()
            await asyncio.wait({task}, timeout=self._limits.call_s)
        if not task.done():
            raise Nonconformance(f"{name} does not end although it was cancelled")
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, DriverError):
            raise Nonconformance(f"{name} raised {describe_error(error)} when it was cancelled")

    async def abandon(self) -> None:
        """Stop the driver after a failed check, so that the next check starts clean."""
        try:
            await self.stop()
        except Nonconformance:
            return  # the first error is the one to report

    async def _call(self, name: str, call: Awaitable[T], limit_s: float) -> T:
        task = owned_task(call)
        started_at = time.monotonic()
        blocked_s = 0.0
        try:
            while not task.done() and time.monotonic() < started_at + limit_s:
                at = time.monotonic()
                await asyncio.wait({task}, timeout=_POLL_S)
                blocked_s = max(blocked_s, time.monotonic() - at - _POLL_S)
            if not task.done():
                raise Nonconformance(f"{name} did not end within {limit_s:g} s")
            if blocked_s > self._limits.block_s:
                raise Nonconformance(f"{name} blocked the event loop for {blocked_s:.1f} s")
        finally:
            task.cancel()
            await asyncio.wait({task}, timeout=self._limits.call_s)
            if not task.done():
                raise Nonconformance(f"{name} does not end although it was cancelled")  # replaces any other error
        try:
            return task.result()
        except DriverError as error:
            if not error.message or "\n" in error.message:
                raise Nonconformance(f"the message of a DriverError is not one line: {error.message!r}") from None
            raise
        except Exception as error:  # noqa: BLE001 - whatever third-party code raises is the result
            raise Nonconformance(f"{name} raised {describe_error(error)}, not a DriverError") from None


class _WakeCounter:
    """Counts wakes and records whether one came from another thread than the loop's."""

    def __init__(self) -> None:
        self.count = 0
        self.from_elsewhere = False
        self._thread = threading.get_ident()

    def __call__(self) -> None:
        self.count += 1
        self.from_elsewhere |= threading.get_ident() != self._thread


def _first_error(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the error of a task group to report: a Nonconformance if there is one, else the first error."""
    first: BaseException = errors
    while isinstance(first, BaseExceptionGroup):
        ours = first.subgroup(Nonconformance)
        first = (ours or first).exceptions[0]
    if isinstance(first, Nonconformance):
        return first
    if isinstance(first, DriverError):
        return Nonconformance(f"a call of the driver failed: {first.message}")
    return Nonconformance(f"a background task raised {describe_error(first)}: that would end noded")
