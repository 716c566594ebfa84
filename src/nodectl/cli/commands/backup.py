"""`nodectl backup`: the whole store in a file, for the day when most of etcd's members are lost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nodectl.cli.session import with_etcd
from nodectl.terminal.output import Format, Output, OutputOption

if TYPE_CHECKING:
    from nodestore.etcd.session import Etcd
    from nodestore.schema.keys import Keys

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def backup(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to; it must not exist yet.")],
    output: OutputOption = Format.table,
) -> None:
    """Save the whole store, history included, into a file that `etcdutl snapshot restore` takes.

    Everything goes on meanwhile. Where etcd has users, it asks for root's. To restore it see docs/recovery.md.
    """
    from dataclasses import asdict

    from nodectl.backup_restore.backup import save_backup

    out = Output(output)

    async def work(etcd: Etcd, keys: Keys) -> dict[str, Any]:
        with out.progress("copying the store") as show:
            return asdict(await save_backup(etcd, keys, file, show))

    saved = with_etcd(context, work)
    out.show(saved, tables=list, names=lambda: [str(file)])
    if output is Format.table:
        out.note(
            f"{file} saved: {saved['bytes'] / (1 << 20):.1f} MiB, epoch {saved['epoch']}, index {saved['index']}, "
            f"SHA-256 {saved['sha256']}"
        )
