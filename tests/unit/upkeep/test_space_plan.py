"""What is decided from how full etcd's members are, case by case."""

from __future__ import annotations

from dataclasses import replace

import pytest

from masterd.upkeep.space_plan import (
    ETCD_QUOTA_BYTES,
    Compact,
    Defragment,
    Disarm,
    MemberSpace,
    SpaceReading,
    SpaceSettings,
    SpaceStep,
    StepHistory,
    Truncate,
    describe,
    must_refuse,
    plan,
    reading_of,
    waiting_reason,
)
from nodestore.etcd.session import MemberStatus

QUOTA = 100_000
SETTINGS = SpaceSettings(quota_bytes=QUOTA)
NOW = 1_000.0


def member(name: str, size: float, use: float, *, leads: bool = False) -> MemberSpace:
    return MemberSpace(f"{name}:2379", ord(name), leads, int(size * QUOTA), int(use * QUOTA), QUOTA)


def seen(
    *members: MemberSpace, alarmed: str = "", silent: tuple[str, ...] = (), journal: float | None = None
) -> SpaceReading:
    return SpaceReading(
        members, silent, frozenset(map(ord, alarmed)), 500, journal is not None, int((journal or 0) * QUOTA)
    )  # fmt: skip


EMPTY, HALF = member("a", 0.3, 0.3), member("a", 0.6, 0.5)
COMPACTED = StepHistory(compacted_revision=500, compacted_at=NOW - 60)
JUST_COMPACTED = StepHistory(compacted_revision=500, compacted_at=NOW - 0.1)
BEHIND = replace(member("a", 0.3, 0.3), is_behind=True)
LEADER_BIG, OTHER_BIG = member("a", 0.95, 0.2, leads=True), member("b", 0.85, 0.2)
OLDER = replace(COMPACTED, compacted_revision=400)
TRUNCATED = replace(COMPACTED, truncated_at=NOW - 10, compacted_revision=400)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        # nothing to do
        ((seen(EMPTY), StepHistory()), None),
        ((seen(HALF, journal=0.4), StepHistory()), None),
        ((seen(), StepHistory()), None),
        # history goes first: it costs nothing
        ((seen(member("a", 0.7, 0.66), journal=0.4), StepHistory()), Compact(500)),
        ((seen(member("a", 0.9, 0.9)), StepHistory()), Compact(500)),
        # and before it has grown to much
        ((seen(member("a", 0.4, 0.4), journal=0.4), replace(OLDER, least_use=0.2)), Compact(500)),
        ((seen(member("a", 0.4, 0.4), journal=0.4), replace(OLDER, least_use=0.3)), None),
        ((seen(member("a", 0.4, 0.4)), replace(OLDER, least_use=0.2)), None),
        # then the journal, if that is worth it, and if we lead
        ((seen(member("a", 0.7, 0.66), journal=0.4), COMPACTED), Truncate()),
        ((seen(member("a", 0.7, 0.66), journal=0.01), COMPACTED), None),
        ((seen(member("a", 0.7, 0.66)), COMPACTED), None),
        ((seen(member("a", 0.7, 0.66), journal=0.4), replace(COMPACTED, truncated_at=NOW - 1)), None),
        # what truncation deleted is history too, and its room is wanted at once
        ((seen(member("a", 0.7, 0.66), journal=0.4), TRUNCATED), Compact(500)),
        ((seen(member("a", 0.7, 0.66), journal=0.4), replace(OLDER, compacted_at=NOW - 2)), Truncate()),
        # a large file with free pages: not etcd's leader first, though its file is the largest
        ((seen(LEADER_BIG, OTHER_BIG), COMPACTED), Defragment("b:2379")),
        ((seen(LEADER_BIG, OTHER_BIG), replace(COMPACTED, defragmented_at={"b:2379": NOW - 10})), Defragment("a:2379")),
        # nobody twice within its time, nobody while pages are still being freed, nobody while another one is away
        ((seen(OTHER_BIG), replace(COMPACTED, defragmented_at={"b:2379": NOW - 60})), None),
        ((seen(OTHER_BIG), JUST_COMPACTED), None),
        ((seen(OTHER_BIG, silent=("c:2379",)), COMPACTED), None),
        # nothing to gain
        ((seen(member("a", 0.85, 0.8)), COMPACTED), None),
        # the alarm: the same, more urgently
        ((seen(member("a", 1.0, 0.9), alarmed="a"), StepHistory()), Compact(500)),
        ((seen(member("a", 1.0, 0.9), alarmed="a", journal=0.4), COMPACTED), Truncate()),
        ((seen(member("a", 1.0, 0.4), alarmed="a", journal=0.4), COMPACTED), Defragment("a:2379")),
        ((seen(member("a", 1.0, 0.9), alarmed="a"), COMPACTED), Defragment("a:2379")),
        ((seen(member("a", 1.0, 0.9), alarmed="a", silent=("c:2379",)), COMPACTED), Defragment("a:2379")),
        # there is room again, everywhere
        ((seen(member("a", 0.3, 0.3), alarmed="a"), COMPACTED), Disarm((ord("a"),))),
        ((seen(member("a", 0.3, 0.3), alarmed="az"), COMPACTED), Disarm((ord("a"), ord("z")))),
        # there is none: disarmed, it would be raised again by the next write
        ((seen(member("a", 0.99, 0.98), alarmed="a"), COMPACTED), None),
        ((seen(member("a", 0.98, 0.98), member("b", 0.99, 0.98), alarmed="a"), COMPACTED), None),
        # a member's free pages show after its next write only, which the alarm refuses
        ((seen(member("a", 0.3, 0.3), member("b", 0.99, 0.98), alarmed="a"), COMPACTED), Defragment("b:2379")),
        ((seen(BEHIND, member("b", 0.99, 0.98), alarmed="b"), COMPACTED), None),
        # history that is to be compacted in a moment is not carried over by defragmenting
        ((seen(member("a", 1.0, 0.9), alarmed="a"), replace(OLDER, compacted_at=NOW - 0.5)), None),
        ((seen(member("a", 1.0, 0.9), alarmed="a"), replace(OLDER, compacted_at=NOW - 2)), Compact(500)),
        ((seen(alarmed="a"), COMPACTED), None),
    ],
)
def test_the_next_step(case: tuple[SpaceReading, StepHistory], expected: SpaceStep | None) -> None:
    """From one look and what has been done."""
    looked, done = case
    assert plan(looked, False, done, NOW, SETTINGS) == expected


