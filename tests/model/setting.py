"""What all steps share: the bounds and the rules of a search, small changes of a world, and words."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.model.store import Without
from tests.model.world import (
    CLOSES,
    STANDBY,
    Answer,
    Batch,
    Bounds,
    Commit,
    Left,
    Masterd,
    Resign,
    Takeover,
    Truncate,
    Txn,
    World,
    Write,
)


class Setting:
    """The bounds of a search, and the rules that are taken out."""

    def __init__(self, bounds: Bounds, without: Without = frozenset()) -> None:
        self.bounds, self.without, self.kept = bounds, without, bounds.kept

    def has(self, rule: str) -> bool:
        return rule not in self.without


Action = Callable[[Setting, World, int], Iterator[tuple[str, World]]]


def changed(world: World, number: int, masterd: Masterd) -> World:
    one, two = world.masterds
    return world._replace(masterds=(masterd, two) if number == 0 else (one, masterd))


def used(left: Left, what: str) -> Left:
    return left._replace(**{what: getattr(left, what) - 1})


def on_its_way(world: World, txn: Txn) -> World:
    """A copy of it may land from now on."""
    late = tuple(sorted((*world.late, txn)))
    return world._replace(late=late, left=world.left._replace(late=world.left.late - 1))


def standing_by(masterd: Masterd) -> Masterd:
    """`roles.master.Master.become_standby`: the replica and the attempts stay."""
    stays = Masterd(STANDBY, masterd.log, masterd.ids_from, masterd.epoch, masterd.attempts, prepared=masterd.prepared)
    return in_store(masterd, stays)


def in_store(before: Masterd, after: Masterd) -> Masterd:
    """What a masterd has in the store, whatever becomes of itself."""
    return after._replace(challenges=before.challenges, answer=before.answer, noted=before.noted)


# --- words ----------------------------------------------------------------------------------------------------------


def names(batch: Batch) -> str:
    return " and ".join(
        f"command {item + 1}" if item < CLOSES else f"the closing of command {item - CLOSES + 1}" for item in batch
    )


def name_of(commit: Commit) -> str:
    return f"commit of {names(commit.batch)}" if commit.batch else "empty commit"


def words_of(txn: Txn) -> str:
    match txn:
        case Takeover():
            return f"takeover {txn.nonce}"
        case Commit():
            return f"the {name_of(txn)} of term {txn.term}"
        case Resign():
            return f"the resignation of term {txn.term}"
        case Write():
            return f"the snapshot of index {len(txn.image.log)}"
        case Truncate():
            return f"the truncation up to index {txn.up_to}"
        case Answer():
            return f"term {txn.term}'s answer to challenge {txn.challenge}"
