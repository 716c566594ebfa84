"""What a fuzzer calls: a function of bytes, which may end in the errors that are a refusal, and in no other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Parse = Callable[[bytes], object]


class Disagreement(Exception):
    """Two readers of the same bytes understand them differently, or a value changes when it is written and read."""


@dataclass(frozen=True, slots=True)
class Target:
    """One parser. name: also that of its corpus. refusals: what it raises for invalid input.

    words: pieces of valid input, from which the fuzzer composes more than from bytes alone.
    """

    name: str
    parse: Parse
    refusals: tuple[type[Exception], ...]
    words: tuple[str, ...] = ()

    def run(self, data: bytes) -> bool:
        """Parse `data`. Return whether it was accepted. Every error that is no refusal is raised."""
        try:
            self.parse(data)
        except self.refusals as refusal:
            check_message(refusal)
            return False
        return True


def check_message(refusal: Exception) -> None:
    """A refusal says in a few lines what is wrong. Raises Disagreement otherwise."""
    if not str(refusal).strip() or len(str(refusal)) > _MESSAGE_CHARS_MAX:
        raise Disagreement(f"a refusal without a message, or with a very long one: {refusal!r:.200}")


_MESSAGE_CHARS_MAX = 100_000  # a list of all mistakes of a file; what shows a refusal cuts the texts in it


def agree(what: str, one: object, other: object) -> None:
    """Raise Disagreement if the two are not equal."""
    if one != other:
        raise Disagreement(f"{what}: {one!r:.300} and {other!r:.300}")
