"""Shell completion: the names of nodes, scenes, snapshots and so on, fetched from any master.

Completion never fails and takes at most about a second: after an error or a timeout there are no names. This module is
loaded with every command, so it imports nothing heavy.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from nodestore.errors import Invalid, NodectlError

if TYPE_CHECKING:
    from nodectl.cli.settings import Options

VARIABLE = "_NODECTL_COMPLETE"
"""Environment variable of completion.

`source_<shell>` requests the completion script of a shell. That script sets `complete_<shell>` to request words.
"""
SHELLS = ("bash", "zsh", "fish", "powershell", "pwsh")
_FLAGS = {"--install-completion", "--show-completion"}
_ANSWER_S = 1.0
_WORDS_MAX = 500
_HELP_CHARS_MAX = 200
_UNSAFE = re.compile(r"[^A-Za-z0-9 ._=-]")
_WORD = re.compile(r"[A-Za-z0-9._/-]+")
"""Pattern of the names that are offered. A shell may evaluate what it is given, so other names are left out."""

Completer = Callable[[typer.Context, str], list[str]]
Pick = Callable[[Any], Iterable[str]]


def is_completing() -> bool:
    """Whether this process answers a completion request. Its errors are never shown."""
    return os.environ.get(VARIABLE, "").startswith("complete")


def check_shell(args: Sequence[str]) -> None:
    """Raise Invalid, with advice, if `args` request a script and the current shell is unknown or not supported."""
    if not _FLAGS.intersection(args) or os.environ.get("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION"):
        return
    import shellingham

    try:
        shell = shellingham.detect_shell()[0]
    except shellingham.ShellDetectionFailure:
        shell = None
    if shell not in SHELLS:
        problem = "the current shell cannot be detected" if shell is None else f"there is no completion for {shell}"
        raise Invalid(f"{problem}; {VARIABLE}=source_bash nodectl (or _zsh, _fish, _powershell) prints a script")


def _completer(path: str, pick: Pick, **query: str) -> Completer:
    """A completer that offers the words which `pick` extracts from any master's answer to GET `path`."""

    def complete(context: typer.Context, incomplete: str) -> list[str]:
        try:
            return _matching(pick(_query(_options(context), path, query)), incomplete)
        except (NodectlError, LookupError, TypeError, AttributeError):  # no cluster, no answer, or an unexpected one
            return []

    return complete


def _matching(words: Iterable[str], incomplete: str) -> list[str]:
    matching = {word for word in words if word.startswith(incomplete) and _WORD.fullmatch(word)}
    return sorted(matching)[:_WORDS_MAX]


def _of_nodes(answer: Any) -> Iterable[str]:
    return (node["name"] for node in answer["nodes"])


def _of_groups(answer: Any) -> Iterable[str]:
    return ("all", *(group for node in answer["nodes"] for group in node["groups"]))


def _of_scenes(answer: Any) -> Iterable[str]:
    return (path.removeprefix("scenes/") for path in answer["documents"])


def _of_documents(answer: Any) -> Iterable[str]:
    return list(answer["documents"])


def _of_snapshots(answer: Any) -> Iterable[str]:
    return (item["name"] for item in answer["snapshots"] if item["name"])


def _of_masters(answer: Any) -> Iterable[str]:
    return (master["id"] for master in answer["masters"])


def commands(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Complete the names of the application's commands. Shells that show a help text show their arguments."""
    try:
        answer = _query(_options(context), "/v1/commands", {})
        arguments = {item["name"]: _described(item["arguments"]) for item in answer["commands"]}
        return [(name, arguments[name]) for name in _matching(arguments, incomplete)]
    except (NodectlError, LookupError, TypeError, AttributeError):
        return []


def _described(schema: Any) -> str:
    """The arguments of a command, without any character that a shell may evaluate."""
    from nodectl.terminal.schemas import describe_arguments

    return _UNSAFE.sub("", describe_arguments(schema))[:_HELP_CHARS_MAX]


nodes = _completer("/v1/nodes", _of_nodes)
groups = _completer("/v1/nodes", _of_groups)
scenes = _completer("/v1/documents", _of_scenes, prefix="scenes/")
documents = _completer("/v1/documents", _of_documents)
snapshots = _completer("/v1/snapshots", _of_snapshots)
masters = _completer("/v1/masters", _of_masters)


def clusters(context: typer.Context, incomplete: str) -> list[str]:
    """Complete the names of clusters in the configuration file."""
    try:
        return _matching(_options(context).cluster_names(), incomplete)
    except NodectlError:
        return []


def _options(context: typer.Context) -> Options:
    """The global options on the command line so far, from the parser's values.

    During completion the root command does not run, so `context.obj` holds no Options.
    """
    from nodectl.cli.settings import ClusterSettings, Options

    given = context.find_root().params

    def path(name: str) -> Path | None:
        return Path(given[name]) if given.get(name) else None

    cluster = ClusterSettings(
        endpoints=given.get("endpoints"), cluster=given.get("cluster"), user=given.get("user"),
        password_file=path("password_file"), ca=path("ca"), cert=path("cert"), key=path("key"),
    )  # fmt: skip
    return Options(given=cluster, cluster_name=given.get("cluster_name"), config=path("config"))


def _query(options: Options, path: str, query: dict[str, str]) -> Any:
    """Fetch GET `path` from any master; None if it fails or takes longer than a second.

    Raises NodectlError if the options name no cluster. The request runs in a thread that is abandoned after that
    time, because a name lookup cannot be cancelled.
    """
    settings = options.resolve()

    import asyncio  # here: not needed if `resolve` finds no cluster and raises

    from nodectl.cli.session import client_of

    client = client_of(settings, _ANSWER_S)
    answers: list[Any] = []

    async def fetch() -> None:
        async with client:
            answers.append(await client.get(path, query, consistency="local", timeout_s=_ANSWER_S))

    def run() -> None:
        with contextlib.suppress(NodectlError):  # no answer: no words
            asyncio.run(fetch())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(_ANSWER_S)
    return answers[0] if answers else None
