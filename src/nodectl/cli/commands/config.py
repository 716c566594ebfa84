"""`nodectl config`: checks, compares, applies and rolls back the inventory."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nodectl.cli.arguments import WAIT_S, TimeoutOption
from nodectl.cli.sending import wait_for_nodes
from nodectl.cli.session import wait_until, with_client
from nodectl.terminal.output import Format, Output, OutputOption, Table
from nodestore.errors import Conflict, Garbage, NotFound, Refused

if TYPE_CHECKING:
    from nodectl.client import Client
    from nodestore.schema.api_types import ConfigRecord, ConfigSummary, UnreadableConfig

app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None, help="Check, compare and apply the inventory."
)

AdoptionWaitOption = Annotated[
    bool,
    typer.Option(
        "--wait",
        help="Wait until the leader has adopted the version, and the connected nodes are in their desired state.",
    ),
]
FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="Inventory file in YAML.")]


@app.command("validate")
def validate(file: FileArgument, output: OutputOption = Format.table) -> None:
    """Check an inventory file and list its mistakes by line.

    This needs no cluster.
    """
    from nodectl.inventory.file import load_inventory

    loaded = load_inventory(file)
    out = Output(output)
    counts = {name: len(getattr(loaded.inventory, name)) for name in ("masters", "nodes", "groups")}
    out.show({"valid": True, **counts}, tables=list, names=lambda: [str(file)])
    if output is Format.table:
        out.note(f"{file} is valid: " + ", ".join(f"{count} {name}" for name, count in counts.items()))


@app.command("show")
def show(context: typer.Context, output: OutputOption = Format.table) -> None:
    """Show the configuration that was applied last, comments included.

    -o json also shows which version is in force, and why a version was rejected.
    """
    out = Output(output)

    async def work(client: Client) -> ConfigSummary:
        return await client.config()

    view = with_client(context, work)
    current = view["current"]
    if output is not Format.table:
        out.show(view, tables=list, names=lambda: [str(current["version"])] if current else [])
        return
    if current is None and (problem := view.get("problem")):
        raise Garbage(
            f"{problem}; the adopted version stays in force: "
            "apply a file again, or run `nodectl config rollback VERSION`"
        )
    if current is None:
        raise NotFound("no configuration has been applied yet: run `nodectl config apply FILE`")
    from nodectl.terminal.format import local_time
    from nodectl.terminal.output import as_yaml

    out.note(f"version {current['version']}, applied by {current['actor']} on {local_time(current['time'])}")
    _print_adoption(out, view)
    out.write(current.get("source") or as_yaml(current["inventory"]))


def _print_adoption(out: Output, view: ConfigSummary) -> None:
    current, adopted, rejected = view["current"], view["adopted"], view["rejected"]
    if rejected is not None and current is not None and rejected["version"] == current["version"]:
        out.warn(f"version {rejected['version']} is not in force: the leader rejected it: {rejected['error']}")
    elif adopted is None:
        out.warn("the configuration is not in force: no leader has adopted it yet")
    elif current is not None and adopted["version"] != current["version"]:
        out.warn(f"version {adopted['version']} is in force; version {current['version']} is not adopted yet")


@app.command("diff")
def diff(
    context: typer.Context,
    file: FileArgument,
    check: Annotated[bool, typer.Option("--check", help="Exit with code 1 if there are differences.")] = False,
    output: OutputOption = Format.table,
) -> None:
    """Show what applying a file would change.

    Comments and the order of keys are ignored.
    """
    from nodectl.inventory.diff import diff_lines, summary_lines
    from nodectl.inventory.file import load_inventory

    loaded = load_inventory(file)
    out = Output(output)

    async def work(client: Client) -> ConfigSummary:
        return await client.config()

    view = with_client(context, work)
    current = view["current"]
    old = current["inventory"] if current else None
    lines = diff_lines(old, loaded.data, old_name=_version_name(current), new_name=str(file))
    changes = summary_lines(old, loaded.data)
    if output is Format.table:
        _print_adoption(out, view) if current else None
        out.diff(lines)
        out.note(f"{len(changes)} changes" if lines else "no differences")
    else:
        out.show({"changed": bool(lines), "changes": changes, "diff": lines}, tables=list, names=lambda: changes)
    if check and lines:
        raise typer.Exit(1)


def _version_name(current: dict[str, Any] | None) -> str:
    return f"version {current['version']}" if current else "(nothing)"


@app.command("apply")
def apply(
    context: typer.Context,
    file: FileArgument,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")] = False,
    expect_version: Annotated[
        int | None,
        typer.Option(
            "--expect-version", min=0, metavar="N", help="Apply only if N is the current version (0: none was applied)."
        ),
    ] = None,
    wait: AdoptionWaitOption = False,
    timeout: TimeoutOption = WAIT_S,
    output: OutputOption = Format.table,
) -> None:
    """Check an inventory file, show the changes, and apply it.

    If another version was applied in the meantime, nothing is changed: exit code 4.
    """
    from nodectl.inventory.diff import diff_lines, summary_lines
    from nodectl.inventory.file import load_inventory

    loaded = load_inventory(file)
    out = Output(output)

    async def work(client: Client) -> dict[str, Any]:
        view = await client.config()
        current = view["current"]
        version = current["version"] if current else view.get("version", 0)
        if problem := view.get("problem"):
            out.warn(f"this replaces the last version, which is unreadable: {problem}")
        if expect_version is not None and version != expect_version:
            raise Conflict(f"version {version} is current, not {expect_version}: check `nodectl config diff {file}`")
        old = current["inventory"] if current else None
        changes = summary_lines(old, loaded.data)
        same = current is not None and not diff_lines(old, loaded.data, old_name="", new_name="")
        for change in changes:
            out.note(f"  {change}")
        if dry_run or (same and current is not None and current.get("source") == loaded.source):
            out.note("--dry-run: nothing was changed" if dry_run else f"nothing to do: version {version} is the same")
        else:
            version = await client.config_apply(loaded.data, source=loaded.source, expect_version=version)
            out.note(f"version {version} applied")
        if wait and not dry_run:
            await _wait_for_effect(client, version, timeout, out)
        return {"version": version, "changes": changes, "applied": not dry_run}

    result = with_client(context, work)
    out.show(result, tables=list, names=lambda: [str(result["version"])])


async def _wait_for_effect(client: Client, version: int, timeout_s: float, out: Output) -> None:
    """Wait until `version` is adopted and the nodes are in their desired state, for `timeout_s` seconds together.

    A node without a connected noded is not waited for: an inventory may name PCs that are off or not yet installed.
    """
    deadline = time.monotonic() + timeout_s
    await wait_for_adoption(client, version, timeout_s, out)
    views = await client.nodes()
    if absent := [view["name"] for view in views if view["alive"] is None]:
        out.warn(f"not waited for, because no noded is connected: {', '.join(absent)}")
    connected = [view["name"] for view in views if view["alive"] is not None]
    await wait_for_nodes(client, connected, max(0.0, deadline - time.monotonic()), out)


async def wait_for_adoption(client: Client, version: int, timeout_s: float, out: Output) -> None:
    """Wait until the leader has adopted `version` or a later one.

    Raises Refused if the leader rejects `version`, TimedOut after `timeout_s` seconds.
    """

    async def missing() -> str | None:
        view = await client.config()
        rejected, adopted = view["rejected"], view["adopted"]
        if rejected is not None and rejected["version"] == version:
            raise Refused(f"the leader rejected version {version}: {rejected['error']}; the adopted one stays in force")
        if adopted is None:
            return "no leader has adopted a configuration"
        return None if adopted["version"] >= version else f"version {adopted['version']} is still in force"

    await wait_until(missing, f"version {version} is adopted", timeout_s, out)


@app.command("history")
def history(context: typer.Context, output: OutputOption = Format.table) -> None:
    """List the versions of the configuration, newest first."""

    async def work(client: Client) -> list[ConfigRecord | UnreadableConfig]:
        return await client.config_history()

    found = with_client(context, work)

    def tables() -> list[Table]:
        from nodectl.terminal.format import local_time

        table = Table(("VERSION", "TIME", "ACTOR", "NODES", "MASTERS"))
        records: Sequence[Mapping[str, Any]] = found  # an unreadable one has only `problem`
        for record in records:
            inventory = record.get("inventory") or {}
            table.add(
                str(record.get("version") or "?"), local_time(record.get("time") or 0), str(record.get("actor") or ""),
                str(len(inventory.get("nodes") or {})), str(len(inventory.get("masters") or {})),
            )  # fmt: skip
        return [table]

    Output(output).show(found, tables=tables, names=lambda: [str(record.get("version")) for record in found])


@app.command("rollback")
def rollback(
    context: typer.Context,
    version: Annotated[
        int, typer.Argument(min=1, metavar="VERSION", help="A version that `nodectl config history` lists.")
    ],
    wait: AdoptionWaitOption = False,
    timeout: TimeoutOption = WAIT_S,
    output: OutputOption = Format.table,
) -> None:
    """Apply an earlier version again, as a new version."""
    out = Output(output)

    async def work(client: Client) -> dict[str, Any]:
        new_version = await client.config_rollback(version)
        if wait:
            await _wait_for_effect(client, new_version, timeout, out)
        return {"version": new_version, "rolled_back_to": version}

    done = with_client(context, work)
    out.show(done, tables=list, names=lambda: [str(done["version"])])
    if output is Format.table:
        out.note(f"version {version} applied again as version {done['version']}")
