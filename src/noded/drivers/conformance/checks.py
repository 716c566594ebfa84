"""The rules of the contract, each tried on an instance of its own."""

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

_LOOKS = 20
_TURNS = (0, 1, 3, 8)
_PARTS = (0.2, 0.5, 0.8)
_UNKNOWN_SETTING = "conformance-test-no-such-setting"
_ODD_DOCUMENTS: tuple[Document, ...] = (
    {},
    {"": {"": [None, True, -0.0, 1e308, 2**70]}, "ü\x00\n\U0001f600": "\x7f"},
    {"value": "x" * 1_000_000},
)


class Skipped(Exception):
    """The check cannot be made; the message says why."""


async def check_untouched(bench: Bench) -> None:
    """noded inspects and stops instances that have applied nothing."""
    async with bench.driver() as driver:
        with contextlib.suppress(DriverError):  # it cannot be told: allowed
            await driver.inspect()
        await driver.stop()
        await driver.apply_and_settle(bench.first, None)


async def check_apply_twice(bench: Bench) -> None:
    """noded applies again whenever it is not sure."""
    async with bench.driver() as driver:
        await driver.apply_and_settle(bench.first, None)
        state, seen = await driver.stable_state("after apply"), bench.look()
        await driver.apply_and_settle(bench.first, bench.first)
        await driver.expect_state(state, "applying again")
        _expect_same(seen, bench.look(), "applying again")
        await driver.apply_and_settle(bench.first, None)
        _expect_same(seen, bench.look(), "applying again without knowing what was applied")


async def check_apply_others(bench: Bench) -> None:
    """Any state can follow any other."""
    if not bench.others:
        raise Skipped("needs a second spec")
    async with bench.driver() as driver:
        for other in bench.others:
            await driver.apply_and_settle(bench.first, None)
            seen = bench.look()
            await driver.apply_and_settle(other, bench.first)
            await driver.apply_and_settle(bench.first, other)
            _expect_same(seen, bench.look(), "going to another spec and back")


async def check_stop_twice(bench: Bench) -> None:
    """noded stops again when it is not sure, and may apply later."""
    async with bench.driver() as driver:
        for _ in range(2):
            await driver.apply_and_settle(bench.first, None)
            await driver.stop()
            await driver.stop()


async def check_restart(bench: Bench) -> None:
    """noded was upgraded, say."""
    for _ in range(2):
        async with bench.driver() as driver:
            await driver.apply_and_settle(bench.first, None)


async def check_kill(bench: Bench) -> None:
    """kill -9 of noded while the state is in effect."""
    started = await host.start(bench)
    if started is None:
        raise Skipped("the driver's class cannot be imported by its name")
    try:
        said = await host.read_answer(started, bench.limits.call_s)
        if started.poll() is None:
            psutil.Process(started.pid).kill()  # it alone, without a chance to tidy up
        if said != host.APPLIED:
            raise Nonconformance(f"apply in a process of its own failed: {said}")
        async with bench.driver() as driver:
            await driver.apply_and_settle(bench.first, None)
    finally:
        await started.stop(0)


async def check_cancelled_apply(bench: Bench) -> None:
    """noded is asked to stop in the middle of an apply: at its first steps, and at parts of its whole time."""
    began = time.monotonic()
    async with bench.driver() as driver:
        await driver.apply_and_settle(bench.first, None)
    whole_s = time.monotonic() - began
    cuts = _cancel_points(whole_s)
    target = bench.others[0] if bench.others else bench.first
    for after in cuts:
        async with bench.driver() as driver:
            await driver.cancel_apply(bench.first, None, after)
        async with bench.driver() as driver:
            await driver.apply_and_settle(bench.first, None)
            await driver.cancel_apply(target, bench.first, after)
        async with bench.driver() as driver:
            await driver.apply_and_settle(target, None)


def _cancel_points(whole_s: float) -> list[Callable[[], Any]]:
    """When to cut what takes so long."""
    cuts: list[Callable[[], Any]] = [partial(_yield_to_loop, count) for count in _TURNS]
    return cuts + [partial(asyncio.sleep, part * whole_s) for part in _PARTS]


