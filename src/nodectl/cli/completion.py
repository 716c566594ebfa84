"""What the shells ask when Tab is pressed: names of nodes, scenes and so on, if a master says them soon enough.

Completion never fails and never waits long: whatever goes wrong, and whoever does not answer in time, there are no
names then. This module is loaded with every command, so it imports nothing heavy.
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
"""Set by the shells' scripts: `complete_<shell>` asks for words, `source_<shell>` for the script itself."""
SHELLS = ("bash", "zsh", "fish", "powershell", "pwsh")
_FLAGS = {"--install-completion", "--show-completion"}
_ANSWER_S = 1.0
_WORDS_MAX = 500
_WORD = re.compile(r"[A-Za-z0-9._/-]+")
"""Shells evaluate what they are given, so nothing that they could take for more than a word gets there."""

Completer = Callable[[typer.Context, str], list[str]]
Pick = Callable[[Any], Iterable[str]]


def is_completing() -> bool:
    """Whether a shell asks for words (and nobody reads what we would say of errors)."""
    return os.environ.get(VARIABLE, "").startswith("complete")


def check_shell(args: Sequence[str]) -> None:
    """Invalid, with the way out, when a script for this shell is asked for and there is none."""
    if not _FLAGS.intersection(args) or os.environ.get("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION"):
        return
    import shellingham

    try:
        shell = shellingham.detect_shell()[0]
    except shellingham.ShellDetectionFailure:
        shell = None
    if shell not in SHELLS:
        found = "cannot tell which shell this is" if shell is None else f"there is no completion for {shell}"
        raise Invalid(f"{found}; {VARIABLE}=source_bash nodectl (or _zsh, _fish, _powershell) prints a script")


def _completer(path: str, pick: Pick, **query: str) -> Completer:
    """Words that `pick` finds in what any master answers to GET `path`."""

    def complete(context: typer.Context, incomplete: str) -> list[str]:
        try:
            return _fitting(pick(_query(_options(context), path, query)), incomplete)
        except (NodectlError, LookupError, TypeError, AttributeError):  # no cluster, no answer, or one we cannot read
            return []

    return complete


def _fitting(words: Iterable[str], incomplete: str) -> list[str]:
    found = {word for word in words if word.startswith(incomplete) and _WORD.fullmatch(word)}
    return sorted(found)[:_WORDS_MAX]


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


nodes = _completer("/v1/nodes", _of_nodes)
groups = _completer("/v1/nodes", _of_groups)
scenes = _completer("/v1/documents", _of_scenes, prefix="scenes/")
documents = _completer("/v1/documents", _of_documents)
snapshots = _completer("/v1/snapshots", _of_snapshots)
masters = _completer("/v1/masters", _of_masters)


def clusters(context: typer.Context, incomplete: str) -> list[str]:
    """Clusters of the configuration file."""
    try:
        return _fitting(_options(context).cluster_names(), incomplete)
    except NodectlError:
        return []


def _options(context: typer.Context) -> Options:
    """The global options as far as they are on the line: the root command does not run for a completion."""
    from nodectl.cli.settings import ClusterSettings, Options

    given = context.find_root().params

    def path(name: str) -> Path | None:
        return Path(given[name]) if given.get(name) else None

    cluster = ClusterSettings(
        given.get("endpoints"), given.get("cluster"), given.get("user"), path("password_file"), path("ca"),
        path("cert"), path("key"),
    )  # fmt: skip
    return Options(cluster, given.get("cluster_name"), path("config"))


def _query(options: Options, path: str, query: dict[str, str]) -> Any:
    """What any master answers within a second; else a NodectlError, or None from one that would have come too late.

    In a thread that is left behind when it is late: resolving a name, for one, cannot be cancelled.
    """
    settings = options.resolve()
    assert settings.endpoints is not None

    import asyncio  # only now: without a cluster there is nothing to load a client for

    from nodectl.client import Client

    client = Client(
        settings.endpoints, cluster=settings.cluster, user=settings.user, password=settings.password(),
        ca=settings.ca, cert=settings.cert, key=settings.key,
    )  # fmt: skip
    answers: list[Any] = []

    async def ask() -> None:
        async with client:
            answers.append(await client.get(path, query, consistency="local", timeout_s=_ANSWER_S))

    def run() -> None:
        with contextlib.suppress(NodectlError):  # no answer: there is nobody to tell
            asyncio.run(ask())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(_ANSWER_S)
    return answers[0] if answers else None
