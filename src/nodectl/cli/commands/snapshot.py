"""`nodectl snapshot`: saves, shows and restores snapshots of all documents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from nodectl.cli import completion
from nodectl.cli.arguments import WAIT_S, TimeoutOption, WaitOption
from nodectl.cli.sending import send
from nodectl.cli.session import with_client
from nodectl.terminal.output import Format, Output, OutputOption, Table
from nodestore.errors import Invalid

if TYPE_CHECKING:
    from nodectl.client import Client

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Save, list, show, restore and delete snapshots of all documents.",
)

SnapshotNameArgument = Annotated[
    str, typer.Argument(metavar="SNAPSHOT", help="Name of the snapshot.", autocompletion=completion.snapshots)
]


@app.command("list")
def list_snapshots(context: typer.Context, output: OutputOption = Format.table) -> None:
    """List the snapshots, newest first.

    Snapshots without a name are created and deleted by the master itself.
    """

    async def work(client: Client) -> Any:
        return await client.snapshots()

    found = with_client(context, work, mask_secrets=output is Format.table)

    def tables() -> list[Table]:
        from nodectl.terminal.format import local_time

        table = Table(("NAME", "INDEX", "TIME", "DOCUMENTS", "BYTES", "SNAPSHOT"))
        for item in found:
            table.add(
                item["name"] or "", str(item["index"]), local_time(item["time"]), str(item["documents"]),
                str(item["bytes"]), item["snapshot"],
            )  # fmt: skip
        return [table]

    Output(output).show(found, tables=tables, names=lambda: [item["name"] or item["snapshot"] for item in found])


@app.command("save")
def save(context: typer.Context, name: SnapshotNameArgument, output: OutputOption = Format.table) -> None:
    """Save the current documents under a name.

    The snapshot is kept until it is deleted.
    """

    async def work(client: Client) -> Any:
        return await client.snapshot_save(name)

    done = with_client(context, work)
    out = Output(output)
    out.took_effect()
    if output is Format.table:
        out.note(f"{name} saved: {done['documents']} documents, as of index {done['index']}")
        return
    out.show(done, tables=list, names=lambda: [name])


@app.command("show")
def show(context: typer.Context, name: SnapshotNameArgument, output: OutputOption = Format.table) -> None:
    """Show the documents of a snapshot."""

    async def work(client: Client) -> Any:
        return await client.snapshot(name)

    found = with_client(context, work, mask_secrets=output is Format.table)

    def tables() -> list[Table]:
        from nodectl.terminal.format import inline

        table = Table(("PATH", "DOCUMENT"))
        for path, document in sorted(found["documents"].items()):
            table.add(path, inline(document))
        return [table]

    Output(output).show(found, tables=tables, names=lambda: sorted(found["documents"]))


@app.command("restore")
def restore(
    context: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(metavar="SNAPSHOT", help="Name of the snapshot.", autocompletion=completion.snapshots),
    ] = None,
    index: Annotated[
        int | None,
        typer.Option(min=1, metavar="INDEX", help="Restore the state after the command with this index instead."),
    ] = None,
    wait: WaitOption = False,
    timeout: TimeoutOption = WAIT_S,
    output: OutputOption = Format.table,
) -> None:
    """Restore all documents from a snapshot or an index.

    The index must still be retained. The configuration is not changed. The restore is a command with an index of its
    own; to undo it, restore the index before it.
    """
    if (name is None) == (index is None):
        raise Invalid("give either the name of a snapshot or --index")
    what = name or f"the state of index {index}"
    send(
        context, output, lambda client: client.snapshot_restore(name, index=index), f"{what} restored",
        name=what, nodes=(lambda _: None) if wait else None, timeout_s=timeout,
    )  # fmt: skip


@app.command("delete")
def delete(context: typer.Context, name: SnapshotNameArgument, output: OutputOption = Format.table) -> None:
    """Delete a named snapshot."""

    async def work(client: Client) -> None:
        await client.snapshot_delete(name)

    with_client(context, work)
    Output(output).note(f"{name} deleted")
