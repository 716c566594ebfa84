"""The findings of one check, bounded: in a long run one fault may show a million times."""

from __future__ import annotations

LINES_MAX = 200


class Findings:
    """The first 200 findings, oldest first, and the number of further ones."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._more = 0

    def add(self, line: str) -> None:
        if len(self._lines) < LINES_MAX:
            self._lines.append(line)
        else:
            self._more += 1

    @property
    def lines(self) -> list[str]:
        return [*self._lines, f"and {self._more} more like these"] if self._more else list(self._lines)
