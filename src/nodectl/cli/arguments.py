"""Arguments and options that several commands have, and how their text becomes values."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from nodectl.cli import completion
from nodectl.cli.duration_option import duration_option
from nodestore.errors import Invalid

NodeArgument = Annotated[str, typer.Argument(metavar="NODE", help="Name of the node.", autocompletion=completion.nodes)]
WaitOption = Annotated[bool, typer.Option("--wait", help="Wait until the nodes have done it.")]
TimeoutOption = Annotated[
    float, duration_option("--timeout", least_s=0.1, most_s=86_400, help="How long --wait waits at most.")
]
LocalOption = Annotated[
    bool, typer.Option("--local", help="Take what any master knows, which may be a little old; needs no leader.")
]
WAIT_S = 30.0


def parse_values(values: list[str], unset: list[str]) -> dict[str, Any]:
    """KEY=VALUE and KEY- as a merge: null removes a key. Invalid when one is neither."""
    found: dict[str, Any] = {}
    for text in values:
        key, separator, value = text.partition("=")
        if not separator and key.endswith("-") and len(key) > 1:
            _add(found, key[:-1], None)
        elif not separator or not key:
            raise Invalid(f"{text!r} is not KEY=VALUE (or KEY- to remove KEY)")
        else:
            _add(found, key, parse_value(value))
    for key in unset:
        _add(found, key, None)
    if not found:
        raise Invalid("nothing to change: give KEY=VALUE, KEY- or --unset KEY")
    return found


def _add(found: dict[str, Any], key: str, value: Any) -> None:
    if key in found:
        raise Invalid(f"key {key!r} is given twice")
    found[key] = value


def parse_value(text: str) -> Any:
    """`text` as JSON if it is JSON, else as it is: `5` is a number, `"5"` and `red` are text."""
    try:
        return json.loads(text, parse_constant=_not_json)
    except ValueError:
        return text


def _not_json(name: str) -> Any:
    raise ValueError(name)
