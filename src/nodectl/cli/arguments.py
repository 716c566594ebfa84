"""Arguments and options that several commands share, and the parser of KEY=VALUE."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from datetime import datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nodectl.cli import completion
from nodectl.cli.duration_option import duration_option
from nodestore.errors import Invalid

if TYPE_CHECKING:
    from nodestore.schema.api_types import Consistency

NodeArgument = Annotated[str, typer.Argument(metavar="NODE", help="Name of the node.", autocompletion=completion.nodes)]
WaitOption = Annotated[bool, typer.Option("--wait", help="Wait until the nodes are in their desired state.")]
TextValuesOption = Annotated[
    list[str] | None,
    typer.Option("--text", metavar="KEY=VALUE", help="VALUE is text, also if it is valid JSON, such as 5 or true."),
]
WAIT_S = 30.0
JSON_BYTES_MAX = 16 << 20
_AGE = re.compile(r"(?P<count>[0-9]{1,9}(?:\.[0-9]{1,3})?)(?P<unit>[smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_TIME_OF_DAY = re.compile(r"[0-9]{2}:[0-9]{2}(:[0-9]{2})?")
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


def parse_values(values: list[str], unset: list[str], texts: Sequence[str] = ()) -> dict[str, Any]:
    """Parse `values` (KEY=VALUE or KEY-) and `unset` (keys) into a merge patch, in which None removes a key.

    texts: KEY=VALUE whose values are text, whatever they look like. Raises Invalid if a value has neither form, if a
    key is given twice, or if no key is given.
    """
    from nodestore.support.json_rules import checked_copy

    patch: dict[str, Any] = {}
    for text in values:
        key, separator, value = text.partition("=")
        if not separator and key.endswith("-") and len(key) > 1:
            _add(patch, key[:-1], None)
        elif not separator or not key:
            raise Invalid(f"{text!r} is not KEY=VALUE (or KEY- to remove KEY)")
        else:
            _add(patch, key, checked_copy(parse_value(value), key))
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator or not key:
            raise Invalid(f"--text: {text!r} is not KEY=VALUE")
        _add(patch, key, value)
    for key in unset:
        _add(patch, key, None)
    if not patch:
        raise Invalid("nothing to change: give KEY=VALUE, --text KEY=VALUE, KEY- or --unset KEY")
    return patch


def parse_json_object(given: str, what: str) -> dict[str, Any]:
    """Parse a JSON object: the text `given`, the content of FILE for `@FILE`, or stdin for `-` and `@-`.

    Raises Invalid, which names `what`, if it cannot be read or is not a JSON object.
    """
    text = given
    if given == "-" or given.startswith("@"):
        text = _read_text(given.removeprefix("@"), what)
    try:
        value = json.loads(text, parse_constant=_not_json, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise Invalid(f"{what} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise Invalid(f'{what} must be a JSON object such as \'{{"node": "n1"}}\', not {text.strip()[:60]}')
    return value


def _read_text(name: str, what: str) -> str:
    try:
        raw = sys.stdin.buffer.read(JSON_BYTES_MAX + 1) if name == "-" else _read_file(Path(name))
    except OSError as error:
        raise Invalid(f"{what}: {name}: {error.strerror or error}") from None
    if len(raw) > JSON_BYTES_MAX:
        raise Invalid(f"{what}: {name} is larger than {JSON_BYTES_MAX >> 20} MiB")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Invalid(f"{what}: {name} is not UTF-8") from None


def _read_file(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(JSON_BYTES_MAX + 1)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        from nodestore.support.jsonio import repeated_name

        raise ValueError(f"the key {repeated_name(pairs)!r} is given twice")
    return values


def parse_moment(text: str, now: float) -> float:
    """Parse a time in the past, in seconds since the Unix epoch.

    `text`: an age (`90s`, `15m`, `2h`, `3d`), a time of day (`02:30`), or a date with or without time (ISO 8601), by
    this PC's time zone unless it names another. Raises Invalid.
    """
    age = _AGE.fullmatch(text)
    if age is not None:
        return now - float(age["count"]) * _SECONDS[age["unit"]]
    try:
        if _TIME_OF_DAY.fullmatch(text):
            today = datetime.fromtimestamp(now).replace(microsecond=0)
            moment = datetime.combine(today.date(), time.fromisoformat(text))
            return (moment if moment <= today else moment - timedelta(days=1)).timestamp()
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        raise Invalid(
            f"{text!r} is not a time: give an age such as 90s, 15m, 2h or 3d, a time of day such as 02:30, "
            "or a date such as 2026-11-30 or 2026-11-30T02:30"
        ) from None


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
