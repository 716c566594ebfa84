"""`nodectl config`: checks, compares, applies and rolls back the inventory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nodectl.cli import config_apply, config_import
from nodectl.cli.arguments import WAIT_S, TimeoutOption
from nodectl.cli.config_apply import AdoptionWaitOption, FileArgument, SkipDriversOption, YesOption
from nodectl.cli.session import with_client
from nodectl.terminal.output import Format, Output, OutputOption, Table
from nodestore.errors import NotFound

if TYPE_CHECKING:
    from nodectl.client import Client
    from nodestore.schema.api_types import ConfigRecord, ConfigSummary, UnreadableConfig

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Check, compare, edit and apply the inventory.",
)

_HISTORY_MAX = 1_000


@app.command("validate")
def validate(file: FileArgument, skip_drivers: SkipDriversOption = False, output: OutputOption = Format.table) -> None:
    """Check an inventory file and list its mistakes by line.

    This needs no cluster. The settings of drivers are checked if the drivers are installed on this PC.
    """
    from nodectl.inventory.file import load_inventory

    loaded = load_inventory(file, drivers=not skip_drivers)
    out = Output(output)
    for warning in loaded.warnings:
        out.warn(warning)
    counts = {name: len(getattr(loaded.inventory, name)) for name in ("masters", "nodes", "groups")}
    data = {"valid": True, **counts, "warnings": list(loaded.warnings)}
    out.show(data, tables=list, names=lambda: [str(file)])
    if output is Format.table:
        out.note(f"{loaded.name} is valid: " + ", ".join(f"{count} {name}" for name, count in counts.items()))


@app.command("show")
def show(
    context: typer.Context,
    version: Annotated[
        int | None, typer.Option("--version", min=1, metavar="N", help="Show this version instead of the current one.")
    ] = None,
    output: OutputOption = Format.table,
) -> None:
    """Show the configuration that was applied last, comments included.

    Its first line names the version, so that `nodectl config apply` refuses a file that was made from an older one.
    -o json also shows which version is in force, and why a version was rejected.
    """
    out = Output(output)
    if version is not None:
        _show_version(out, _find_version(with_client(context, _fetch_history), version))
        return
    view = with_client(context, _fetch)
    current = view["current"]
    if output is not Format.table:
        out.show(view, tables=list, names=lambda: [str(current["version"])] if current else [])
        return
    text = config_apply.current_text(view)
    assert current is not None
    _note_version(out, current)
    _print_adoption(out, view)
    out.write(text)


def _show_version(out: Output, record: ConfigRecord) -> None:
    if out.form is not Format.table:
        out.show(record, tables=list, names=lambda: [str(record["version"])])
        return
    _note_version(out, record)
    out.write(config_apply.text_of(record))


def _note_version(out: Output, record: ConfigRecord) -> None:
    from nodectl.terminal.format import local_time

    out.note(f"version {record['version']}, applied by {record['actor']} on {local_time(record['time'])}")


async def _fetch(client: Client) -> ConfigSummary:
    return await client.config()


async def _fetch_history(client: Client) -> list[ConfigRecord | UnreadableConfig]:
    return await client.config_history(limit=_HISTORY_MAX)


async def _fetch_current_and_history(
    client: Client,
) -> tuple[ConfigRecord | None, list[ConfigRecord | UnreadableConfig]]:
    return (await _fetch(client))["current"], await _fetch_history(client)


def _find_version(records: Sequence[ConfigRecord | UnreadableConfig], version: int) -> ConfigRecord:
    """The record of a version. Raises NotFound."""
    for record in records:
        if record.get("version") == version and "problem" not in record:
            return dict(record)
    raise NotFound(f"there is no configuration version {version}: see `nodectl config history`")


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
    new: Annotated[str, typer.Argument(metavar="FILE|VERSION", help="A file (- is stdin), or a version such as 7.")],
    newer: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE|VERSION", help="Compare the first one with this one (default: the current version with it)."
        ),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Exit with code 1 if there are differences.")] = False,
    output: OutputOption = Format.table,
) -> None:
    """Show what applying a file, or an earlier version, would change; or how two of them differ.

    Comments and the order of keys are ignored.
    """
    from nodectl.inventory.diff import diff_lines, summary_lines

    out = Output(output)
    history = cache(lambda: with_client(context, _fetch_history))  # of two versions, both are in one answer
    if newer is None:
        after = _side(history, new)
        view = with_client(context, _fetch)
        current = view["current"]
        before = (current["inventory"], f"version {current['version']}") if current else (None, "(nothing)")
        if output is Format.table and current:
            _print_adoption(out, view)
    else:
        before, after = _side(history, new), _side(history, newer)
    lines = diff_lines(before[0], after[0], old_name=before[1], new_name=after[1])
    changes = summary_lines(before[0], after[0])
    if output is Format.table:
        out.diff(lines)
        out.note(f"{len(changes)} changes" if lines else "no differences")
    else:
        out.show({"changed": bool(lines), "changes": changes, "diff": lines}, tables=list, names=lambda: changes)
    if check and lines:
        raise typer.Exit(1)


def _side(history: Callable[[], Sequence[ConfigRecord | UnreadableConfig]], text: str) -> tuple[dict[str, Any], str]:
    """The inventory that an argument of `diff` names, and how to call it."""
    if text.isascii() and text.isdigit():
        return _find_version(history(), int(text))["inventory"], f"version {text}"
    from nodectl.inventory.file import load_inventory

    loaded = load_inventory(Path(text), drivers=False)
    return loaded.data, loaded.name


app.command("apply")(config_apply.apply)
app.command("edit")(config_apply.edit)
app.command("import")(config_import.import_table)


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
    yes: YesOption = False,
    wait: AdoptionWaitOption = False,
    timeout: TimeoutOption = WAIT_S,
    output: OutputOption = Format.table,
) -> None:
    """Apply an earlier version again, as a new version.

    nodectl asks for confirmation if this removes more than a third of the nodes.
    """
    out = Output(output)
    if not yes:
        current, records = with_client(context, _fetch_current_and_history)
        record = _find_version(records, version)
        config_apply.confirm_removal(current["inventory"] if current else None, record["inventory"], yes)

    async def work(client: Client) -> dict[str, Any]:
        new_version = await client.config_rollback(version)
        out.took_effect()
        if wait:
            await config_apply.wait_for_effect(client, new_version, timeout, out)
        return {"version": new_version, "rolled_back_to": version}

    done = with_client(context, work)
    out.show(done, tables=list, names=lambda: [str(done["version"])])
    if output is Format.table:
        out.note(f"version {version} applied again as version {done['version']}")
