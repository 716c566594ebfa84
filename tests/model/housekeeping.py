"""Snapshots and truncation by a leader, and events that no master decides: late copies, leases, rot, a restored
backup."""

from __future__ import annotations

from collections.abc import Iterator

from tests.model.setting import Setting, changed, on_its_way, standing_by, used, words_of
from tests.model.store import best_snapshots, land
from tests.model.world import Snapshot, Truncate, Txn, World, Write


def snapshot(setting: Setting, world: World, number: int) -> Iterator[tuple[str, World]]:
    """`term.retention.JournalRetention.write_snapshot`: of the state as it is, whatever is being committed
    meanwhile."""
    me = world.masterds[number]
    if not world.left.snapshots or not me.log or any(image.log == me.log for image in world.store.snapshots):
        return
    ids_from = me.ids_from if setting.has("snapshots hold the ids") else len(me.log)
    txn = Write("snapshot", me.term, me.term_epoch, Snapshot(me.log, ids_from))
    begun = world._replace(left=used(world.left, "snapshots"))
    yield from _kept_house(setting, begun, number, txn, f"writes the snapshot of index {len(me.log)}")


def truncation(setting: Setting, world: World, number: int) -> Iterator[tuple[str, World]]:
    """`term.retention.JournalRetention.truncate_and_prune`: as far as the older of two readable snapshots, and no id
    that must be known;
    when etcd is nearly full (`make_room`), the ids in the snapshots must do."""
    me = world.masterds[number]
    found = best_snapshots(world.store)
    if not world.left.truncations or len(found) < 2:
        return
    begun = world._replace(left=used(world.left, "truncations"))
    newest = not setting.has("truncation stops at the older of two snapshots")
    limit = len(found[0 if newest else 1].log)
    drop = tuple(image for image in world.store.snapshots if image not in found[: 1 if newest else 2])
    pressed = not setting.has("truncation stops at the ids' floor")
    for up_to in sorted({limit if pressed else min(limit, max(0, len(me.log) - setting.kept)), limit}):
        if world.store.journal and world.store.journal[0][0] <= up_to:
            txn = Truncate("truncate", me.term, me.term_epoch, up_to, drop)
            yield from _kept_house(setting, begun, number, txn, f"truncates the journal up to index {up_to}")


def _kept_house(setting: Setting, world: World, number: int, txn: Txn, what: str) -> Iterator[tuple[str, World]]:
    """`term.retention.JournalRetention._delete`, `replication.snapshots.Snapshots._fenced`: where it fails the term is
    over; without an
    answer it is tried again at another look, while a copy may land."""
    after, done = land(world, txn, setting.without, setting.kept)
    if done:
        yield f"{{}} {what}", after
    else:
        yield f"{{}} {what}: its term is over", changed(world, number, standing_by(world.masterds[number]))
    if world.left.late:
        yield f"{{}} {what}, without an answer: a copy is on its way", on_its_way(world, txn)


# --- what nobody decides ----------------------------------------------------------------------------------------------


def surroundings(setting: Setting, world: World) -> Iterator[tuple[str, World]]:
    """Late copies, leases that run out, snapshots that rot, and `nodectl recover`."""
    for position, txn in enumerate(world.late):
        if position and world.late[position - 1] == txn:
            continue
        rest = world._replace(late=world.late[:position] + world.late[position + 1 :])
        after, done = land(rest, txn, setting.without, setting.kept)
        yield f"a late copy of {words_of(txn)} lands{'' if done else ', and fails'}", after
    if world.left.expiries and world.store.leader[0]:
        gone = world.store._replace(leader=(0, 0))
        yield (
            f"the lease of term {world.store.leader[0]} runs out",
            world._replace(store=gone, left=used(world.left, "expiries")),
        )
    if world.left.damages:
        yield from _damaged(world)
    if world.left.restores:
        yield from _restored(setting, world)


def _damaged(world: World) -> Iterator[tuple[str, World]]:
    left = used(world.left, "damages")
    for image in best_snapshots(world.store):
        others = (one for one in world.store.snapshots if one is not image)
        snapshots = tuple(sorted((*others, image._replace(whole=False)), key=lambda one: (len(one.log), one)))
        text = f"the snapshot of index {len(image.log)} becomes unreadable"
        yield text, world._replace(store=world.store._replace(snapshots=snapshots), left=left)


def _restored(setting: Setting, world: World) -> Iterator[tuple[str, World]]:
    """A backup is taken, and once restored as `nodectl recover` does: revisions go on, `leader` is gone, and the epoch
    is the next. A masterd may have slept meanwhile. What was acknowledged since the backup is lost, as promised."""
    if not world.backup:
        yield "a backup is taken", world._replace(backup=(world.store, world.history, world.by))
        return
    store, history, by = world.backup
    leader = (0, 0) if setting.has("recovery deletes leader") else store.leader
    store = store._replace(leader=leader, epoch=world.store.epoch + 1)
    left = used(world.left, "restores")
    yield "the backup is restored", world._replace(store=store, history=history, by=by, closed=(), backup=(), left=left)
