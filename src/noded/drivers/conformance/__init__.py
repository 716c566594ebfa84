"""Does a driver keep its contract? For authors of drivers: from pytest, or on the command line.

    def test_relay() -> None:
        check_driver(RelayDriver, [Spec(driver="relay", document={"on": True}), Spec(driver="relay", document={})])

    python -m noded.drivers.conformance relay --settings '{"port": 3}' --document '{"on": true}'

The driver really does what the specs say, many times: on, off, cut short in the middle, and killed.
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
    """What came of one check. check: the rule, as a sentence. detail: why not, "" when it holds."""

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
    """Nonconformance (an AssertionError) that lists every rule which the driver breaks. Not for use in a coroutine.

    specs: one or more that can be brought about on this machine; with two, changing between them is tried, too.
    look: given the work directory, returns what is really so, for comparison; what `inspect` says is compared anyway.
    actions: those to be tried, with arguments that should succeed. They are run a dozen times, cut short in between.
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
    """Make every check, each in a work directory of its own; `on_result` hears of each as it ends."""
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
