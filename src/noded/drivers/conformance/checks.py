"""The rules of the driver contract, each with a check that makes its own instances."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import psutil

from noded.drivers.conformance import host
from noded.drivers.conformance.bench import Bench, Trial
from noded.drivers.conformance.surroundings import Nonconformance
from noded.drivers.contract import DriverError
from nodestore.schema.models import Spec
from nodestore.support.jsonio import Document

_INSPECTS = 20
_LOOP_TURNS = (0, 1, 3, 8)
_FRACTIONS = (0.2, 0.5, 0.8)
_UNKNOWN_SETTING = "conformance-test-no-such-setting"
_ODD_DOCUMENTS: tuple[Document, ...] = (
    {},
    {"": {"": [None, True, -0.0, 1e308, 2**70]}, "ü\x00\n\U0001f600": "\x7f"},
    {"value": "x" * 1_000_000},
)


class Skipped(Exception):
    """The check cannot be made. The message is the reason."""


async def check_untouched(bench: Bench) -> None:
    """An instance that has applied nothing can be inspected and stopped, because noded calls both."""
    async with bench.driver() as driver:
        with contextlib.suppress(DriverError):  # allowed: inspect may fail
            await driver.inspect()
        await driver.stop()
        await driver.apply_and_inspect(bench.first, None)


async def check_apply_twice(bench: Bench) -> None:
    """Applying a spec again changes nothing: noded does so whenever it does not know the applied spec."""
    async with bench.driver() as driver:
        await driver.apply_and_inspect(bench.first, None)
        state, real = await driver.stable_state("after apply"), bench.look()
        await driver.apply_and_inspect(bench.first, bench.first)
        await driver.expect_state(state, "applying again")
        _expect_same(real, bench.look(), "applying again")
        await driver.apply_and_inspect(bench.first, None)
        _expect_same(real, bench.look(), "applying again without knowing what was applied")


async def check_apply_others(bench: Bench) -> None:
    """Each spec can follow each other one, and going back restores the first state."""
    if not bench.others:
        raise Skipped("needs a second spec")
    async with bench.driver() as driver:
        for other in bench.others:
            await driver.apply_and_inspect(bench.first, None)
            real = bench.look()
            await driver.apply_and_inspect(other, bench.first)
            await driver.apply_and_inspect(bench.first, other)
            _expect_same(real, bench.look(), "going to another spec and back")


async def check_stop_twice(bench: Bench) -> None:
    """stop can be called twice, and apply works after it."""
    async with bench.driver() as driver:
        for _ in range(2):
            await driver.apply_and_inspect(bench.first, None)
            await driver.stop()
            await driver.stop()


async def check_restart(bench: Bench) -> None:
    """A second noded applies the same spec after the first one ended, as in an upgrade."""
    for _ in range(2):
        async with bench.driver() as driver:
            await driver.apply_and_inspect(bench.first, None)


async def check_kill(bench: Bench) -> None:
    """noded is killed (SIGKILL) while the spec is applied; the next instance applies it again."""
    started = await host.start(bench)
    if started is None:
        raise Skipped("the driver's class cannot be imported by its name")
    try:
        answer = await host.read_answer(started, bench.limits.call_s)
        if started.poll() is None:
            psutil.Process(started.pid).kill()  # only this process, not its children, as when noded is killed
        if answer != host.APPLIED:
            raise Nonconformance(f"apply in a process of its own failed: {answer}")
        async with bench.driver() as driver:
            await driver.apply_and_inspect(bench.first, None)
    finally:
        await started.stop(0)


async def check_cancelled_apply(bench: Bench) -> None:
    """apply is cancelled, as by a stop of noded: at its first steps, and at fractions of its duration."""
    started_at = time.monotonic()
    async with bench.driver() as driver:
        await driver.apply_and_inspect(bench.first, None)
    duration_s = time.monotonic() - started_at
    target = bench.others[0] if bench.others else bench.first
    for after in _cancel_points(duration_s):
        async with bench.driver() as driver:
            await driver.cancel_apply(bench.first, None, after)
        async with bench.driver() as driver:
            await driver.apply_and_inspect(bench.first, None)
            await driver.cancel_apply(target, bench.first, after)
        async with bench.driver() as driver:
            await driver.apply_and_inspect(target, None)


def _cancel_points(duration_s: float) -> list[Callable[[], Any]]:
    """Return coroutine functions. Each waits until a moment at which a call of that duration is to be cancelled."""
    points: list[Callable[[], Any]] = [partial(_yield_to_loop, count) for count in _LOOP_TURNS]
    return points + [partial(asyncio.sleep, fraction * duration_s) for fraction in _FRACTIONS]


async def _yield_to_loop(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def check_refusals(bench: Bench) -> None:
    """Odd settings are applied or refused by a DriverError. A refusal that is not retryable has changed nothing."""
    settings = bench.first.settings
    odd = [{**settings, _UNKNOWN_SETTING: 1}, *_corrupted_documents(settings)]
    async with bench.driver() as driver:
        await driver.apply_and_inspect(bench.first, None)
        for wrong in odd:
            await _expect_refused_or_applied(bench, driver, bench.first.model_copy(update={"settings": wrong}))


async def check_odd_documents(bench: Bench) -> None:
    """Any JSON document is applied or refused, because operators may write any."""
    async with bench.driver() as driver:
        await driver.apply_and_inspect(bench.first, None)
        for document in (*_ODD_DOCUMENTS, *_corrupted_documents(bench.first.document)):
            await _expect_refused_or_applied(bench, driver, bench.first.model_copy(update={"document": document}))


def _corrupted_documents(values: Document) -> list[Document]:
    """Return copies of `values`, each with one value replaced by one of a wrong type or content."""
    return [{**values, name: odd} for name in values for odd in (None, "x\n\x00", [[{"": None}]])]


async def _expect_refused_or_applied(bench: Bench, driver: Trial, spec: Spec) -> None:
    state, real = await driver.stable_state("before a test"), bench.look()
    try:
        await driver.apply(spec, bench.first)
    except DriverError as error:
        if not error.retryable:
            refusal = f"a refusal that is not retryable ({error.message})"
            await driver.expect_state(state, refusal)
            _expect_same(real, bench.look(), refusal)
            return
    await driver.apply_and_inspect(bench.first, None)


async def check_wakes(bench: Bench) -> None:
    """Not every call of inspect may call wake: noded inspects again after each wake, so it would never be idle."""
    async with bench.driver() as driver:
        await driver.apply_and_inspect(bench.first, None)
        before = driver.wakes.count
        for _ in range(_INSPECTS):
            await driver.inspect()
            await asyncio.sleep(0)
        if driver.wakes.count >= before + _INSPECTS:
            raise Nonconformance("every inspect calls wake: noded would never be idle")
        await driver.stop()
        if driver.wakes.from_elsewhere:
            raise Nonconformance("wake was called from another thread: use loop.call_soon_threadsafe(wake)")


async def check_actions(bench: Bench) -> None:
    """Actions succeed, and are inspected and cancelled while they run; wrong arguments raise only DriverError."""
    async with bench.driver() as driver:
        offered = driver.offered()
        await driver.apply_and_inspect(bench.first, None)
        offered |= driver.offered()
    if offered and not bench.actions:
        raise Skipped("needs an action to try")
    for name, args in bench.actions.items():
        async with bench.driver() as driver:
            await driver.apply_and_inspect(bench.first, None)
            started_at = time.monotonic()
            try:
                await driver.run_action(name, args)
            except DriverError as error:
                raise Nonconformance(f"action {name} that should succeed failed: {error.message}") from None
            duration_s = time.monotonic() - started_at
            await driver.apply_and_inspect(bench.first, bench.first)
            for odd in (*_ODD_DOCUMENTS[:2], *_corrupted_documents(args)):
                with contextlib.suppress(DriverError):
                    await driver.run_action(name, odd)
            await driver.apply_and_inspect(bench.first, bench.first)
        for after in _cancel_points(duration_s):
            async with bench.driver() as driver:
                await driver.apply_and_inspect(bench.first, None)
                await driver.cancel_action(name, args, partial(_inspect_until, driver, after))


async def _inspect_until(driver: Trial, after: Callable[[], Awaitable[None]]) -> None:
    with contextlib.suppress(DriverError):  # allowed: inspect may fail during an action
        await driver.inspect()
    await after()


def _expect_same(before: object, after: object, what: str) -> None:
    if before != after:
        raise Nonconformance(f"{what} gives a different result: {before!r} became {after!r}")


CHECKS: tuple[tuple[str, Callable[[Bench], Awaitable[None]]], ...] = (
    ("inspect and stop work before anything was applied", check_untouched),
    ("applying a spec twice gives the same result as once", check_apply_twice),
    ("specs can be changed from one to another and back", check_apply_others),
    ("stop can be called twice, and apply works after it", check_stop_twice),
    ("the next noded can apply the same spec again", check_restart),
    ("the next noded can apply the spec after noded was killed", check_kill),
    ("a cancelled apply leaves nothing behind", check_cancelled_apply),
    ("odd settings are applied or refused", check_refusals),
    ("odd documents are applied or refused", check_odd_documents),
    ("wake is not called by every inspect, and from no other thread", check_wakes),
    ("actions succeed, can be cancelled, and leave nothing behind", check_actions),
)
"""Each rule and its check. All of them also check that only DriverError is raised, that each call ends within its limit
without blocking the event loop, that `inspect` reports no drift after an apply, and that `stop` leaves no task, thread
or process."""
