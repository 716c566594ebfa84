"""Root of the command line: the global options, and the commands, each loaded only when it is called.

`nodectl --help` and shell completion must be quick on a small PC. So no module here imports etcd, HTTP, the models or
rich at its top level. Commands import what they need when they run.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from nodectl.cli import completion
from nodectl.cli.duration_option import duration_option
from nodectl.cli.settings import REQUEST_TIMEOUT_S, ClusterSettings, Options
from nodestore.errors import Invalid

COMMANDS: dict[str, str] = {
    "status": "Show the whole cluster and its problems on one screen.",
    "node": "Show nodes, change their documents, run actions on them.",
    "scene": "Save and apply scenes: named sets of node documents.",
    "config": "Check, compare, edit and apply the inventory.",
    "master": "Show masters; switch over; pause and resume automatic takeover.",
    "app": "Check which application the masters run; adopt another one.",
    "state": "Read the documents of the application.",
    "command": "Send a command to the application.",
    "command-id": "Print a command id, with which a script can safely repeat a command.",
    "command-outcome": "Show what became of a command whose answer was lost.",
    "snapshot": "Save, list, show, restore and delete snapshots.",
    "time": "Set the time of the cluster after it was wrong.",
    "history": "Show the commands that were run: which, by whom and when.",
    "why": "Explain a takeover: its cause, and how long each step took.",
    "drill": "Replace the leader on purpose and measure what a client sees.",
    "backup": "Save the cluster's etcd data in a file.",
    "recover": "Begin a new epoch after a backup was restored.",
    "etcd": "Generate the configuration files of etcd members; set the rights in etcd.",
    "login": "Store a token, with which masters know you.",
    "whoami": "Show who you are for the masters, and what you may do.",
    "token": "Create, list and revoke tokens.",
    "audit": "Show what masters refused, logins, and changes of access control.",
    "auth": "Switch access control on and off; show what you may do.",
    "pki": "Issue, renew and revoke the certificates of a cluster.",
    "host": "Make PCs a cluster: begin one, join it, list and remove PCs.",
    "kit": "Build kits: one file that holds all a PC needs without internet.",
    "demo": "Run a cluster on this PC, inject faults, and check its guarantees.",
    "dev": "Run a cluster on this PC for development.",
}
"""Help line by command. The module nodectl.cli.commands.<command> holds a Typer named `app`."""

_PACKAGES = {
    **dict.fromkeys(("audit", "auth", "login", "pki", "token", "whoami"), "security."),
    "host": "hosts.",
    **dict.fromkeys(("command-id", "command-outcome"), "lost_answers."),
}
"""The package of a command's module below nodectl.cli.commands, if it is in one."""

_HOISTED = {
    "--endpoints", "-e", "--cluster", "--cluster-name", "-c", "--config", "--user", "--password-file", "--token-file",
    "--ca", "--cert", "--key", "--crl", "--request-timeout",
}  # fmt: skip
_OUTPUT = {"-o", "--output"}
_GROUPS = {
    "node",
    "scene",
    "config",
    "master",
    "app",
    "state",
    "snapshot",
    "etcd",
    "pki",
    "token",
    "auth",
    "dev",
    "host",
    "kit",
}
"""Commands that have commands of their own, so that `nodectl node help` can only mean `nodectl node --help`."""


def _module(command: str) -> str:
    return f"nodectl.cli.commands.{_PACKAGES.get(command, '')}{command.replace('-', '_')}"


