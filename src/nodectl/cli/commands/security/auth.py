"""`nodectl auth`: switches access control on and off, and shows what this user may do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from nodectl.cli.confirmation import YesOption, confirm
from nodectl.cli.exit_codes import ExitCode
from nodectl.cli.session import with_client
from nodectl.terminal.output import Format, Output, OutputOption
from nodestore.errors import Invalid

if TYPE_CHECKING:
    from nodectl.client import Client
    from nodestore.schema.api_types import WhoAmI

app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None,
    help="Switch access control on and off; show what you may do.",
)  # fmt: skip

_VERBS = {
    "read": "GET /v1/status",
    "command": "POST /v1/commands",
    "reboot": "POST /v1/commands",
    "configure": "PUT /v1/config",
    "switchover": "POST /v1/leader/switchover",
    "pause": "PUT /v1/paused",
    "snapshot": "POST /v1/snapshots",
    "restore": "POST /v1/commands",
    "drill": "POST /v1/drill",
    "adopt": "PUT /v1/application",
    "token": "POST /v1/tokens",
    "access": "PUT /v1/access",
}
"""By verb: the request that it stands for."""
_COMMANDS = {"reboot": ("node.act", "reboot"), "restore": ("snapshot.restore", None)}
"""By verb: the command that it stands for, and that command's action."""


@app.command("enable")
def enable(context: typer.Context, yes: YesOption = False) -> None:
    """Switch access control on: requests to masters need a credential.

    It needs the credential of an admin, so that there is one afterwards, and TLS on every master. Create the first
    admin's token with endpoints of etcd: `nodectl token create NAME --role admin`, then `nodectl login`.
    """
    if not yes:
        confirm("requests without a credential will be refused from now on; go ahead?")
    _switch(context, on=True)


@app.command("disable")
def disable(context: typer.Context, yes: YesOption = False) -> None:
    """Switch access control off: each program that reaches a master can do everything.

    With endpoints of etcd it is written to etcd itself, which helps when no admin has a valid credential.
    """
    if not yes:
        confirm("each program that reaches a master can do everything from now on; go ahead?")
    _switch(context, on=False)


@app.command("can-i")
def can_i(
    context: typer.Context,
    verb: Annotated[str, typer.Argument(metavar="VERB", help=f"One of {', '.join(_VERBS)}.")],
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="With `command`: the command's name.")] = None,
    output: OutputOption = Format.table,
) -> None:
    """Say whether you may do something. Exit code 0: yes, 1: no."""
    if verb not in _VERBS:
        raise Invalid(f"{verb!r} is not one of {', '.join(_VERBS)}")
    if name is not None and verb != "command":
        raise Invalid(f"{verb} takes no NAME: only `command` does")
    command, action = _COMMANDS.get(verb, (name, None))

    async def work(client: Client) -> WhoAmI:
        return await client.whoami(command, action)

    found = with_client(context, work)
    may = _VERBS[verb] in found["may"] and found["refusal"] is None
    Output(output).show({"may": may, "refusal": found["refusal"]}, tables=list, names=lambda: ["yes" if may else "no"])
    if output is Format.table:
        Output(output).write_line("yes" if may else f"no{'' if found['refusal'] is None else ': ' + found['refusal']}")
    if not may:
        raise typer.Exit(ExitCode.FAILED)


def _switch(context: typer.Context, *, on: bool) -> None:
    async def work(client: Client) -> Any:
        return await client.access_control(on)

    with_client(context, work)
    Output().note(f"access control is {'on' if on else 'off'}")
