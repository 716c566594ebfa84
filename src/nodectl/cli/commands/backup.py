"""`nodectl backup`: saves all of etcd in a file, in case the majority of its members is lost."""

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
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to create. It must not exist.")],
    output: OutputOption = Format.table,
) -> None:
    """Save all data of etcd, history included, in a file for `etcdutl snapshot restore`.

    The cluster stays online. If etcd authentication is enabled, the root role is required. docs/recovery.md describes
    how to restore the file.
    """
    from dataclasses import asdict

    from nodectl.backup_restore.backup import save_backup

    out = Output(output)

    async def work(etcd: Etcd, keys: Keys) -> dict[str, Any]:
        with out.progress("copying etcd's database") as show:
            return asdict(await save_backup(etcd, keys, file, show))

    saved = with_etcd(context, work)
    out.took_effect()
    out.show(saved, tables=list, names=lambda: [str(file)])
    if output is Format.table:
        out.note(
            f"{file} saved: {saved['bytes'] / (1 << 20):.1f} MiB, epoch {saved['epoch']}, index {saved['index']}, "
            f"SHA-256 {saved['sha256']}"
        )