class LazyGroup(TyperGroup):
    """The group of all commands. It imports a command's module when that command is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        # The search for a module in a package would import the package.
        return [name for name in COMMANDS if name in _PACKAGES or importlib.util.find_spec(_module(name)) is not None]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.list_commands(ctx):
            return None
        module = importlib.import_module(_module(cmd_name))
        command = typer.main.get_command(module.app)
        command.name = cmd_name
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        known = self.list_commands(ctx)
        if args and not args[0].startswith("-") and args[0] not in known and not ctx.resilient_parsing:
            near = difflib.get_close_matches(args[0], known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "see nodectl --help"
            raise Invalid(f"no command {args[0]!r}; {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands from COMMANDS, so that help loads none of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name]) for name in self.list_commands(ctx)])

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not ctx.resilient_parsing:
            completion.check_shell(args)
        return super().parse_args(ctx, hoist(args if ctx.resilient_parsing else as_typed(args)))


def as_typed(args: list[str]) -> list[str]:
    """Bring what operators type into the form that the parser knows.

    `help` and `help COMMAND...` become `--help`, `version` becomes `--version`. `-o FORMAT` before the command is
    moved behind it.
    """
    given, moved = list(args), []
    position = 0
    while position < len(given) and given[position].startswith("-") and given[position] != "--":
        count = _output_words(given[position:])
        if count:
            moved += given[position : position + count]
            del given[position : position + count]
        else:
            position += 2 if given[position] in _HOISTED else 1
    command = given[position : position + 1]
    if command == ["version"]:
        return [*given[:position], "--version"]
    if command == ["help"]:
        return [*given[:position], *given[position + 1 :], "--help"]
    if command and command[0] in _GROUPS and given[position + 1 : position + 2] == ["help"]:
        return [*given[: position + 1], *given[position + 2 :], "--help"]
    end = given.index("--") if "--" in given else len(given)
    return [*given[:end], *moved, *given[end:]]


def _output_words(args: list[str]) -> int:
    """Of how many words the output option at the front of `args` consists; 0 if there is none, or without a format."""
    word = args[0]
    if word in _OUTPUT:
        return 2 if len(args) > 1 else 0
    return 1 if word.startswith("--output=") or (word.startswith("-o") and len(word) > 2) else 0


def hoist(args: list[str]) -> list[str]:
    """Move the global options to the front, because operators write them anywhere: `nodectl node list -c home`."""
    front: list[str] = []
    rest: list[str] = []
    position = 0
    while position < len(args):
        arg = args[position]
        if arg == "--":
            return [*front, *rest, *args[position:]]
        if arg in _HOISTED and position + 1 < len(args):
            front += [arg, args[position + 1]]
            position += 1
        elif arg.partition("=")[0] in _HOISTED and "=" in arg:
            front.append(arg)
        else:
            rest.append(arg)
        position += 1
    return front + rest


app = typer.Typer(
    cls=LazyGroup,
    name="nodectl",
    help="Operate a nodectl cluster: its nodes, masters and configuration.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 conflict, 5 unavailable, 6 denied, 7 timed out, "
    "8 outcome unknown.",
)


def _version(value: bool) -> None:
    if value:
        from nodestore import __version__

        print(f"nodectl {__version__}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    endpoints: Annotated[
        str | None,
        typer.Option("--endpoints", "-e", metavar="LIST", help="etcd members HOST:PORT,... or masters http://HOST:PORT,..."),
    ] = None,
    cluster: Annotated[str | None, typer.Option(metavar="NAME", help="Name of the cluster in etcd.")] = None,
    cluster_name: Annotated[
        str | None,
        typer.Option("--cluster-name", "-c", metavar="NAME", help="Use this cluster of the configuration file.",
                     autocompletion=completion.clusters),
    ] = None,
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="Configuration file that names clusters.")] = None,
    user: Annotated[str | None, typer.Option(metavar="NAME", help="etcd user.")] = None,
    password_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File whose first line is the password of --user; - is stdin.")
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File whose first line is a token (default: that of `nodectl login`)."),
    ] = None,
    ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="PEM file of the certificate authority of etcd and masters.")
    ] = None,
    cert: Annotated[Path | None, typer.Option(metavar="FILE", help="PEM file of the client certificate.")] = None,
    key: Annotated[Path | None, typer.Option(metavar="FILE", help="PEM file of the private key of --cert.")] = None,
    crl: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File of the revocation list of --ca, for https masters.")
    ] = None,
    request_timeout: Annotated[
        float,
        duration_option("--request-timeout", least_s=0.1, most_s=3_600, default_s=REQUEST_TIMEOUT_S,
                        envvar="NODECTL_REQUEST_TIMEOUT",
                        help="Time limit of a request, its retries included."),
    ] = REQUEST_TIMEOUT_S,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:  # fmt: skip
    context.obj = Options(
        given=ClusterSettings(
            endpoints=endpoints,
            cluster=cluster,
            user=user,
            password_file=password_file,
            token_file=token_file,
            ca=ca,
            cert=cert,
            key=key,
            crl=crl,
        ),
        cluster_name=cluster_name,
        config=config,
        request_timeout_s=request_timeout,
    )
