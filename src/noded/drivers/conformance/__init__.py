"""Tests whether a driver keeps its contract. Authors of drivers call it from pytest or on the command line.

    def test_relay() -> None:
        check_driver(RelayDriver, [Spec(driver="relay", document={"on": True}), Spec(driver="relay", document={})])

    python -m noded.drivers.conformance relay --settings '{"port": 3}' --document '{"on": true}'

The driver really applies and stops the specs, many times; calls are cancelled and the process is killed in between.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from noded.drivers.conformance.bench import Bench, Limits
from noded.drivers.conformance.checks import CHECKS, Skipped
from noded.drivers.conformance.surroundings import Nonconformance
from noded.drivers.contract import DriverFactory
from nodestore.schema.models import Spec
from nodestore.support.jsonio import Document

__all__ = ["Limits", "Nonconformance", "Result", "check_driver", "examine"]

Verdict = Literal["ok", "failed", "skipped"]


@dataclass(frozen=True)
class Result:
    """The result of one check. check: the rule, as a sentence. detail: why it failed or was skipped, else ""."""

    check: str
    verdict: Verdict
    detail: str = ""


def check_driver(
    factory: DriverFactory,
    specs: Sequence[Spec],
    *,
    look: Callable[[Path], object] | None = None,
    limits: Limits = Limits(),
    actions: Mapping[str, Document] | None = None,
) -> None:
    """Check the driver. Raises Nonconformance (an AssertionError) with every broken rule. Not for use in a coroutine.

    specs: one or more that can be applied on this machine. With two or more, changes between them are tested as well.
    look: gets the work directory and returns the real state, to be compared in addition to what `inspect` returns.
    actions: names of the actions to be tested, with arguments for which they should succeed. Each is run about a dozen
    times and cancelled in between.
    """
    results = asyncio.run(examine(factory, specs, look=look, limits=limits, actions=actions))
    broken = [result for result in results if result.verdict == "failed"]
    if broken:
        raise Nonconformance("\n".join(f"{result.check}: {result.detail}" for result in broken))


async def examine(
    factory: DriverFactory,
    specs: Sequence[Spec],
    *,
    look: Callable[[Path], object] | None = None,
    limits: Limits = Limits(),
    actions: Mapping[str, Document] | None = None,
    on_result: Callable[[Result], None] = lambda result: None,
) -> list[Result]:
    """Run every check, each in a new work directory. Call `on_result` with each result at once.

    The other arguments are those of `check_driver`. Raises ValueError if there is no spec.
    """
    if not specs:
        raise ValueError("give at least one spec")
    results = []
    for rule, check in CHECKS:
        with _directory() as work_dir:
            result = Result(rule, "ok")
            try:
                await check(Bench(factory, tuple(specs), work_dir, look, limits, actions or {}))
            except Nonconformance as broken:
                result = Result(rule, "failed", str(broken))
            except Skipped as skipped:
                result = Result(rule, "skipped", str(skipped))
        on_result(result)
        results.append(result)
    return results


@contextmanager
def _directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="conformance-", ignore_cleanup_errors=True) as directory:
        yield Path(directory).resolve()