def test_a_refusing_master_defragments_sooner() -> None:
    """Nobody is served by waiting five minutes then."""
    looked = seen(member("a", 0.96, 0.5))
    done = replace(COMPACTED, defragmented_at={"a:2379": NOW - 60})
    assert plan(looked, False, done, NOW, SETTINGS) is None
    assert plan(looked, True, done, NOW, SETTINGS) == Defragment("a:2379")


@pytest.mark.parametrize(
    ("looked", "refusing", "expected"),
    [
        (seen(), False, False),
        (seen(EMPTY), False, False),
        (seen(member("a", 0.79, 0.79)), False, False),
        (seen(member("a", 0.81, 0.81)), False, True),
        # once refusing, until there is more room than a command or two
        (seen(member("a", 0.78, 0.78)), True, True),
        (seen(member("a", 0.81, 0.74)), True, False),
        # what compaction has freed shows late on most members
        (seen(EMPTY, member("b", 0.81, 0.81)), False, False),
        # one full file is enough
        (seen(EMPTY, member("b", 0.99, 0.3)), False, True),
        # free pages in a large file are used again; where they are few the next large write may not fit
        (seen(member("a", 0.98, 0.2)), False, False),
        (seen(member("a", 0.99, 0.2)), False, True),
        (seen(member("a", 0.96, 0.6)), False, True),
        # the alarm refuses everything anyway
        (seen(EMPTY, alarmed="z"), False, True),
        (seen(alarmed="z"), False, True),
    ],
)
def test_when_commands_must_wait(looked: SpaceReading, refusing: bool, expected: bool) -> None:
    """Near 80 % of the quota, by pages in use."""
    assert must_refuse(looked, refusing, SETTINGS) is expected


def status(db: int, quota: int = 0, errors: tuple[str, ...] = (), number: int = 7) -> MemberStatus:
    return MemberStatus(number, 7, "3.5.30", db, db, 2, 9, 40, errors, quota)


def test_what_members_say() -> None:
    """Alarms are in their own words, the silent are remembered as such, one that has two addresses counts once."""
    looked = reading_of(
        [("a:1", status(10, errors=("memberID:7 alarm:NOSPACE ", "memberID:9 alarm:CORRUPT "))), ("b:1", None),
         ("c:1", status(10)), ("d:1", status(10, number=8))], SETTINGS, 5,
    )  # fmt: skip
    assert (looked.alarmed, looked.unanswered, looked.revision) == (frozenset({7}), ("b:1",), 40)
    assert [item.is_leader for item in looked.members] == [True, False]
    assert looked.is_leading
    assert not reading_of([("a:1", status(10))], SETTINGS).is_leading


@pytest.mark.parametrize(
    ("told", "alarm", "expected"),
    [
        (status(10), "", QUOTA),
        (status(10, quota=777), "", 777),  # it knows best
        (status(2 * QUOTA), "", QUOTA),  # written in the last moment
        (status(100 << 20), "", ETCD_QUOTA_BYTES),  # it lives, so the quota that we were told is wrong
        (status(100 << 20), "memberID:7 alarm:NOSPACE ", QUOTA),
        (status(2 * ETCD_QUOTA_BYTES), "", 2 * ETCD_QUOTA_BYTES),
    ],
)
def test_which_quota_counts(told: MemberStatus, alarm: str, expected: int) -> None:
    told = replace(told, errors=(alarm,) if alarm else ())
    assert reading_of([("a:1", told)], SETTINGS).members[0].quota_bytes == expected


def test_it_is_said_how_full_it_is_and_what_is_done() -> None:
    """With numbers, and with what people can do when nothing else helps."""
    assert describe(seen(member("a", 0.9, 0.83))) == (
        "etcd's database is 83% full (0.1 MiB of 0.1 MiB in use, file 0.1 MiB at a:2379)"
    )
    assert "NOSPACE" in describe(seen(EMPTY, alarmed="a"))
    assert "NOSPACE" in describe(seen(alarmed="a"))
    full = seen(member("a", 0.9, 0.85))
    assert waiting_reason(full, JUST_COMPACTED, NOW, SETTINGS) == "masterd is freeing space"
    assert "--quota-backend-bytes" in waiting_reason(full, COMPACTED, NOW, SETTINGS)
    waiting = replace(COMPACTED, defragmented_at={"b:2379": NOW - 1})
    assert "no member is defragmented more often" in waiting_reason(seen(OTHER_BIG), waiting, NOW, SETTINGS)
