"""Every option that takes a time understands `300ms`, `5s`, `1m` and `1h`: an option that is added later, too."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer

import masterd.settings
import noded.settings
from nodectl.cli.root import app
from noded.drivers.conformance.__main__ import main as conformance
from nodestore.daemon.options import Parser
from nodestore.support.values import format_duration, whole_between
from tests.faults.hosts.__main__ import main as faults

SAMPLES = ("300ms", "5s", "1m", "1h")
_ABOUT_TIME = re.compile(r"\b(?:milli)?seconds?\b|how long|how often|timeout|time to wait", re.IGNORECASE)
_METAVARS = {"TIME", "SECONDS", "DURATION", "FLOAT"}
_UNDERSTOOD = re.compile(r"is not between|is not a whole number of seconds|must be less than")
"""What may be said of a time that was understood."""

# --- nodectl ---------------------------------------------------------------------------------------------------------


def commands(command: Any, context: Any) -> Iterator[tuple[Any, Any]]:
    """The command and all below it, each with its context."""
    yield command, context
    for name in command.list_commands(context) if hasattr(command, "list_commands") else ():
        below = command.get_command(context, name)
        yield from commands(below, type(context)(below, info_name=name, parent=context))


def time_parameters(application: typer.Typer) -> Iterator[tuple[str, Any, Any]]:
    """Those that take a time, with what they are called and their context."""
    root = typer.main.get_command(application)
    for command, context in commands(root, root.make_context("x", [], resilient_parsing=True)):
        for parameter in command.params:
            about = f"{parameter.name} {getattr(parameter, 'help', '')}"
            fraction = isinstance(parameter.default, float)  # nothing but a time is one
            if not getattr(parameter, "is_flag", False) and (
                parameter.metavar in _METAVARS or fraction or _ABOUT_TIME.search(about)
            ):
                yield f"{context.command_path} {parameter.opts[0]}", parameter, context


def misunderstood(application: typer.Typer) -> list[str]:
    """The parameters that take a time and do not understand a sample."""
    wrong = []
    for name, parameter, context in time_parameters(application):
        for sample in SAMPLES:
            try:
                value = parameter.process_value(context, sample)
            except typer.BadParameter as error:
                if not _UNDERSTOOD.search(error.message):
                    wrong.append(f"{name} {sample}: {error.message}")
            else:
                wrong += [] if isinstance(value, float) else [f"{name} {sample}: {value!r}"]
    return wrong


def test_nodectl() -> None:
    """Of the root and of every command."""
    found = {name for name, _, _ in time_parameters(app)}
    assert found >= {
        "x --request-timeout", "x drill --seconds", "x drill --timeout", "x node act --expires", "x node act --timeout",
        "x node reboot --timeout", "x node set --timeout", "x master switchover --timeout", "x config apply --timeout",
        "x snapshot restore --timeout",
    }  # fmt: skip
    assert misunderstood(app) == []


def test_the_help_of_nodectl_shows_defaults_with_their_unit() -> None:
    """The default in the help is the one that the command uses."""
    defaults = {name: (parameter.default, parameter.help) for name, parameter, _ in time_parameters(app)}
    assert defaults["x node reboot --timeout"][0] == 600.0
    for name, (default_s, text) in defaults.items():
        assert default_s is None or text.endswith(f"; default {format_duration(default_s)}."), name


def test_an_option_of_plain_seconds_is_found() -> None:
    """However it is recognized: by its default, its metavar, its name, or its help."""
    application = typer.Typer()

    @application.command()
    def wait(
        a: Annotated[float, typer.Option()] = 1.0,
        b: Annotated[int, typer.Option(metavar="SECONDS")] = 1,
        c_timeout: Annotated[int, typer.Option()] = 1,
        d: Annotated[str, typer.Option(help="How long to wait.")] = "1",
        e: Annotated[int, typer.Option(help="How many.")] = 1,
    ) -> None: ...

    assert {line.split()[1] for line in misunderstood(application)} == {"--a", "--b", "--c-timeout", "--d"}


# --- masterd, noded and others ---------------------------------------------------------------------------------------


def times_in_help(text: str) -> list[str]:
    """The names of the options in an argparse help that take a time."""
    found = []
    options = next(part for part in text.split("\n\n") if part.startswith("options:"))
    for block in re.split(r"\n  (?=--)", options)[1:]:
        name, meta, help = (*block.split(None, 2), "", "")[:3]
        if meta in _METAVARS or _ABOUT_TIME.search(" ".join(f"{name} {help}".split())):
            found.append(name)
    return found


def help_of(program: Callable[[list[str]], object], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit):
        program(["--help"])
    return capsys.readouterr().out


def complaint(call: Callable[[], object], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the error for these options; empty if they are valid."""
    try:
        call()
    except SystemExit:
        return capsys.readouterr().err
    return ""