async def _yield_to_loop(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def check_refusals(bench: Bench) -> None:
    """Settings with typing errors: refused in a sentence, or taken; if they can never work, nothing has changed."""
    settings = bench.first.settings
    odd = [{**settings, _UNKNOWN_SETTING: 1}, *_corrupted_documents(settings)]
    async with bench.driver() as driver:
        await driver.apply_and_settle(bench.first, None)
        for wrong in odd:
            await _expect_refused_or_applied(bench, driver, bench.first.model_copy(update={"settings": wrong}))


async def check_odd_documents(bench: Bench) -> None:
    """Operators write anything into documents."""
    async with bench.driver() as driver:
        await driver.apply_and_settle(bench.first, None)
        for document in (*_ODD_DOCUMENTS, *_corrupted_documents(bench.first.document)):
            await _expect_refused_or_applied(bench, driver, bench.first.model_copy(update={"document": document}))


def _corrupted_documents(values: Document) -> list[Document]:
    """`values` with each of them replaced by something that it is not meant to be."""
    return [{**values, name: odd} for name in values for odd in (None, "x\n\x00", [[{"": None}]])]


async def _expect_refused_or_applied(bench: Bench, driver: Trial, spec: Spec) -> None:
    state, seen = await driver.stable_state("before a test"), bench.look()
    try:
        await driver.apply(spec, bench.first)
    except DriverError as error:
        if not error.retryable:
            refusal = f"a refusal that is not retryable ({error.message})"
            await driver.expect_state(state, refusal)
            _expect_same(seen, bench.look(), refusal)
            return
    await driver.apply_and_settle(bench.first, None)


async def check_wakes(bench: Bench) -> None:
    """Each wake makes noded inspect: if that wakes it again, it never rests."""
    async with bench.driver() as driver:
        await driver.apply_and_settle(bench.first, None)
        before = driver.wakes.count
        for _ in range(_LOOKS):
            await driver.inspect()
            await asyncio.sleep(0)
        if driver.wakes.count >= before + _LOOKS:
            raise Nonconformance("every inspect calls wake: noded would never rest")
        await driver.stop()
        if driver.wakes.from_elsewhere:
            raise Nonconformance("wake was called from another thread: use loop.call_soon_threadsafe(wake)")


async def check_actions(bench: Bench) -> None:
    """An operator asks for an action; noded looks while it runs, and is asked to stop in the middle of it."""
    async with bench.driver() as driver:
        offered = driver.offered()
        await driver.apply_and_settle(bench.first, None)
        offered |= driver.offered()
    if offered and not bench.actions:
        raise Skipped("needs an action to try")
    for name, args in bench.actions.items():
        async with bench.driver() as driver:
            await driver.apply_and_settle(bench.first, None)
            began = time.monotonic()
            try:
                await driver.run_action(name, args)
            except DriverError as error:
                raise Nonconformance(f"action {name} that should succeed failed: {error.message}") from None
            whole_s = time.monotonic() - began
            await driver.apply_and_settle(bench.first, bench.first)
            for odd in (*_ODD_DOCUMENTS[:2], *_corrupted_documents(args)):
                with contextlib.suppress(DriverError):
                    await driver.run_action(name, odd)
            await driver.apply_and_settle(bench.first, bench.first)
        for after in _cancel_points(whole_s):
            async with bench.driver() as driver:
                await driver.apply_and_settle(bench.first, None)
                await driver.cancel_action(name, args, partial(_inspect_until, driver, after))


async def _inspect_until(driver: Trial, after: Callable[[], Awaitable[None]]) -> None:
    with contextlib.suppress(DriverError):  # it cannot be told just now: allowed
        await driver.inspect()
    await after()


def _expect_same(before: object, after: object, what: str) -> None:
    if before != after:
        raise Nonconformance(f"{what} gives something else: {before!r} became {after!r}")


CHECKS: tuple[tuple[str, Callable[[Bench], Awaitable[None]]], ...] = (
    ("inspect and stop work before anything was applied", check_untouched),
    ("applying twice is the same as once", check_apply_twice),
    ("from one state to another and back", check_apply_others),
    ("stop may be called again, and work goes on after it", check_stop_twice),
    ("a later noded applies the same", check_restart),
    ("a later noded copes with what a killed one has left", check_kill),
    ("an apply that is cut short leaves nothing behind", check_cancelled_apply),
    ("settings that make no sense are refused", check_refusals),
    ("odd documents are taken or refused", check_odd_documents),
    ("wake is called with care", check_wakes),
    ("actions end in order, and leave nothing behind", check_actions),
)
"""Each rule and what tries it. In all of them nothing but DriverError is raised, each call ends in its time without
blocking the event loop, `inspect` tells of no drift after an apply, and `stop` leaves no task, thread or process."""
