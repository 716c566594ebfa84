"""How a term ends for its leader: it resigns, sees it, loses its lease, or is killed."""

from __future__ import annotations

from collections.abc import Iterator

from tests.model.setting import Setting, changed, in_store, on_its_way, standing_by, used
from tests.model.store import land
from tests.model.world import Masterd, Resign, World


def resign(setting: Setting, world: World, number: int) -> Iterator[tuple[str, World]]:
    """`roles.master.Master.stand_down`: at a stop or a handover, with commands still open."""
    if world.left.resignations:
        yield from resigns(setting, world._replace(left=used(world.left, "resignations")), number, "stops and")


def resigns(setting: Setting, world: World, number: int, why: str) -> Iterator[tuple[str, World]]:
    """`roles.master.Master._resign`, `cluster.election.resign`: once without an answer, once with."""
    me = world.masterds[number]
    txn = Resign("resign", me.term)
    after, done = land(world, txn, setting.without, setting.kept)
    yield (
        f"{{}} {why} resigns term {me.term}{'' if done else ', which is over'}",
        changed(after, number, standing_by(me)),
    )
    if world.left.late:
        text = f"{{}} {why} resigns term {me.term} without an answer: that is on its way"
        yield text, changed(on_its_way(world, txn), number, standing_by(me))


def deposed(_: Setting, world: World, number: int) -> Iterator[tuple[str, World]]:
    """`term.leader.Leader._on_cluster_change`, which `_commit_loop` minds between commits."""
    me = world.masterds[number]
    if not me.commit and world.store.leader[0] != me.term:
        yield f"{{}} sees that term {me.term} is over", changed(world, number, standing_by(me))


def lease_lost(_: Setting, world: World, number: int) -> Iterator[tuple[str, World]]:
    """`roles.master.Master._run_with_lease`: whatever it was doing is cancelled; its callers are told that it is
    unknown."""
    if world.left.lease_losses:
        lost = changed(world, number, standing_by(world.masterds[number]))
        yield "{} loses its lease and stands by", lost._replace(left=used(world.left, "lease_losses"))


def crash(_: Setting, world: World, number: int) -> Iterator[tuple[str, World]]:
    """kill -9, and a new start. What it had sent may land yet."""
    new = in_store(world.masterds[number], Masterd())
    if world.left.crashes and world.masterds[number] != new:
        yield "{} is killed and starts anew", changed(world, number, new)._replace(left=used(world.left, "crashes"))
