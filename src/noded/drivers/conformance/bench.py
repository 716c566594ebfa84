"""Plays noded for a driver: makes instances, calls them within limits, and sees what they leave behind."""

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

T = TypeVar("T")

NODE, CLUSTER = "n1", "conformance"
_POLL_S = 0.02
_REST_S = 0.6


@dataclass(frozen=True)
class Limits:
    """In seconds. call_s: for one call of the driver. inspect_s: for one of `inspect`, as in noded. block_s: for how
    long it may keep the event loop from everything else. end_s: until what it ends is really gone."""

    call_s: float = 60.0
    inspect_s: float = 10.0
    block_s: float = 2.0
    end_s: float = 10.0


class Bench:
    """What a check works with. `first`, `others` and `actions` (names and arguments) are of the driver's author."""

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
        """What is really so, as far as the author can tell us; None when they cannot."""
        return None if self._look is None else self._look(self.work_dir)

    def context(self, wake: Callable[[], None], tasks: asyncio.TaskGroup) -> Context:
        self._instances += 1
        return Context(NODE, CLUSTER, self.work_dir, f"nonce{self._instances}", wake, tasks)

    @asynccontextmanager
    async def driver(self) -> AsyncIterator[Trial]:
        """An instance, as in a noded of its own; stopped at the end, when nothing of it may be left."""
        try:
            async with asyncio.TaskGroup() as tasks:
                before, wakes = Surroundings(), _WakeCounter()
                context = self.context(wakes, tasks)
                trial = Trial(self._made(context), wakes, self.limits)
                try:
                    with expect_no_loop_errors():
                        yield trial
                        await trial.stop()
                        await before.wait_restored(context, self.limits.end_s)
                except BaseException:
                    await trial.abandon()
                    raise
        except BaseExceptionGroup as errors:
            raise _first_finding(errors) from None

    def _made(self, context: Context) -> Driver:
        try:
            return self.factory(context)
        except Exception as error:  # noqa: BLE001 - whatever a stranger's code raises is the finding
            raise Nonconformance(f"making an instance raised {describe_error(error)}") from None


