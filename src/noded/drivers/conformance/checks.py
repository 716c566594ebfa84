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


async def before_anything(bench: Bench) -> None:
    """noded inspects and stops instances that have applied nothing."""
    async with bench.driver() as driver:
        with contextlib.suppress(DriverError):  # it cannot be told: allowed
            await driver.inspect()
        await driver.stop()
        await driver.settled(bench.first, None)


async def twice(bench: Bench) -> None:
    """noded applies again whenever it is not sure."""
    async with bench.driver() as driver:
        await driver.settled(bench.first, None)
        state, seen = await driver.rested("after apply"), bench.look()
        await driver.settled(bench.first, bench.first)
        await driver.still(state, "applying again")
        _same(seen, bench.look(), "applying again")
        await driver.settled(bench.first, None)
        _same(seen, bench.look(), "applying again without knowing what was applied")


async def there_and_back(bench: Bench) -> None:
    """Any state can follow any other."""
    if not bench.others:
        raise Skipped("needs a second spec")
    async with bench.driver() as driver:
        for other in bench.others:
            await driver.settled(bench.first, None)
            seen = bench.look()
            await driver.settled(other, bench.first)
            await driver.settled(bench.first, other)
            _same(seen, bench.look(), "going to another spec and back")


async def stop_again(bench: Bench) -> None:
    """noded stops again when it is not sure, and may apply later."""
    async with bench.driver() as driver:
        for _ in range(2):
            await driver.settled(bench.first, None)
            await driver.stop()
            await driver.stop()


async def restarted(bench: Bench) -> None:
    """noded was upgraded, say."""
    for _ in range(2):
        async with bench.driver() as driver:
            await driver.settled(bench.first, None)


async def killed(bench: Bench) -> None:
    """kill -9 of noded while the state is in effect."""
    started = await host.start(bench)
    if started is None:
        raise Skipped("the driver's class cannot be imported by its name")
    try:
        said = await host.answer(started, bench.limits.call_s)
        if started.poll() is None:
            psutil.Process(started.pid).kill()  # it alone, without a chance to tidy up
        if said != host.APPLIED:
            raise Nonconformance(f"apply in a process of its own failed: {said}")
        async with bench.driver() as driver:
            await driver.settled(bench.first, None)
    finally:
        await started.stop(0)


async def cut_short(bench: Bench) -> None:
    """noded is asked to stop in the middle of an apply: at its first steps, and at parts of its whole time."""
    began = time.monotonic()
    async with bench.driver() as driver:
        await driver.settled(bench.first, None)
    whole_s = time.monotonic() - began
    cuts = _cuts(whole_s)
    target = bench.others[0] if bench.others else bench.first
    for after in cuts:
        async with bench.driver() as driver:
            await driver.cut(bench.first, None, after)
        async with bench.driver() as driver:
            await driver.settled(bench.first, None)
            await driver.cut(target, bench.first, after)
        async with bench.driver() as driver:
            await driver.settled(target, None)


def _cuts(whole_s: float) -> list[Callable[[], Any]]:
    """When to cut what takes so long."""
    cuts: list[Callable[[], Any]] = [partial(_turns, count) for count in _TURNS]
    return cuts + [partial(asyncio.sleep, part * whole_s) for part in _PARTS]


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def refuses(bench: Bench) -> None:
    """Settings with typing errors: refused in a sentence, or taken; if they can never work, nothing has changed."""
    settings = bench.first.settings
    odd = [{**settings, _UNKNOWN_SETTING: 1}, *_spoilt(settings)]
    async with bench.driver() as driver:
        await driver.settled(bench.first, None)
        for wrong in odd:
            await _refused_or_taken(bench, driver, bench.first.model_copy(update={"settings": wrong}))


async def odd_documents(bench: Bench) -> None:
    """Operators write anything into documents."""
    async with bench.driver() as driver:
        await driver.settled(bench.first, None)
        for document in (*_ODD_DOCUMENTS, *_spoilt(bench.first.document)):
            await _refused_or_taken(bench, driver, bench.first.model_copy(update={"document": document}))


def _spoilt(values: Document) -> list[Document]:
    """`values` with each of them replaced by something that it is not meant to be."""
    return [{**values, name: odd} for name in values for odd in (None, "x\n\x00", [[{"": None}]])]


async def _refused_or_taken(bench: Bench, driver: Trial, spec: Spec) -> None:
    state, seen = await driver.rested("before a test"), bench.look()
    try:
        await driver.apply(spec, bench.first)
    except DriverError as error:
        if not error.retryable:
            refusal = f"a refusal that is not retryable ({error.message})"
            await driver.still(state, refusal)
            _same(seen, bench.look(), refusal)
            return
    await driver.settled(bench.first, None)


async def wakes(bench: Bench) -> None:
    """Each wake makes noded inspect: if that wakes it again, it never rests."""
    async with bench.driver() as driver:
        await driver.settled(bench.first, None)
        before = driver.wakes.count
        for _ in range(_LOOKS):
            await driver.inspect()
            await asyncio.sleep(0)
        if driver.wakes.count >= before + _LOOKS:
            raise Nonconformance("every inspect calls wake: noded would never rest")
        await driver.stop()
        if driver.wakes.from_elsewhere:
            raise Nonconformance("wake was called from another thread: use loop.call_soon_threadsafe(wake)")


async def acts(bench: Bench) -> None:
    """An operator asks for an action; noded looks while it runs, and is asked to stop in the middle of it."""
    async with bench.driver() as driver:
        offered = driver.offered()
        await driver.settled(bench.first, None)
        offered |= driver.offered()
    if offered and not bench.actions:
        raise Skipped("needs an action to try")
    for name, args in bench.actions.items():
        async with bench.driver() as driver:
            await driver.settled(bench.first, None)
            began = time.monotonic()
            try:
                await driver.act(name, args)
            except DriverError as error:
                raise Nonconformance(f"action {name} that should succeed failed: {error.message}") from None
            whole_s = time.monotonic() - began
            await driver.settled(bench.first, bench.first)
            for odd in (*_ODD_DOCUMENTS[:2], *_spoilt(args)):
                with contextlib.suppress(DriverError):
                    await driver.act(name, odd)
            await driver.settled(bench.first, bench.first)
        for after in _cuts(whole_s):
            async with bench.driver() as driver:
                await driver.settled(bench.first, None)
                await driver.cut_action(name, args, partial(_looking, driver, after))


async def _looking(driver: Trial, after: Callable[[], Awaitable[None]]) -> None:
    with contextlib.suppress(DriverError):  # it cannot be told just now: allowed
        await driver.inspect()
    await after()


def _same(before: object, after: object, what: str) -> None:
    if before != after:
        raise Nonconformance(f"{what} gives something else: {before!r} became {after!r}")


CHECKS: tuple[tuple[str, Callable[[Bench], Awaitable[None]]], ...] = (
    ("inspect and stop work before anything was applied", before_anything),
    ("applying twice is the same as once", twice),
    ("from one state to another and back", there_and_back),
    ("stop may be called again, and work goes on after it", stop_again),
    ("a later noded applies the same", restarted),
    ("a later noded copes with what a killed one has left", killed),
    ("an apply that is cut short leaves nothing behind", cut_short),
    ("settings that make no sense are refused", refuses),
    ("odd documents are taken or refused", odd_documents),
    ("wake is called with care", wakes),
    ("actions end in order, and leave nothing behind", acts),
)
"""Each rule and what tries it. In all of them nothing but DriverError is raised, each call ends in its time without
blocking the event loop, `inspect` tells of no drift after an apply, and `stop` leaves no task, thread or process."""
