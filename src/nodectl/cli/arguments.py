"""Arguments and options that several commands share, and the parser of KEY=VALUE."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nodectl.cli import completion
from nodectl.cli.duration_option import duration_option
from nodestore.errors import Invalid

if TYPE_CHECKING:
    from nodestore.schema.api_types import Consistency

NodeArgument = Annotated[str, typer.Argument(metavar="NODE", help="Name of the node.", autocompletion=completion.nodes)]
WaitOption = Annotated[bool, typer.Option("--wait", help="Wait until the nodes are in their desired state.")]
WAIT_S = 30.0
TimeoutOption = Annotated[
    float,
    duration_option("--timeout", least_s=0.1, most_s=86_400, default_s=WAIT_S, help="Give up --wait after this time."),
]
LocalOption = Annotated[
    bool,
    typer.Option(
        "--local", help="Read from any master; this works without a leader. The answer may be slightly out of date."
    ),
]


def consistency(local: bool) -> Consistency:
    """The consistency of reads: `local` if `--local` is given, else `linearizable`."""
    return "local" if local else "linearizable"


def parse_values(values: list[str], unset: list[str]) -> dict[str, Any]:
    """Parse `values` (KEY=VALUE or KEY-) and `unset` (keys) into a merge patch, in which None removes a key.

    Raises Invalid if a value has neither form, if a key is given twice, or if no key is given.
    """
    patch: dict[str, Any] = {}
    for text in values:
        key, separator, value = text.partition("=")
        if not separator and key.endswith("-") and len(key) > 1:
            _add(patch, key[:-1], None)
        elif not separator or not key:
            raise Invalid(f"{text!r} is not KEY=VALUE (or KEY- to remove KEY)")
        else:
            _add(patch, key, parse_value(value))
    for key in unset:
        _add(patch, key, None)
    if not patch:
        raise Invalid("nothing to change: give KEY=VALUE, KEY- or --unset KEY")
    return patch


def _add(patch: dict[str, Any], key: str, value: Any) -> None:
    if key in patch:
        raise Invalid(f"key {key!r} is given twice")
    patch[key] = value


def parse_value(text: str) -> Any:
    """Parse `text` as JSON; if it is not JSON, return it unchanged. `5` is a number, `"5"` and `red` are text."""
    try:
        return json.loads(text, parse_constant=_not_json)
    except ValueError:
        return text


def _not_json(name: str) -> Any:
    raise ValueError(name)