class Trial:
    """One instance under trial. Its methods are the driver's, within limits: Nonconformance when it breaks one."""

    def __init__(self, driver: Driver, wakes: _WakeCounter, limits: Limits) -> None:
        self.wakes = wakes
        self._driver = driver
        self._limits = limits

    async def inspect(self) -> Actual:
        """What is. DriverError passes."""
        actual = await self._call("inspect", self._driver.inspect(), self._limits.inspect_s)
        if not isinstance(actual, Actual):
            raise Nonconformance(f"inspect returned {actual!r}, not an Actual")
        try:
            dumps(actual.state)
        except ValueError as error:
            raise Nonconformance(f"the state that inspect returned is not JSON: {error}") from None
        settle_s = self._driver.settle_s
        if not isinstance(settle_s, int | float) or math.isnan(settle_s) or settle_s < 0:
            raise Nonconformance(f"settle_s is {settle_s!r}, not a number of seconds")
        return actual

    async def apply(self, spec: Spec, previous: Spec | None) -> None:
        """Bring it about. DriverError passes."""
        await self._call("apply", self._driver.apply(spec, previous), self._limits.call_s)

    async def stop(self) -> None:
        """End what is driven; Nonconformance when that fails."""
        try:
            await self._call("stop", self._driver.stop(), self._limits.call_s)
        except DriverError as error:
            raise Nonconformance(f"stop failed: {error.message}") from None

    def offered(self) -> dict[str, DriverAction]:
        """The driver's actions, now. Nonconformance when they are none."""
        try:
            return actions_of("under trial", self._driver)
        except DriverError as error:
            raise Nonconformance(error.message) from None

    async def run_action(self, name: str, args: Document) -> None:
        """Run it. DriverError passes."""
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

    async def apply_and_settle(self, spec: Spec, previous: Spec | None) -> Actual:
        """Bring it about; what is then. Nonconformance when that fails, or when it is not what was applied."""
        try:
            await self.apply(spec, previous)
        except DriverError as error:
            raise Nonconformance(f"apply of a spec that should succeed failed: {error.message}") from None
        return await self.expect_applied("after apply")

    async def expect_applied(self, when: str) -> Actual:
        """What is; Nonconformance when that differs from what was applied last, or cannot be told."""
        try:
            actual = await self.inspect()
        except DriverError as error:
            raise Nonconformance(f"inspect {when} failed: {error.message}") from None
        if actual.drift is not None:
            raise Nonconformance(f"inspect {when} tells of drift: {actual.drift}")
        return actual

    async def stable_state(self, when: str) -> Document:
        """The state, once it has stayed the same for a moment: a program's health comes after its start, say."""
        state, since = (await self.expect_applied(when)).state, time.monotonic()
        deadline = since + self._limits.end_s
        while time.monotonic() < min(since + _REST_S, deadline):
            await asyncio.sleep(POLL_S)
            if (now := (await self.expect_applied(when)).state) != state:
                state, since = now, time.monotonic()
        return state

    async def expect_state(self, state: Document, what: str) -> None:
        """Nonconformance when `what`, which must not change the state, has."""
        deadline = time.monotonic() + self._limits.end_s
        while (now := (await self.expect_applied(f"after {what}")).state) != state:
            if time.monotonic() > deadline:
                raise Nonconformance(f"{what} has changed the state: {state} became {now}")
            await asyncio.sleep(POLL_S)

    async def cancel_apply(self, spec: Spec, previous: Spec | None, after: Callable[[], Awaitable[None]]) -> None:
        """Begin to bring it about, and cancel that when `after` returns, as noded does when it is asked to stop."""
        await self._cancel_call("apply", self._driver.apply(spec, previous), after)

    async def cancel_action(self, name: str, args: Document, after: Callable[[], Awaitable[None]]) -> None:
        """The same with an action."""
        await self._cancel_call(f"action {name}", self._offered(name).run(copy(args)), after)

    async def _cancel_call(self, name: str, call: Awaitable[Any], after: Callable[[], Awaitable[None]]) -> None:
        doing = asyncio.ensure_future(call)
        try:
            await after()
        finally:
            doing.cancel()
            await asyncio.wait({doing}, timeout=self._limits.call_s)
        if not doing.done():
            raise Nonconformance(f"{name} does not end though cancelled")
        error = None if doing.cancelled() else doing.exception()
        if error is not None and not isinstance(error, DriverError):
            raise Nonconformance(f"{name} raised {describe_error(error)} when it was cancelled")

    async def abandon(self) -> None:
        """The check has failed: end what can be ended, so that the next one begins in order."""
        try:
            await self.stop()
        except Nonconformance:
            return  # the first finding is the one that counts

    async def _call(self, name: str, call: Awaitable[T], limit_s: float) -> T:
        task = asyncio.ensure_future(call)
        began = time.monotonic()
        blocked_s = 0.0
        try:
            while not task.done() and time.monotonic() < began + limit_s:
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
                raise Nonconformance(f"{name} does not end though cancelled")  # and so nothing else counts
        try:
            return task.result()
        except DriverError as error:
            if not error.message or "\n" in error.message:
                raise Nonconformance(f"the message of a DriverError is not one line: {error.message!r}") from None
            raise
        except Exception as error:  # noqa: BLE001 - whatever a stranger's code raises is the finding
            raise Nonconformance(f"{name} raised {describe_error(error)}, not a DriverError") from None


class _WakeCounter:
    """Counts wakes, and sees that they come from the loop's thread."""

    def __init__(self) -> None:
        self.count = 0
        self.from_elsewhere = False
        self._thread = threading.get_ident()

    def __call__(self) -> None:
        self.count += 1
        self.from_elsewhere |= threading.get_ident() != self._thread


def _first_finding(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """What to tell of errors in a task group: what the check found, else that a background task failed."""
    found: BaseException = errors
    while isinstance(found, BaseExceptionGroup):
        ours = found.subgroup(Nonconformance)
        found = (ours or found).exceptions[0]
    if isinstance(found, Nonconformance):
        return found
    if isinstance(found, DriverError):
        return Nonconformance(f"it failed: {found.message}")
    return Nonconformance(f"a background task raised {describe_error(found)}: that would end noded")