def wrong_in(
    program: Callable[[list[str], dict[str, str]], object],
    needed: list[str],
    names: list[str],
    capsys: pytest.CaptureFixture[str],
) -> list[str]:
    """What is said of samples by options, or their variables, that do not understand them."""
    said = []
    for name in names:
        variable = "NODECTL_" + name.removeprefix("--").replace("-", "_").upper()
        for sample in SAMPLES:
            said.append(complaint(lambda: program([*needed, f"{name}={sample}"], {}), capsys))  # noqa: B023 - called now
            said.append(complaint(lambda: program(needed, {variable: sample}), capsys))  # noqa: B023 - called now
    return [text for text in said if text and not _UNDERSTOOD.search(text)]


def test_masterd(capsys: pytest.CaptureFixture[str]) -> None:
    """On the command line and in the environment."""
    names = times_in_help(help_of(lambda arguments: masterd.settings.parse(arguments, {}), capsys))
    assert set(names) == {
        "--lease-ttl", "--handler-timeout", "--beat", "--missed", "--silence", "--answer", "--stuck", "--connect",
        "--stagger", "--derive-timeout", "--session-idle", "--session-lasts",
    }  # fmt: skip
    assert wrong_in(masterd.settings.parse, ["--id=m1", "--cluster=c"], names, capsys) == []


def test_noded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On the command line and in the environment."""
    names = times_in_help(help_of(lambda arguments: noded.settings.parse(arguments, {}), capsys))
    assert set(names) == {"--lease-ttl", "--tick", "--start-wait"}
    needed = ["--node=n1", "--cluster=c", f"--work-dir={tmp_path}"]
    assert wrong_in(noded.settings.parse, needed, names, capsys) == []


def test_an_argparse_option_of_plain_seconds_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    """By its metavar, its name, or its help."""

    def program(arguments: list[str], environ: dict[str, str]) -> None:
        parser = Parser("x", "", environ)
        parser.add_option("a", whole_between(1, 300), default="1", meta="SECONDS", text="")
        parser.add_option("b-timeout", whole_between(1, 300), default="1", meta="N", text="")
        parser.add_option("c", whole_between(1, 300), default="1", meta="N", text="how long it waits")
        parser.add_option("d", whole_between(1, 300), default="1", meta="N", text="how many")
        parser.parse_args(arguments)

    names = times_in_help(help_of(lambda arguments: program(arguments, {}), capsys))
    assert names == ["--a", "--b-timeout", "--c"]
    assert len(wrong_in(program, [], names, capsys)) == 2 * len(SAMPLES) * len(names)


def test_the_conformance_test_of_drivers(capsys: pytest.CaptureFixture[str]) -> None:
    """What is left to complain about is the driver."""
    assert times_in_help(help_of(conformance, capsys)) == ["--limit"]
    for sample in SAMPLES:
        said = complaint(lambda: conformance(["none", f"--limit={sample}"]), capsys)  # noqa: B023 - called now
        assert not said or _UNDERSTOOD.search(said)
    assert "'soon' is not a time" in complaint(lambda: conformance(["none", "--limit=soon"]), capsys)


def test_the_faults_of_hosts(capsys: pytest.CaptureFixture[str]) -> None:
    """What is left to complain about is the fault."""
    assert times_in_help(help_of(faults, capsys)) == ["--duration"]
    for sample in SAMPLES:
        said = complaint(lambda: faults([f"--duration={sample}", "--only=earthquake"]), capsys)  # noqa: B023 - called now
        assert "there is no fault 'earthquake'" in said
    assert "'soon' is not a time" in complaint(lambda: faults(["--duration=soon"]), capsys)
