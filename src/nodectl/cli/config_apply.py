"""`nodectl config apply` and `config edit`: check an inventory, show the changes, ask, and apply it.

Between the check and the write another operator may apply a version. So the write names the version that the changes
were compared with, and the file may name the version that it was made from.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nodectl.cli.arguments import WAIT_S, TimeoutOption
from nodectl.cli.confirmation import confirm
from nodectl.cli.sending import wait_for_nodes
from nodectl.cli.session import wait_until, with_client
from nodectl.terminal.output import Format, Output, OutputOption
from nodestore.errors import Conflict, Garbage, Invalid, NodectlError, NotFound, Refused

if TYPE_CHECKING:
    from nodectl.client import Client
    from nodectl.inventory.file import InventoryFile
    from nodestore.schema.api_types import ConfigSummary

AdoptionWaitOption = Annotated[
    bool,
    typer.Option(
        "--wait",
        help="Wait until the leader has adopted the version, and the connected nodes are in their desired state.",
    ),
]
FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="Inventory file in YAML; - is stdin.")]
YesOption = Annotated[
    bool, typer.Option("--yes", "-y", help="Do not ask for confirmation if more than a third of the nodes is removed.")
]
SkipDriversOption = Annotated[
    bool,
    typer.Option(
        "--skip-driver-check",
        help="Do not check the settings of drivers, for example because the application completes them.",
    ),
]

_SHOWN_MAX = 10


def apply(
    context: typer.Context,
    file: FileArgument,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")] = False,
    expect_version: Annotated[
        int | None,
        typer.Option(
            "--expect-version",
            min=0,
            metavar="N",
            help="Apply only if N is the current version (0: none was applied), whatever version FILE is based on.",
        ),
    ] = None,
    yes: YesOption = False,
    skip_drivers: SkipDriversOption = False,
    wait: AdoptionWaitOption = False,
    timeout: TimeoutOption = WAIT_S,
    output: OutputOption = Format.table,
) -> None:
    """Check an inventory file, show the changes, and apply it.

    If another version was applied in the meantime, nothing is changed: exit code 4. The same if FILE was made by
    `nodectl config show` from a version that is not current any more. nodectl asks for confirmation if more than a
    third of the nodes is removed.
    """
    from nodectl.inventory.file import load_inventory

    loaded = load_inventory(file, drivers=not skip_drivers)
    out = Output(output)
    result = apply_inventory(
        context, out, loaded, expect_version=expect_version, dry_run=dry_run, yes=yes, wait_s=timeout if wait else None
    )
    if result["applied"] and loaded.basis is not None:
        _rebase_file(out, file, loaded, result["version"])
    out.show(result, tables=list, names=lambda: [str(result["version"])])


def edit(
    context: typer.Context,
    yes: YesOption = False,
    skip_drivers: SkipDriversOption = False,
    wait: AdoptionWaitOption = False,
    timeout: TimeoutOption = WAIT_S,
    output: OutputOption = Format.table,
) -> None:
    """Edit the current configuration in an editor, and apply the result.

    The editor is $VISUAL or $EDITOR. If the text has mistakes, nodectl lists them and offers to edit it again. Nothing
    is applied if the text is unchanged or the editor fails, or if another version was applied in the meantime; your
    text is then kept in a file.
    """
    out = Output(output)
    view = with_client(context, fetch)
    text = current_text(view)
    assert view["current"] is not None
    version = int(view["current"]["version"])
    path = Path(tempfile.mkdtemp(prefix="nodectl-")) / f"config-{version}.yaml"
    path.write_text(text, encoding="utf-8", newline="\n")
    result: dict[str, Any] = {"version": version, "changes": [], "applied": False}
    try:
        loaded = _edited(out, path, text, drivers=not skip_drivers)
        if loaded is not None:
            wait_s = timeout if wait else None
            result = apply_inventory(context, out, loaded, expect_version=version, yes=yes, wait_s=wait_s)
    except (NodectlError, typer.Abort):
        _keep_or_remove(out, path, text)
        raise
    shutil.rmtree(path.parent, ignore_errors=True)
    out.show(result, tables=list, names=lambda: [str(result["version"])])


async def fetch(client: Client) -> ConfigSummary:
    """The current, the adopted and the rejected version of the configuration."""
    return await client.config()


def current_text(view: ConfigSummary) -> str:
    """The current configuration as a file, with the comment that names its version.

    Raises Garbage if it cannot be read, NotFound if there is none.
    """
    current = view["current"]
    if current is None and (problem := view.get("problem")):
        raise Garbage(
            f"{problem}; the adopted version stays in force: "
            "apply a file again, or run `nodectl config rollback VERSION`"
        )
    if current is None:
        raise NotFound("no configuration has been applied yet: run `nodectl config apply FILE`")
    return text_of(current)


def text_of(record: dict[str, Any]) -> str:
    """A version of the configuration as a file, with the comment that names the version."""
    from nodectl.inventory.basis import Basis, with_basis
    from nodectl.terminal.output import as_yaml

    return with_basis(record.get("source") or as_yaml(record["inventory"]), Basis.of(record))


# --- editing --------------------------------------------------------------------------------------------------------


def _edited(out: Output, path: Path, before: str, *, drivers: bool) -> InventoryFile | None:
    """Edit the file until it is valid. None if it was not changed."""
    from nodectl.inventory.file import load_inventory
    from nodectl.inventory.yaml_source import FileError

    while True:
        _run_editor(path)
        if not _is_changed(path, before):
            out.note("nothing was changed")
            return None
        try:
            return load_inventory(path, drivers=drivers)
        except FileError as error:
            if not sys.stdin.isatty():
                raise
            out.problem(str(error))
            if not typer.confirm("Edit it again?", default=True, err=True):
                raise Refused("cancelled: nothing was applied") from None


def _keep_or_remove(out: Output, path: Path, before: str) -> None:
    """After a failure: keep the text that the operator has written."""
    if _is_changed(path, before):
        out.note(f"your text is kept in {path}")
    else:
        shutil.rmtree(path.parent, ignore_errors=True)


def _is_changed(path: Path, before: str) -> bool:
    try:
        return path.read_bytes().replace(b"\r\n", b"\n") != before.encode()
    except OSError:  # the editor has removed it
        return False


def _run_editor(path: Path) -> None:
    from nodestore.processes.foreground import run_foreground

    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or ("notepad" if sys.platform == "win32" else "vi")
    try:
        argv = [part.strip('"') for part in shlex.split(editor, posix=sys.platform != "win32")]
        code = run_foreground([*argv, str(path)])
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise Invalid(f"cannot run the editor {editor!r}: {reason}: set EDITOR") from None
    if code != 0:
        raise Refused(f"the editor {editor!r} ended with exit code {code}: nothing was applied")


# --- applying -------------------------------------------------------------------------------------------------------


def apply_inventory(
    context: typer.Context,
    out: Output,
    loaded: InventoryFile,
    *,
    view: ConfigSummary | None = None,
    expect_version: int | None = None,
    dry_run: bool = False,
    yes: bool = False,
    wait_s: float | None = None,
) -> dict[str, Any]:
    """Compare an inventory with the current one, ask if it removes many nodes, apply it; return what was done.

    `view`: the configuration that the inventory was made from, which must still be current when it is written; None:
    fetch it. `wait_s`: wait so many seconds for the adoption; None: do not wait. Raises Conflict if the current version
    is not `expect_version` or, without that, not the one that the file is based on.
    """
    from nodectl.inventory.diff import diff_lines, summary_lines

    if view is None:
        view = with_client(context, fetch)
    version, current = _checked_version(out, view, loaded, expect_version), view["current"]
    old = current["inventory"] if current else None
    changes = summary_lines(old, loaded.data)
    same = current is not None and not diff_lines(old, loaded.data, old_name="", new_name="")
    for change in changes:
        out.note(f"  {change}")
    if same and current is not None and source_of(current) == loaded.source:
        out.note(f"nothing to do: version {version} is the same")
        to_apply: InventoryFile | None = None
    elif dry_run:
        out.note("--dry-run: nothing was changed")
        to_apply = None
    else:
        confirm_removal(old, loaded.data, yes)
        to_apply = loaded
    if to_apply is not None or (wait_s is not None and not dry_run):
        version = with_client(context, lambda client: _apply(client, out, to_apply, version, wait_s))
    return {"version": version, "changes": changes, "applied": to_apply is not None}


def _checked_version(out: Output, view: ConfigSummary, loaded: InventoryFile, expected: int | None) -> int:
    """The current version. Raises Conflict if it is not the one that is expected."""
    for warning in loaded.warnings:
        out.warn(warning)
    current = view["current"]
    version = int(current["version"]) if current else view.get("version", 0)
    if problem := view.get("problem"):
        out.warn(f"this replaces the last version, which is unreadable: {problem}")
    if expected is not None and version != expected:
        raise Conflict(f"version {version} is current, not {expected}: check `nodectl config diff {loaded.name}`")
    if expected is None and loaded.basis is not None:
        loaded.basis.check(current, version, loaded.name)
    return version


def source_of(record: dict[str, Any]) -> str:
    """The text of a version, without the comment that names a version."""
    from nodectl.inventory.basis import split_basis

    with contextlib.suppress(ValueError):  # a damaged comment, which an earlier release has applied
        return split_basis(record.get("source") or "")[1]
    return str(record.get("source") or "")


def confirm_removal(old: dict[str, Any] | None, new: dict[str, Any], yes: bool) -> None:
    """If the change removes all nodes or more than a third of them, ask whether to go ahead."""
    from nodectl.inventory.diff import removed_nodes, removes_many
    from nodectl.terminal.format import some_names

    if yes or not removes_many(old, new):
        return
    gone = removed_nodes(old, new)
    count = len((old or {}).get("nodes", {}))
    confirm(f"This removes {len(gone)} of {count} nodes ({some_names(gone, _SHOWN_MAX)}). Apply it?")


async def _apply(client: Client, out: Output, loaded: InventoryFile | None, version: int, wait_s: float | None) -> int:
    if loaded is not None:
        version = await client.config_apply(loaded.data, source=loaded.source, expect_version=version)
        out.took_effect()
        out.note(f"version {version} applied")
    if wait_s is not None:
        await wait_for_effect(client, version, wait_s, out)
    return version


async def wait_for_effect(client: Client, version: int, timeout_s: float, out: Output) -> None:
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


def _rebase_file(out: Output, path: Path, loaded: InventoryFile, version: int) -> None:
    """Write the new version into the file's comment, so that the file can be edited and applied again."""
    from nodectl.inventory.basis import Basis, split_basis
    from nodectl.inventory.yaml_source import STDIN
    from nodestore.support.atomic_files import write_atomic

    if path == STDIN or loaded.basis is None:
        return
    new = Basis.of({"version": version, "inventory": loaded.data})
    try:
        target = path.resolve()  # a symbolic link stays one
        text = target.read_bytes().decode("utf-8")
        basis, rest = split_basis(text.removeprefix("\ufeff").replace("\r\n", "\n"))
        if (basis, rest) != (loaded.basis, loaded.source):
            raise ValueError("it was changed meanwhile")
        text = text.replace(loaded.basis.line().rstrip(), new.line().rstrip(), 1)
        write_atomic(target, text.encode(), mode=target.stat().st_mode & 0o7777)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        out.warn(
            f"{path} still says that it is based on version {loaded.basis.version} ({reason}): "
            f"write {new.line().strip()!r} into it before you apply it again"
        )
    else:
        out.note(f"{path} is now based on version {version}")
