"""`nodectl recover`: begins a new epoch after a backup was restored. No masterd may run until it is done."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nodectl.cli.session import with_etcd
from nodectl.terminal.output import Format, Output, OutputOption
from nodestore.errors import Conflict

if TYPE_CHECKING:
    from nodectl.backup_restore.recovery import Restored
    from nodestore.etcd.session import Etcd
    from nodestore.schema.keys import Keys

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def recover(
    context: typer.Context,
    yes: Annotated[
        bool,
        typer.Option(
            "--yes", help="Begin a new epoch although the store does not look like a correctly restored backup."
        ),
    ] = False,
    output: OutputOption = Format.table,
) -> None:
    """Begin a new epoch after a backup was restored.

    If `epoch` or all keys were deleted while masterds run, do not stop them: one of them holds the state, and the new
    epoch begins with it (docs/lost-keys.md).

    After a restore, first stop every masterd (nodes may keep running), and restore the backup on every member's PC by
    `etcdutl snapshot restore` with --bump-revision and --mark-compacted. docs/recovery.md describes every step.
    Everything that was acknowledged after the backup was made is lost. If this command is interrupted, run it again.
    """
    from nodectl.backup_restore import recovery
    from nodectl.client.client import default_actor

    out = Output(output)

    async def work(etcd: Etcd, keys: Keys) -> dict[str, Any]:
        for warning in await recovery.check_members(etcd):
            out.warn(warning)
        found = await recovery.read_restored(etcd, keys)
        if found.record is not None and found.recovered and not yes:
            return _result_data(found, found.record.epoch, False)
        with out.progress("checking what the running programs hold") as show:
            if found.may_run:
                await recovery.wait_for_reports(show)
                found = await recovery.read_restored(etcd, keys)
        _confirm(found, yes, out)
        with out.progress("checking that no masterd runs") as show:
            if not found.may_run:
                await recovery.wait_for_silence(etcd, keys, show)
        found = await recovery.read_restored(etcd, keys)
        begun = await recovery.begin_epoch(etcd, keys, found, default_actor())
        out.took_effect()
        return _result_data(found, begun.epoch, True)

    done = with_etcd(context, work)
    out.show(done, tables=list, names=lambda: [str(done["epoch"])])
    if output is Format.table:
        _print_result(done, out)


def _confirm(found: Restored, yes: bool, out: Output) -> None:
    """If the store does not look like a correctly restored backup, ask whether to go ahead.

    Raises Conflict if the answer is no.
    """
    from nodectl.backup_restore.recovery import BUMP_MIN

    if found.bumped >= BUMP_MIN or found.heir is not None or (found.may_run and found.has_journal):
        return
    warning = (
        "keys were deleted, the store holds no journal, and no running masterd reports a state: the new epoch would "
        "begin empty, and nodes would stop what they run. Restore a backup instead (docs/recovery.md)"
        if found.record is None
        else f"this store does not look restored: since epoch {found.record.epoch} began, there is no gap of "
        f"{BUMP_MIN:,} between its revisions (the largest is {found.bumped:,}). If no backup was restored, there is "
        "nothing to recover. If one was, restore it again, on each member with the same `--bump-revision` of at least "
        f"{BUMP_MIN} and --mark-compacted. Otherwise revisions are used twice, and a master or a node that kept "
        "running may act on state that the restore removed"
    )
    if yes:
        out.warn(warning)
    elif not (sys.stdin.isatty() and typer.confirm(f"{warning}. Begin a new epoch anyway?")):
        raise Conflict(f"{warning}. Nothing was changed; --yes begins a new epoch anyway")


def _result_data(found: Restored, epoch: int, changed: bool) -> dict[str, Any]:
    last, heir = found.last.commands[-1] if found.last else None, found.heir if changed else None
    return {
        "epoch": epoch,
        "changed": changed,
        "index": heir.index if heir else found.head.index,
        "heir": None if heir is None else heir.id,
        "bumped": found.bumped,
        "last": None if last is None else {"name": last.name, "actor": last.actor, "time": last.time},
        "paused": found.paused is not None,
    }


def _print_result(done: dict[str, Any], out: Output) -> None:
    from nodectl.terminal.format import local_time

    if not done["changed"]:
        out.note(
            f"nothing to do: epoch {done['epoch']} was begun by an earlier `nodectl recover`, "
            "and no master has led in it yet"
        )
    else:
        last = done["last"]
        of = f", {last['name']} by {last['actor']} on {local_time(last['time'])}" if last else ""
        if done["heir"] is not None:
            out.note(
                f"epoch {done['epoch']} begins with the state of index {done['index']}, which {done['heir']} holds in "
                "memory: it leads first and writes a snapshot. Restart no masterd before a master leads"
            )
            return
        out.note(f"epoch {done['epoch']} begins; the last command in the backup is index {done['index']}{of}")
        out.note(
            "everything that was acknowledged after that command is lost; clients that depend on it get a conflict"
        )
    if done["paused"]:
        out.warn("automatic takeover is paused, as it was when the backup was made: run `nodectl master resume`")
    out.note("now start masterd on every PC")
