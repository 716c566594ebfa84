"""Steps of a command: shown to a person one by one, each idempotent, with a place for faults in tests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

ReportLine = Callable[[str], None]


class Steps:
    """Runs and shows steps. after: called with the name of each finished step; tests let it end the process."""

    def __init__(self, report: ReportLine, after: Callable[[str], None] = lambda _: None) -> None:
        self.report, self._after = report, after

    async def run(self, name: str, text: str, work: Awaitable[T]) -> T:
        """Do one step, and show it once it is done."""
        result = await work
        self.report(text)
        self._after(name)
        return result
