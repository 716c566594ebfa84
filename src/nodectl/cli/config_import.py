"""`nodectl config import`: makes the nodes of the inventory from a table, and applies it like `config apply`.

The new inventory is made from the current version, so the write names that version: if another operator applies one
in between, nothing is changed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nodectl.cli import config_apply
from nodectl.cli.arguments import WAIT_S, TimeoutOption
from nodectl.cli.config_apply import AdoptionWaitOption, SkipDriversOption, YesOption
from nodectl.cli.session import with_client
from nodectl.terminal.output import Format, Output, OutputOption
from nodestore.errors import Conflict, Invalid, Refused

if TYPE_CHECKING:
    from nodectl.inventory.file import InventoryFile
    from nodectl.inventory.tables.mapping import Mapping
    from nodectl.inventory.tables.table import SourceTable
    from nodestore.schema.api_types import ConfigSummary

_MASK = "***"


def import_table(
    context: typer.Context,
    source: Annotated[
        str | None,
        typer.Argument(metavar="FILE|URL", help="CSV file (- is stdin), or URL of a database without a password."),
    ] = None,
    *,
    mapping: Annotated[
        Path,
        typer.Option("--mapping", "-m", metavar="FILE", help="YAML file that says which column is which field."),
    ],
    encoding: Annotated[
        str | None,
        typer.Option("--encoding", metavar="NAME", help="Encoding of a CSV file that is not UTF-8, such as cp1252."),
    ] = None,
    url_file: Annotated[
        Path | None,
        typer.Option("--url-file", metavar="FILE", help="File with the URL of a database, which may have a password."),
    ] = None,
    keep_others: Annotated[
        bool, typer.Option("--keep-others", help="Keep the nodes that the table does not name.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the differences, and change nothing.")] = False,
    expect_version: Annotated[
        int | None,
        typer.Option(
            "--expect-version", min=0, metavar="N", help="Apply only if N is the current version (0: none was applied)."
        ),
    ] = None,
    yes: YesOption = False,
    skip_drivers: SkipDriversOption = False,
    wait: AdoptionWaitOption = False,
    timeout: TimeoutOption = WAIT_S,
    output: OutputOption = Format.table,
) -> None:
    """Make the nodes of the inventory from the rows of a table, show the changes, and apply it.

    The table sets the fields that the mapping names, and removes them where a cell is empty. Everything else stays as
    it is in the current version. Nodes that the table does not name are removed, unless --keep-others is given. All
    mistakes are listed, each with its row, before anything is applied. If another version is applied in the meantime,
    nothing is changed: exit code 4.
    """
    from nodectl.inventory.tables.mapping import load_mapping

    columns = load_mapping(mapping)
    table = _read(source, url_file, columns, encoding)
    out = Output(output)
    view = with_client(context, config_apply.fetch)
    loaded = _inventory(view, columns, table, keep_others=keep_others, drivers=not skip_drivers)
    _check_expected(view, expect_version)
    diff = _show_diff(out, view, loaded) if dry_run else None
    result = config_apply.apply_inventory(
        context, out, loaded, view=view, dry_run=dry_run, yes=yes, wait_s=timeout if wait else None
    )
    shown = result if diff is None else {**result, "diff": diff}
    out.show(shown, tables=list, names=lambda: [str(result["version"])])


def _read(source: str | None, url_file: Path | None, mapping: Mapping, encoding: str | None) -> SourceTable:
    if (source is None) == (url_file is None):
        raise Invalid("give a CSV file, the URL of a database, or --url-file")
    if url_file is None and source is not None and "://" not in source:
        from nodectl.inventory.tables.csv_table import read_csv

        return read_csv(Path(source), encoding)
    from nodectl.inventory.tables.sql_table import read_sql, read_url

    if url_file is not None:
        return read_sql(read_url(url_file), mapping, is_argument=False)
    return read_sql(source or "", mapping, is_argument=True)


def _inventory(
    view: ConfigSummary, mapping: Mapping, table: SourceTable, *, keep_others: bool, drivers: bool
) -> InventoryFile:
    from nodectl.inventory.tables.build import inventory_of

    if view.get("problem"):
        config_apply.current_text(view)  # raises, with what to do
    current = view["current"]
    inventory = current["inventory"] if current else None
    if _has_mask(inventory):
        raise Refused(
            f"the current configuration has fields that are shown as {_MASK}, because you may not see secrets: "
            "use the credential of a maintainer, so that no secret is replaced"
        )
    return inventory_of(mapping, table, inventory, keep_others=keep_others, drivers=drivers)


def _has_mask(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_has_mask(item) for item in value.values())
    if isinstance(value, list | tuple):
        return any(_has_mask(item) for item in value)
    return isinstance(value, str) and _MASK in value


def _check_expected(view: ConfigSummary, expected: int | None) -> None:
    version = int(view["current"]["version"]) if view["current"] else view.get("version", 0)
    if expected is not None and expected != version:
        raise Conflict(f"version {version} is current, not {expected}: nothing was changed")


def _show_diff(out: Output, view: ConfigSummary, loaded: InventoryFile) -> list[str]:
    from nodectl.inventory.diff import diff_lines

    current = view["current"]
    old, name = (current["inventory"], f"version {current['version']}") if current else (None, "(nothing)")
    lines = diff_lines(old, loaded.data, old_name=name, new_name=loaded.name)
    if out.form is Format.table:
        out.diff(lines)
    return lines
