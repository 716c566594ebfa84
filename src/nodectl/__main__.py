"""The entry: runs a command, and turns whatever goes wrong into a message and an exit code. No traceback leaves it."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from nodectl.cli.exit_codes import ExitCode, explain


def run(args: Sequence[str]) -> int:
    """The exit code of `nodectl ARGS...`."""
    import typer

    from nodectl.cli.root import app
    from nodectl.terminal.output import Output

    try:
        command = typer.main.get_command(app)
        outcome = command.main(args=list(args), prog_name="nodectl", standalone_mode=False)
        sys.stdout.flush()
        return outcome if isinstance(outcome, int) else ExitCode.OK
    except (KeyboardInterrupt, typer.Abort):
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        return _end_on_closed_pipe()
    except Exception as error:  # the one place that turns every error into words
        if os.environ.get("NODECTL_DEBUG"):
            raise
        if hasattr(error, "format_message"):  # a usage error; its class is not Typer's public interface
            return _report_usage(error)
        explained = explain(error)
        Output().problem(explained.message, explained.hint)
        return explained.code


def _report_usage(error: Exception) -> int:
    from nodectl.terminal.output import Output

    context = getattr(error, "ctx", None)
    message = str(error.format_message())  # type: ignore[attr-defined]
    if context is not None and not message.strip().startswith("Usage:"):
        Output().problem(message, f"see {context.command_path} --help")
    elif message:
        Output().note(message)
    return ExitCode.USAGE


def _end_on_closed_pipe() -> int:
    """Whoever read our output has enough. What is still buffered must not raise again when Python exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return ExitCode.FAILED


def complete() -> NoReturn:
    """What a shell asks for at Tab: words or nothing, on stdout alone, whatever goes wrong."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(newline="\n")  # a bash on Windows would take \r for a part of the word
    try:
        code = run(sys.argv[1:])
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else ExitCode.FAILED
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    os._exit(code)  # not sys.exit: that waits for threads, and one may still wait for an answer that came too late


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="replace")  # a Windows pipe is cp1252 and refuses much
    from nodectl.cli.completion import is_completing

    if is_completing():
        complete()
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
