"""`nodectl host`: begins a cluster on this PC, and lets further PCs join."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nodectl.cli.commands.hosts import changes, tokens
from nodectl.cli.commands.hosts.from_kit import continue_installed
from nodectl.cli.commands.hosts.options import (
    EtcdOption,
    HostdOption,
    HostOption,
    PortsOption,
    RootOption,
    ServicesOption,
    checked_hostd_options,
    checked_manager,
    checked_ports,
    default_services,
    find_etcd,
    host_name,
    progress_lines,
    run,
)
from nodectl.cli.settings import config_path
from nodectl.etcd_binary.running_kit import running_kit
from nodectl.terminal.output import Output
from nodestore.errors import Invalid

if TYPE_CHECKING:
    from hostd.setup.tokens import NewJoinToken

app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None,
    help="Make PCs a cluster: begin one, join it, list and remove PCs.",
)  # fmt: skip

_MEMBERS = (1, 3, 5)
changes.add_to(app)
app.add_typer(tokens.app, name="token")


@app.command("init")
def init(
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="Name of the cluster.")],
    address: Annotated[str, typer.Option("--address", metavar="IP", help="This PC's address, as others reach it.")],
    host: HostOption = None,
    members: Annotated[
        int, typer.Option("--members", metavar="N", help="Members of etcd once enough PCs joined: 1, 3 or 5.")
    ] = 3,
    etcd: EtcdOption = None,
    services: ServicesOption = "",
    ports: PortsOption = None,
    hostd_options: HostdOption = "",
    root: RootOption = None,
) -> None:  # fmt: skip
    """Make this PC the first one of a cluster, and print the command for the others.

    It makes the authorities that sign certificates, an etcd with one member, TLS and access control, and starts hostd,
    etcd, masterd and noded. Run it again after an interruption: it goes on.
    """
    from hostd.pc.layout import Layout
    from hostd.setup.init import InitWish
    from hostd.setup.init import init as begin
    from hostd.setup.preflight import checked_address
    from hostd.setup.steps import Steps

    if members not in _MEMBERS:
        raise Invalid(f"--members: {members} is not 1, 3 or 5")
    if root is None:
        continue_installed(Output())
    wish = InitWish(
        cluster=name, host=host_name(host), address=checked_address(address), etcd=find_etcd(etcd),
        manager=checked_manager(services or default_services()), ports=checked_ports(ports), members_wanted=members,
        hostd_options=checked_hostd_options(hostd_options),
    )  # fmt: skip
    out, layout, began = Output(), Layout.of(root), time.monotonic()
    token = run(begin(layout, wish, Steps(progress_lines(out))))
    out.took_effect()
    out.note(f"the cluster {name} runs after {time.monotonic() - began:.0f} s")
    _show_next(out, layout.client_config, token, wish.address, wish.ports.host)


def _show_next(out: Output, config: Path, token: NewJoinToken, address: str, port: int) -> None:
    from nodectl.terminal.format import local_time
    from nodestore.schema.host_models import HostPorts

    place = address if port == HostPorts().host else f"{address}:{port}"
    kit = running_kit() is not None
    where = "on each further PC, in the folder of the unpacked kit" if kit else "on each further PC"
    out.note(f"{where} (this token serves {token.uses} PCs until {local_time(token.ends)}):")
    out.write_line(f"{'./' if kit else ''}nodectl host join {place} --token {token.text}")
    found = config_path(os.environ) == config
    out.note(f"then, on this PC: nodectl {'' if found else f'--config {config} '}status")


@app.command("join")
def join(
    signer: Annotated[str, typer.Argument(metavar="ADDRESS", help="The PC of `nodectl host init`: IP or IP:PORT.")],
    token: Annotated[
        str | None, typer.Option("--token", metavar="TOKEN", help="The token; - reads it from stdin (default: asks).")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option("--token-from", metavar="FILE", help="File whose first line is the token.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option("--address", metavar="IP", help="This PC's address (default: the one towards ADDRESS)."),
    ] = None,
    host: HostOption = None,
    kind: Annotated[
        str,
        typer.Option("--kind", metavar="KIND", help="host: it may have a member of etcd. node: it runs noded only."),
    ] = "host",
    etcd: EtcdOption = None,
    services: ServicesOption = "",
    ports: PortsOption = None,
    hostd_options: HostdOption = "",
    root: RootOption = None,
) -> None:
    """Make this PC part of a cluster.

    Its keys are made on this PC; the signer checks the token and signs the certificates. Then hostd starts noded and,
    once three PCs have joined, a member of etcd and masterd. Run it again after an interruption: it goes on.
    """
    from hostd.pc.layout import Layout
    from hostd.setup.join import JoinWish, checked_join_token
    from hostd.setup.join import join as become_part
    from hostd.setup.preflight import checked_address
    from hostd.setup.steps import Steps

    if kind not in ("host", "node"):
        raise Invalid(f"--kind: {kind!r} is neither host nor node")
    given = token or "-"
    if given != "-":
        checked_join_token(given)  # before a kit is installed, which takes long
    if root is None:
        continue_installed(Output())
    wish = JoinWish(
        signer=signer, token=_token(token, token_file), host=host_name(host),
        address=None if address is None else checked_address(address), kind="host" if kind == "host" else "node",
        manager=checked_manager(services or default_services()), etcd=find_etcd(etcd) if kind == "host" else None,
        ports=checked_ports(ports), hostd_options=checked_hostd_options(hostd_options),
    )  # fmt: skip
    out, began = Output(), time.monotonic()
    actual = run(become_part(Layout.of(root), wish, Steps(progress_lines(out))))
    out.took_effect()
    out.note(f"{wish.host} has joined after {time.monotonic() - began:.0f} s")
    for problem in actual.problems:
        out.note(problem)


def _token(text: str | None, file: Path | None) -> str:
    """The token, from where it is given. Raises Invalid."""
    from nodestore.support.password_file import read_password

    if text is not None and file is not None:
        raise Invalid("give --token or --token-from, not both")
    if file is not None:
        return read_password(file)
    if text == "-":
        return sys.stdin.readline().strip()
    if text is None:
        return str(typer.prompt("Token", hide_input=True))
    return text
