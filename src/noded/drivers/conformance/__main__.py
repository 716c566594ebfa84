"""Command line of the conformance test: prints one line for each rule; exit code 0 if all hold."""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import json
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint
from typing import Any

from noded.drivers import contract
from noded.drivers.conformance import Limits, Result, examine
from noded.drivers.contract import DriverError, DriverFactory
from nodestore.daemon.options import argument_type
from nodestore.processes import child_processes
from nodestore.schema.models import Spec
from nodestore.support.values import duration_between, format_duration

_SHOWN = {"ok": "ok     ", "failed": "FAILED ", "skipped": "skipped"}
_HANG_S = 1_200.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checks. Returns the exit code: 0 all rules hold, 1 a rule is broken, 2 the arguments are wrong."""
    child_processes.utf8_stdio()
    options = _options(arguments)
    try:
        factory = _load(options.driver)
    except DriverError as error:
        sys.stderr.write(f"conformance: {error.message}\n")
        return 2
    specs = [Spec(driver=options.driver, settings=options.settings, document=options.document)]
    if options.then_settings is not None or options.then_document is not None:
        then = {"settings": options.then_settings, "document": options.then_document}
        specs.append(specs[0].model_copy(update={name: value for name, value in then.items() if value is not None}))
    limits, actions = Limits(call_s=options.limit), dict(options.action)
    results = asyncio.run(examine(factory, specs, limits=limits, actions=actions, on_result=_print_result))
    return 1 if any(result.verdict == "failed" for result in results) else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m noded.drivers.conformance",
        description="Test whether a driver keeps its contract. It really applies settings and document.",
    )
    parser.add_argument("driver", metavar="NAME", help="an installed driver's name, or module:Class")
    parser.add_argument("--settings", type=_object, default={}, metavar="JSON", help="the driver's settings")
    parser.add_argument("--document", type=_object, default={}, metavar="JSON", help="the node's document")
    parser.add_argument(
        "--then-settings", type=_object, metavar="JSON", help="other settings: changing to them and back is tested"
    )
    parser.add_argument(
        "--then-document", type=_object, metavar="JSON", help="another document: changing to it and back is tested"
    )
    parser.add_argument(
        "--action",
        type=_action,
        action="append",
        default=[],
        metavar="NAME[=JSON]",
        help="an action of the driver to be tested, with its arguments; may be repeated",
    )
    limit = argument_type(duration_between(0.001, _HANG_S))
    text = f"time limit of each call, such as 300ms or 5s (default: {format_duration(Limits.call_s)})"
    parser.add_argument("--limit", type=limit, default=Limits.call_s, metavar="TIME", help=text)
    return parser.parse_args(arguments)


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("not a JSON object")
    return value


def _action(text: str) -> tuple[str, dict[str, Any]]:
    name, given, args = text.partition("=")
    return name, _object(args) if given else {}


def _load(name: str) -> DriverFactory:
    if ":" not in name:
        return contract.load(name)
    try:
        factory: DriverFactory = EntryPoint(name, name, contract.GROUP).load()
    except Exception as error:  # noqa: BLE001 - importing third-party code can raise anything
        raise DriverError(f"{name} cannot be loaded: {type(error).__name__}: {error}") from None
    return factory


def _print_result(result: Result) -> None:
    sys.stdout.write(f"{_SHOWN[result.verdict]}  {result.check}{': ' if result.detail else ''}{result.detail}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    faulthandler.dump_traceback_later(_HANG_S, exit=True)  # shows the author where a driver blocks
    sys.exit(main())
