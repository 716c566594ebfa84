"""How far the journal is truncated, and which snapshots are deleted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from masterd.state_machine.state import State
from masterd.term.publisher import Publisher
from masterd.term.retention import JournalRetention, RetentionSettings
from nodestore.errors import LeadershipLost
from nodestore.schema.models import CommandRecord, Entry
from tests.support.fakes.first_term import KEYS, Term1, first_term

COMMANDS = 9


class Kept:
    """A leader of a store with nine entries, a command each."""

    def __init__(self, term: Term1, *, views: int, settings: RetentionSettings) -> None:
        self.term = term
        publisher = Publisher(term.etcd, KEYS, term.fence)
        publisher.note_published(views, 0)
        self.retention = JournalRetention(term.fence, term.replica, publisher, settings, lambda: 0.0)

    async def commit(self, index: int, floor: int) -> None:
        record = CommandRecord(index=index, id=f"c-{index}", actor="a", time=1.0, name="n", args={})
        entry = Entry(epoch=1, term=self.term.fence.term.revision, nonce="n", commands=(record,), floor=floor)
        self.term.put(KEYS.entry(index), entry.encode())
        await self.term.replica.apply(entry, entry.encode())

    @property
    def first_retained(self) -> int:
        return KEYS.entry_index(KEYS.journal + self.term.keys(KEYS.journal)[0])

    def snapshots(self) -> list[int]:
        """The indexes of the complete ones."""
        found = self.term.keys(KEYS.snapshots)
        return sorted(int(key.partition("-")[0]) for key in found if key.endswith("/manifest"))


@asynccontextmanager
async def kept(
    *, floor: int = COMMANDS, views: int = COMMANDS, snapshots: tuple[int, ...] = (5, 7),
    settings: RetentionSettings | None = None,
) -> AsyncIterator[Kept]:  # fmt: skip
    """floor: in each entry, as far as its index. views: the index up to which they are complete."""
    async with first_term() as term:
        leader = Kept(term, views=views, settings=settings or RetentionSettings())
        for index in range(1, COMMANDS + 1):
            await leader.commit(index, min(floor, index))
            if index in snapshots:
                await leader.retention.write_snapshot()
        yield leader


@pytest.mark.parametrize(
    ("floor", "views", "snapshots", "first_retained"),
    [
        (9, 9, (5, 7), 6),  # the older of the two snapshots
        (9, 9, (3, 5, 7), 6),
        (4, 9, (5, 7), 5),  # the ids of 5 and later must be known
        (0, 9, (5, 7), 1),
        (9, 3, (5, 7), 4),  # the views of 4 and later are not complete
        (9, 0, (5, 7), 1),
        (2, 3, (5, 7), 3),
        (3, 2, (5, 7), 3),
        (9, 9, (7,), 1),
        (9, 9, (), 1),
    ],
)
async def test_the_journal_is_truncated_as_far_as_all_three_allow(
    floor: int, views: int, snapshots: tuple[int, ...], first_retained: int
) -> None:
    """Snapshots that were read back, the views, and the ids that must be known."""
    async with kept(floor=floor, views=views, snapshots=snapshots) as leader:
        await leader.retention.truncate_and_prune()
        assert leader.first_retained == first_retained
        assert leader.term.replica.state.index == COMMANDS


@pytest.mark.parametrize("views", [9, 2])
async def test_without_space_ids_stop_no_truncation(views: int) -> None:
    """The snapshots hold them too. The views are not in snapshots, so they still do."""
    async with kept(floor=0, views=views) as leader:
        await leader.retention.truncate_and_prune(space_is_short=True)
        assert leader.first_retained == min(views, 5) + 1


async def test_a_journal_that_is_too_large_is_truncated_up_to_the_snapshots() -> None:
    async with kept(floor=0, settings=RetentionSettings(journal_bytes_max=8 * 100)) as leader:
        await leader.retention.truncate_and_prune()
        assert leader.first_retained == 6


def _damaged(leader: Kept) -> None:
    """The newest snapshot is damaged, and this process has not read it back yet."""
    (name,) = {key.partition("/")[0] for key in leader.term.keys(KEYS.snapshots) if int(key.partition("-")[0]) == 7}
    leader.term.put(f"{KEYS.snapshot(name)}000000", b"{}")
    leader.term.replica.snapshots.verified.clear()


def _verified_long_ago(leader: Kept) -> None:
    leader.term.replica.snapshots.verified.clear()


@pytest.mark.parametrize(("change", "first_retained"), [(_damaged, 1), (_verified_long_ago, 6)])
async def test_only_snapshots_that_this_process_has_read_count(
    change: Callable[[Kept], None], first_retained: int
) -> None:
    async with kept() as leader:
        change(leader)
        await leader.retention.truncate_and_prune()
        assert leader.first_retained == first_retained


async def test_a_snapshot_without_ids_does_not_count() -> None:
    """Truncation up to it would lose the ids of the entries."""
    async with kept(snapshots=(5,)) as leader:
        await leader.retention.write_named("named")
        await leader.retention.truncate_and_prune()
        assert leader.first_retained == 1


async def test_a_deposed_leader_truncates_nothing() -> None:
    async with kept() as leader:
        leader.term.at(KEYS.journal, leader.term.end)
        with pytest.raises(LeadershipLost):
            await leader.retention.truncate_and_prune()
        assert leader.first_retained == 1


def _pin(leader: Kept, state: State, name: str) -> None:
    leader.retention.pinned.add(name)


def _name_in_an_entry(leader: Kept, state: State, name: str) -> None:
    state.restores[COMMANDS] = name


def _nothing(leader: Kept, state: State, name: str) -> None:
    return


@pytest.mark.parametrize(("need", "left"), [(_pin, [3, 5, 7]), (_name_in_an_entry, [3, 5, 7]), (_nothing, [5, 7])])
async def test_a_snapshot_that_is_needed_is_kept(need: Callable[[Kept, State, str], None], left: list[int]) -> None:
    """One that an entry restores, or that a restore being committed will name. Of the others, the two newest."""
    async with kept(snapshots=(3, 5, 7)) as leader:
        (name,) = (name for name in await leader.term.replica.snapshots.manifests() if name.startswith(f"{3:016d}"))
        need(leader, leader.term.replica.state, name)
        await leader.retention.truncate_and_prune()
        assert leader.snapshots() == left
