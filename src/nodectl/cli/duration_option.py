"""A Typer option that takes a duration. Loaded at every start, so it imports nothing heavy."""

from __future__ import annotations

from typing import Any

import typer

from nodestore.errors import Invalid
from nodestore.support.values import duration_between, format_duration


def duration_option(
    *names: str, least_s: float, most_s: float, help: str, default_s: float | None = None, **settings: Any
) -> Any:
    """An option for a duration of `least_s` to `most_s` seconds. Its value is in seconds.

    The help shows the bounds and `default_s`. The default itself is that of the parameter in the command's signature.
    """
    bounded = duration_between(least_s, most_s)

    def parse(given: str | float) -> float:
        if isinstance(given, float):  # the default: Typer passes it through the parser too
            return given
        try:
            return bounded(given)
        except Invalid as error:
            raise typer.BadParameter(str(error)) from None

    default = "" if default_s is None else f"; default {format_duration(default_s)}"
    text = f"{help} From {format_duration(least_s)} to {format_duration(most_s)}{default}."
    return typer.Option(*names, parser=parse, metavar="TIME", help=text, show_default=False, **settings)
