"""`nodectl etcd`: generates the configuration files of etcd members, and sets the rights in etcd."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from nodectl.cli.commands.security import etcd_auth
from nodectl.etcd_setup.config_file import CLIENT_PORT, DATA_ROOT, PEER_PORT, TOKEN, MemberPlan
from nodectl.etcd_setup.members import parse_members, warnings
from nodectl.etcd_setup.text_file import write_text
from nodectl.terminal.output import Format, Output, OutputOption
from nodestore.errors import Invalid

app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None,
    help="Generate the configuration files of etcd members; set the rights in etcd.",
)  # fmt: skip
app.add_typer(etcd_auth.app, name="auth")


@app.callback()
def etcd() -> None:
    """Generate the configuration files of etcd members; set the rights in etcd."""


@app.command("config")
def config(
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="Member for which to generate the file.")],
    member: Annotated[
        list[str],
        typer.Option(
            "--member", metavar="NAME=ADDRESS", help="Name and address of a member. Repeat it for each member, 1 to 7."
        ),
    ],
    cluster_token: Annotated[
        str,
        typer.Option(
            "--cluster-token",
            metavar="TOKEN",
            help="The same for all members of an etcd cluster, and different for each cluster.",
        ),
    ] = TOKEN,
    data_dir: Annotated[
        str | None,
        typer.Option(
            "--data-dir", metavar="DIR", help=f"Where the member keeps its data (default: {DATA_ROOT}/TOKEN)."
        ),
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option(
            "--listen", metavar="IP", help="Address to listen on (default: the member's); 0.0.0.0 means all interfaces."
        ),
    ] = None,
    client_port: Annotated[
        int,
        typer.Option(
            "--client-port", min=1, max=65535, metavar="PORT", help="Port for clients: masterd, noded and nodectl."
        ),
    ] = CLIENT_PORT,
    peer_port: Annotated[
        int, typer.Option("--peer-port", min=1, max=65535, metavar="PORT", help="Port for the other members.")
    ] = PEER_PORT,
    tls_dir: Annotated[
        str | None,
        typer.Option("--tls-dir", metavar="DIR", help="Use TLS; DIR holds ca.crt, NAME.crt and NAME.key."),
    ] = None,
    peer_certs: Annotated[
        bool,
        typer.Option(
            "--peer-certs",
            help="Among themselves the members use peer-ca.crt, NAME-peer.crt and NAME-peer.key of DIR, which "
            "`nodectl pki issue etcd:NAME` makes.",
        ),
    ] = False,
    existing: Annotated[
        bool, typer.Option("--existing", help="The member joins a running cluster, as a new member or a replacement.")
    ] = False,
    environment: Annotated[
        bool,
        typer.Option(
            "--environment",
            help="Print variables instead, for EnvironmentFile= of systemd. With --peer-certs they name the "
            "revocation lists too, which etcd does not read from a configuration file.",
        ),
    ] = False,
    file: Annotated[
        Path | None,
        typer.Option("--file", metavar="FILE", help="Write to FILE, atomically, instead of stdout."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it has different content.")] = False,
    output: OutputOption = Format.table,
) -> None:
    """Print the commented YAML configuration file of one etcd member.

    Run it once for each member, with the same --member options and another --name. etcd/README.md says how to install
    the file. -o json and -o yaml print the settings without comments.
    """
    members = parse_members(member)
    plan = MemberPlan(
        name, members, cluster_token, data_dir, listen, client_port, peer_port, tls_dir, existing, peer_certs
    )
    text, out = plan.render_environment() if environment else plan.render(), Output(output)
    for warning in warnings(members):
        out.warn(warning)
    if file is not None:
        changed = write_text(file, text, force=force)
        out.took_effect()
        out.note(f"{file} written: member {name} of {len(members)}" if changed else f"{file} is up to date")
    elif force:
        raise Invalid("--force needs --file")
    if out.form is Format.table:
        out.write(text if file is None else "")
    else:
        settings = plan.environment() if environment else _settings(text)
        out.show(settings, tables=list, names=lambda: [name if file is None else str(file)])


def _settings(text: str) -> Any:
    """The settings of a configuration file, without its comments."""
    import yaml

    return yaml.safe_load(text)
