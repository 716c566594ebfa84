"""Command lines of the three programs, and the values of their options."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from typing import Any

import typer

import masterd.settings
import noded.settings
from nodectl.cli import arguments
from nodectl.cli.root import app
from nodectl.endpoints import parse_endpoints
from nodestore.errors import Invalid, NodectlError
from nodestore.support.values import (
    duration_between,
    format_duration,
    parse_address,
    parse_duration,
    whole_between,
)
from tests.fuzz.target import Disagreement, Target, agree

_NEEDED = ["--endpoints=10.0.0.1:2379", "--cluster=plant"]
_NOW = 1_800_000_000.0
_SPECIAL = ("/dev", "/proc", "/sys")


def _words(data: bytes) -> list[str]:
    """The words of a command line. Those that name devices, or have an effect when they are parsed, are left out."""
    words = data.decode("utf-8", "surrogateescape").split("\0")[:40]
    return [word for word in words if not any(part in word for part in (*_SPECIAL, "-completion"))]


def _daemon(parse: Callable[[list[str], dict[str, str]], object], needed: list[str]) -> Callable[[bytes], None]:
    """A command line is accepted, or refused with exit code 2 and a single line."""

    def run(data: bytes) -> None:
        shown, complaint = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(complaint):
            try:
                parse([*needed, *_words(data)], {})
            except SystemExit as ended:
                _check_end(ended.code, shown.getvalue(), complaint.getvalue())
                raise Invalid("refused") from None

    return run


def _check_end(code: object, shown: str, complaint: str) -> None:
    if code == 0 and shown:  # --help and --version
        return
    if code != 2 or len(complaint.splitlines()) != 1:
        raise Disagreement(f"exit code {code}, {complaint!r}")


def _nodectl(data: bytes) -> None:
    """All of a command line is parsed, and nothing is run: no network, no file."""
    root: Any = typer.main.get_command(app)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            _parse(root, "nodectl", _words(data), None)
        except typer.Exit:
            raise Invalid("help was shown") from None
        except Exception as error:
            if not hasattr(error, "format_message"):  # a usage error; Typer does not export its class
                raise
            raise Invalid(str(error.format_message()) or "usage") from None


def _parse(command: Any, name: str, words: list[str], parent: Any) -> None:
    with command.make_context(name, words, parent=parent) as context:
        rest = [*context._protected_args, *context.args]
        if hasattr(command, "resolve_command") and rest:
            found, chosen, remaining = command.resolve_command(context, rest)
            _parse(chosen, found or "", remaining, context)


def _each(data: bytes) -> None:
    """Every parser of one value takes the text, or refuses it."""
    text = data.decode("utf-8", "surrogateescape")
    for parse in _PARSERS:
        with contextlib.suppress(NodectlError):
            parse(text)


def _duration(text: str) -> None:
    duration_s = parse_duration(text)
    agree("a duration, read and written", parse_duration(format_duration(duration_s)), duration_s)


def _address(text: str) -> None:
    address = parse_address(text)
    agree("an address, read and written", parse_address(str(address)), address)


def _json_object(text: str) -> None:
    if text != "-" and not text.startswith("@"):  # these name files
        arguments.parse_json_object(text, "ARGS")


_PARSERS: tuple[Callable[[str], object], ...] = (
    _duration, _address, _json_object, parse_endpoints, duration_between(0.1, 60.0), whole_between(0, 10),
    lambda text: arguments.parse_moment(text, _NOW),
    lambda text: arguments.parse_values([text], [], []), lambda text: arguments.parse_values([], [], [text]),
    arguments.parse_value, lambda text: noded.settings.split_as_windows(text),
)  # fmt: skip


def _options(help_text: str) -> tuple[str, ...]:
    return tuple(sorted({word.strip("[],") for word in help_text.split() if word.strip("[]").startswith("--")}))


def _help(parse: Callable[[list[str], dict[str, str]], object]) -> tuple[str, ...]:
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        parse(["--help"], {})
    return _options(shown.getvalue())


_VALUES = ("http://10.0.0.1:8401", "0.0.0.0:8401", "[::1]:1", "300ms", "5s", "auto", "none", "debug", "standard")
TARGETS = (
    Target(
        "masterd-arguments",
        _daemon(masterd.settings.parse, _NEEDED),
        (Invalid,),
        (*_help(masterd.settings.parse), *_VALUES),
    ),
    Target(
        "noded-arguments",
        _daemon(noded.settings.parse, [*_NEEDED, "--node=n1", "--work-dir=none"]),
        (Invalid,),
        (*_help(noded.settings.parse), *_VALUES),
    ),
    Target(
        "nodectl-arguments",
        _nodectl,
        (NodectlError,),
        (
            "node",
            "list",
            "config",
            "apply",
            "scene",
            "--output",
            "json",
            "-e",
            "--help",
            "token",
            "create",
            "history",
            "--after",
            "snapshot",
            "pki",
            "issue",
        ),
    ),
    Target(
        "values-of-options", _each, (), ("http://", "https://", "ms", "h", "1e9", "=", "[::1]", "T02:30", '{"a":', ",")
    ),
)
