"""`nodectl host list`, `show`, `drain`, `undrain`, `remove`, `replace`, `leave` and `uninstall`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from nodectl.cli.commands.hosts.options import RootOption, progress_lines, run
from nodectl.cli.confirmation import YesOption, confirm
from nodectl.terminal.output import Cell, Format, Output, OutputOption, Table
from nodestore.errors import Invalid, TimedOut

if TYPE_CHECKING:
    from hostd.setup.listing import HostSummary
    from nodestore.etcd.session import Etcd
    from nodestore.schema.host_models import HostState
    from nodestore.schema.keys import Keys

T = TypeVar("T")

NameArgument = Annotated[str, typer.Argument(metavar="PC", help="The PC's name, as `nodectl host list` shows it.")]
PurgeOption = Annotated[bool, typer.Option("--purge", help="Remove data and logs too.")]
_WAIT_S = 120.0


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("list")(list_hosts)
    app.command("show")(show)
    app.command("drain")(drain)
    app.command("undrain")(undrain)
    app.command("remove")(remove)
    app.command("replace")(replace)
    app.command("leave")(leave)
    app.command("uninstall")(uninstall)


def list_hosts(root: RootOption = None, output: OutputOption = Format.table) -> None:
    """List the PCs of the cluster: which is a member, what runs, what is wrong. On a signer."""
    from hostd.setup.listing import host_views

    found = on_signer(root, lambda etcd, keys: host_views(etcd, keys))
    Output(output).show(found, tables=lambda: [_table(found)], names=lambda: [item["name"] for item in found])


def show(name: NameArgument, root: RootOption = None, output: OutputOption = Format.table) -> None:
    """Show one PC with its services. On a signer."""
    from hostd.setup.listing import host_view

    found = on_signer(root, lambda etcd, keys: host_view(etcd, keys, name))
    Output(output).show(found, tables=lambda: _details(found), names=lambda: [found["name"]])


def drain(name: NameArgument, root: RootOption = None) -> None:
    """Take masterd from a PC before a repair: it hands over. Its member of etcd and its noded go on. On a signer."""
    _set_state(root, name, "drained")
    Output().note(f"{name} is drained: its masterd hands over and stops; `nodectl host undrain {name}` ends that")


def undrain(name: NameArgument, root: RootOption = None) -> None:
    """End the drain of a PC. On a signer."""
    _set_state(root, name, "in_service")
    Output().note(f"{name} is in service")


def remove(name: NameArgument, yes: YesOption = False, root: RootOption = None) -> None:
    """Remove a PC from the cluster, dead or alive: its member, its users in etcd, its certificates. On a signer.

    If it runs, it stops its services. Run it again after an interruption: it goes on.
    """
    if not yes:
        confirm(f"Remove {name} from the cluster? It must join anew to come back.")
    _set_state(root, name, "leaving")
    _wait_until_left(root, name)


def replace(
    old: Annotated[str, typer.Argument(metavar="OLD", help="The PC that leaves, dead or alive.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="The PC that takes over its member; it has joined.")],
    yes: YesOption = False,
    root: RootOption = None,
) -> None:
    """Move the member of a PC to another PC, and remove the PC from the cluster. On a signer."""
    from hostd.placement.changes import replace_host

    if old == new:
        raise Invalid("OLD and NEW are the same PC")
    if not yes:
        confirm(f"Remove {old} from the cluster, and have {new} take over its member of etcd?")
    on_signer(root, lambda etcd, keys: replace_host(etcd, keys, old, new))
    _wait_until_left(root, old)


def leave(yes: YesOption = False, purge: PurgeOption = False, root: RootOption = None) -> None:
    """Have this PC leave its cluster, and remove from it what `host join` has put there."""
    from hostd.pc.layout import Layout
    from hostd.setup.leave import leave as leave_now

    if not yes:
        confirm("Leave the cluster? The services of this PC stop.")
    out = Output()
    run(leave_now(Layout.of(root), progress_lines(out), purge=purge))
    out.took_effect()
    out.note("this PC belongs to no cluster any more")


def uninstall(yes: YesOption = False, purge: PurgeOption = False, root: RootOption = None) -> None:
    """Remove services, keys and settings from this PC. The cluster is not asked: to leave it, use `host leave` before.

    On the first PC this removes the keys of the authorities, which exist nowhere else.
    """
    from hostd.pc.layout import Layout
    from hostd.setup.uninstall import uninstall as uninstall_now

    layout, out = Layout.of(root), Output()
    if not yes:
        keys = ", and the only keys of the authorities" if layout.pki.is_dir() else ""
        confirm(f"Remove the services, keys and settings below {layout.etc}{keys}?")
    found = run(uninstall_now(layout, progress_lines(out), purge=purge))
    out.took_effect()
    out.note("nothing of nodectl is left on this PC" if found and purge else "done" if found else "there was nothing")


# --- shared ---------------------------------------------------------------------------------------------------------


def on_signer(root: Path | None, work: Callable[[Etcd, Keys], Awaitable[T]]) -> T:
    """Run `work` with a session of this signer. Raises Denied if this PC is none."""
    from hostd.pc.layout import Layout
    from hostd.setup.local import signer_session

    async def session() -> T:
        async with signer_session(Layout.of(root)) as (_, etcd, keys):
            return await work(etcd, keys)

    return run(session())


def _set_state(root: Path | None, name: str, state: HostState) -> None:
    from hostd.placement.changes import set_state

    on_signer(root, lambda etcd, keys: set_state(etcd, keys, name, state))


def _wait_until_left(root: Path | None, name: str) -> None:
    from hostd.placement.changes import wait_until_left

    out = Output()
    out.took_effect()
    try:
        with out.progress(f"waiting until {name} has left") as step:
            on_signer(root, lambda etcd, keys: wait_until_left(etcd, keys, name, _WAIT_S, step))
    except TimedOut as error:
        raise TimedOut(f"{error}. The removal goes on: look again with `nodectl host list`") from None
    out.note(f"{name} has left the cluster")


def _table(found: list[HostSummary]) -> Table:
    from nodectl.terminal.format import local_time

    table = Table(
        ("PC", "ADDRESS", "STATE", "MEMBER", "MASTERD", "NODED", "VERSION", "CERTIFICATES", "PROBLEM"),
        optional=("CERTIFICATES", "VERSION", "ADDRESS"),
    )
    for item in found:
        ends = item["certificate_ends"]
        table.add(
            item["name"], item["address"], item["state"].replace("_", " "), item["member"] or "-",
            _service(item, "nodectl-masterd"), _service(item, "nodectl-noded"), item["version"] or "-",
            "-" if ends is None else f"until {local_time(ends)}", "; ".join(item["problems"]),
        )  # fmt: skip
    return table


def _service(item: HostSummary, name: str) -> Cell:
    state = item["services"].get(name, "-" if item["shows"] else "unknown")
    return Cell(state, {"running": "green", "failed": "red", "unknown": "yellow"}.get(state, ""))


def _details(item: HostSummary) -> list[Table]:
    services = Table(("SERVICE", "STATE"))
    for name, state in sorted(item["services"].items()):
        services.add(name, Cell(state, {"running": "green", "failed": "red"}.get(state, "")))
    return [_table([item]), services]
