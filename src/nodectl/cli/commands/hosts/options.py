"""Options that the commands of `nodectl host` share."""

from __future__ import annotations

import asyncio
import shutil
import socket
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from nodectl.cli.commands.hosts.from_kit import kit_etcd
from nodectl.terminal.output import Output
from nodestore.errors import Invalid, NodectlError, NotFound

if TYPE_CHECKING:
    from hostd.pc.host_file import ManagerKind
    from nodestore.schema.host_models import HostPorts

T = TypeVar("T")

RootOption = Annotated[
    Path | None,
    typer.Option(
        "--root", metavar="DIR", envvar="NODECTL_ROOT",
        help="Directory below which all files of this PC are (default: / ; Windows: C:\\ProgramData\\nodectl).",
    ),
]  # fmt: skip
HostOption = Annotated[
    str | None, typer.Option("--host", metavar="NAME", help="Name of this PC in the cluster (default: its host name).")
]
EtcdOption = Annotated[
    Path | None,
    typer.Option("--etcd", metavar="FILE", help="The etcd server (default: that of the kit, else the one in PATH)."),
]
ServicesOption = Annotated[
    str,
    typer.Option(
        "--services", metavar="KIND",
        help="What runs the services: systemd, nssm, or processes (no service manager, as in containers).",
    ),
]  # fmt: skip
PortsOption = Annotated[
    str | None,
    typer.Option(
        "--ports", metavar="CLIENT,PEER,API,HOST",
        help="The ports of etcd (clients, members), masterd and hostd (default: 2379,2380,8401,8403).",
    ),
]  # fmt: skip
HostdOption = Annotated[
    str,
    typer.Option(
        "--hostd-options", metavar="OPTIONS", envvar="NODECTL_HOSTD_OPTIONS", hidden=True,
        help="Further options of hostd on this PC, in one argument: '--tick=2s --settle=5s'.",
    ),
]  # fmt: skip
MANAGERS = ("systemd", "nssm", "processes")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run the work of a command. Its errors say what to do: the general hints are about clients of a cluster."""
    try:
        return asyncio.run(work)
    except NodectlError as error:
        error.hint = ""  # type: ignore[attr-defined]
        raise


def progress_lines(out: Output) -> Callable[[str], None]:
    """Shows each finished step on a line."""
    return lambda line: out.note(f"  {line}")


def default_services() -> str:
    """What runs services on this PC: NSSM on Windows, systemd where it is process 1, else plain processes."""
    if sys.platform == "win32":
        return "nssm"
    return "systemd" if Path("/run/systemd/system").is_dir() else "processes"


def checked_manager(text: str) -> ManagerKind:
    found: dict[str, ManagerKind] = {"systemd": "systemd", "nssm": "nssm", "processes": "processes"}
    if text not in found:
        raise Invalid(f"--services: {text!r} is not one of {', '.join(MANAGERS)}")
    return found[text]


def checked_ports(text: str | None) -> HostPorts:
    """The four ports. Raises Invalid."""
    from nodestore.schema.host_models import HostPorts

    if text is None:
        return HostPorts()
    try:
        client, peer, api, host = (int(part) for part in text.split(","))
    except ValueError:
        raise Invalid(f"--ports: {text!r} is not four numbers such as 2379,2380,8401,8403") from None
    numbers = (client, peer, api, host)
    if len(set(numbers)) < 4 or not all(0 < number < 65_536 for number in numbers):
        raise Invalid(f"--ports: {text!r}: four different numbers from 1 to 65535 are needed")
    return HostPorts(client=client, peer=peer, api=api, host=host)


def checked_hostd_options(text: str) -> tuple[str, ...]:
    """The options of hostd. Raises Invalid if hostd would not accept them."""
    from hostd.settings import parse

    options = tuple(text.split())
    try:
        parse(options, {})
    except SystemExit:
        raise Invalid(f"--hostd-options: hostd does not accept {text!r}") from None
    return options


def host_name(given: str | None) -> str:
    """The name of this PC: as given, or the first part of its host name in lower case. Raises Invalid."""
    from nodestore.schema.keys import check_name

    return check_name("host", given or socket.gethostname().partition(".")[0].lower())


def find_etcd(given: Path | None) -> Path:
    """The etcd server: as given, else that of the kit, else that in PATH. Raises NotFound if there is none."""
    given = given or kit_etcd()
    found = shutil.which(str(given) if given is not None else "etcd")
    if found is None:
        place = f"{given} cannot be run" if given is not None else "there is no program etcd in PATH"
        raise NotFound(f"{place}: give the path of etcd's server with --etcd")
    return Path(found).resolve()
