"""Entry point of `nodectl`: runs a command, and turns every error into a message and an exit code. No traceback."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from nodectl.cli.exit_codes import ExitCode, explain


def run(args: Sequence[str]) -> int:
    """Run `nodectl ARGS...` and return its exit code."""
    from nodectl.terminal.output import DELIVERY

    DELIVERY.reset()
    return _delivered(_run(args))


def _run(args: Sequence[str]) -> int:
    import typer

    from nodectl.cli.root import app
    from nodectl.terminal.output import DELIVERY, Output, OutputLost

    try:
        command = typer.main.get_command(app)
        outcome = command.main(args=list(args), prog_name="nodectl", standalone_mode=False)
        return outcome if isinstance(outcome, int) else ExitCode.OK
    except (KeyboardInterrupt, typer.Abort):
        return ExitCode.INTERRUPTED
    except OutputLost as error:
        DELIVERY.lost = error.reason
        return ExitCode.FAILED
    except BrokenPipeError as error:
        DELIVERY.lost = error
        return ExitCode.FAILED
    except Exception as error:  # the only place that turns errors into messages
        if os.environ.get("NODECTL_DEBUG"):
            raise
        if hasattr(error, "format_message"):  # a usage error; Typer does not export its class
            return _report_usage(error)
        explained = explain(error)
        Output().problem(explained.message, explained.hint)
        return explained.code


def _delivered(code: int) -> int:
    """Flush stdout. Return the exit code: FAILED if data was lost and the command has changed nothing, else `code`."""
    from nodectl.terminal.output import DELIVERY, Output

    try:
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        DELIVERY.lost = DELIVERY.lost or error
    if DELIVERY.lost is None:
        return code
    _discard_stdout()
    if text := DELIVERY.explain_loss():
        Output().warn(text)
    return code if DELIVERY.has_effect or code != ExitCode.OK else ExitCode.FAILED


def _discard_stdout() -> None:
    """Redirect stdout to the null device: it cannot be written, and Python's final flush must not fail."""
    with contextlib.suppress(OSError, ValueError):  # a test's stdout has no descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report_usage(error: Exception) -> int:
    from nodectl.terminal.output import Output

    context = getattr(error, "ctx", None)
    message = str(error.format_message())  # type: ignore[attr-defined]
    if context is not None and not message.strip().startswith("Usage:"):
        Output().problem(message, f"see {context.command_path} --help")
    elif message:
        Output().note(message)
    return ExitCode.USAGE


def complete() -> NoReturn:
    """Answer a shell's completion request: words on stdout, or none if anything fails. Nothing is written to stderr."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(newline="\n")  # bash on Windows would read \r as part of the word
    try:
        code = run(sys.argv[1:])
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else ExitCode.FAILED
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    os._exit(code)  # sys.exit would wait for the thread of a name lookup that has timed out


def _open_missing_streams() -> None:
    """Open the null device for each standard stream that the caller has closed (`nodectl ... >&-`).

    Python sets such a stream to None. Its descriptor would be given to the next file or connection that is opened.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is not None:
            continue
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)
        stream = os.fdopen(number, "w" if number else "r", encoding="utf-8", closefd=False)
        setattr(sys, name, stream)


def main() -> None:
    _open_missing_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(
                encoding="utf-8", errors="replace"
            )  # a pipe on Windows uses cp1252, which lacks most characters
    from nodectl.cli.completion import is_completing

    if is_completing():
        complete()
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
