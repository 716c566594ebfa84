"""The next maintenance step for a given use of etcd's quota, as tables."""

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


def reading_with(
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
        ((reading_with(EMPTY), StepHistory()), None),
        ((reading_with(HALF, journal=0.4), StepHistory()), None),
        ((reading_with(), StepHistory()), None),
        # compaction of etcd's history comes first: it is cheap
        ((reading_with(member("a", 0.7, 0.66), journal=0.4), StepHistory()), Compact(500)),
        ((reading_with(member("a", 0.9, 0.9)), StepHistory()), Compact(500)),
        # compaction once the history has grown, although there is room
        ((reading_with(member("a", 0.4, 0.4), journal=0.4), replace(OLDER, least_use=0.2)), Compact(500)),
        ((reading_with(member("a", 0.4, 0.4), journal=0.4), replace(OLDER, least_use=0.3)), None),
        ((reading_with(member("a", 0.4, 0.4)), replace(OLDER, least_use=0.2)), None),
        # then truncation of the journal, if it frees enough and this masterd leads
        ((reading_with(member("a", 0.7, 0.66), journal=0.4), COMPACTED), Truncate()),
        ((reading_with(member("a", 0.7, 0.66), journal=0.01), COMPACTED), None),
        ((reading_with(member("a", 0.7, 0.66)), COMPACTED), None),
        ((reading_with(member("a", 0.7, 0.66), journal=0.4), replace(COMPACTED, truncated_at=NOW - 1)), None),
        # after a truncation: compact, because the deleted entries are still in etcd's history
        ((reading_with(member("a", 0.7, 0.66), journal=0.4), TRUNCATED), Compact(500)),
        ((reading_with(member("a", 0.7, 0.66), journal=0.4), replace(OLDER, compacted_at=NOW - 2)), Truncate()),
        # a large file with free pages: etcd's leader comes last, even if its file is the largest
        ((reading_with(LEADER_BIG, OTHER_BIG), COMPACTED), Defragment("b:2379")),
        (
            (reading_with(LEADER_BIG, OTHER_BIG), replace(COMPACTED, defragmented_at={"b:2379": NOW - 10})),
            Defragment("a:2379"),
        ),
        # no member again within the pause, none while pages are still being freed, none while another member is away
        ((reading_with(OTHER_BIG), replace(COMPACTED, defragmented_at={"b:2379": NOW - 60})), None),
        ((reading_with(OTHER_BIG), JUST_COMPACTED), None),
        ((reading_with(OTHER_BIG, silent=("c:2379",)), COMPACTED), None),
        # nothing to gain
        ((reading_with(member("a", 0.85, 0.8)), COMPACTED), None),
        # under the alarm: the same steps, with fewer conditions
        ((reading_with(member("a", 1.0, 0.9), alarmed="a"), StepHistory()), Compact(500)),
        ((reading_with(member("a", 1.0, 0.9), alarmed="a", journal=0.4), COMPACTED), Truncate()),
        ((reading_with(member("a", 1.0, 0.4), alarmed="a", journal=0.4), COMPACTED), Defragment("a:2379")),
        ((reading_with(member("a", 1.0, 0.9), alarmed="a"), COMPACTED), Defragment("a:2379")),
        ((reading_with(member("a", 1.0, 0.9), alarmed="a", silent=("c:2379",)), COMPACTED), Defragment("a:2379")),
        # every member has room again: disarm the alarm
        ((reading_with(member("a", 0.3, 0.3), alarmed="a"), COMPACTED), Disarm((ord("a"),))),
        ((reading_with(member("a", 0.3, 0.3), alarmed="az"), COMPACTED), Disarm((ord("a"), ord("z")))),
        # a member has no room: the next write would raise a disarmed alarm again
        ((reading_with(member("a", 0.99, 0.98), alarmed="a"), COMPACTED), None),
        ((reading_with(member("a", 0.98, 0.98), member("b", 0.99, 0.98), alarmed="a"), COMPACTED), None),
        # a member reports its free pages only after its next write, which the alarm refuses
        ((reading_with(member("a", 0.3, 0.3), member("b", 0.99, 0.98), alarmed="a"), COMPACTED), Defragment("b:2379")),
        ((reading_with(BEHIND, member("b", 0.99, 0.98), alarmed="b"), COMPACTED), None),
        # no defragmentation if a compaction is due soon
        ((reading_with(member("a", 1.0, 0.9), alarmed="a"), replace(OLDER, compacted_at=NOW - 0.5)), None),
        ((reading_with(member("a", 1.0, 0.9), alarmed="a"), replace(OLDER, compacted_at=NOW - 2)), Compact(500)),
        ((reading_with(alarmed="a"), COMPACTED), None),
    ],
)
def test_the_next_step(case: tuple[SpaceReading, StepHistory], expected: SpaceStep | None) -> None:
    """The step follows from one reading of the members and the history of steps."""
    reading, done = case
    assert plan(reading, False, done, NOW, SETTINGS) == expected


def test_a_refusing_master_defragments_sooner() -> None:
    """While commands are refused, a member is defragmented again after a shorter pause."""
    reading = reading_with(member("a", 0.96, 0.5))
    done = replace(COMPACTED, defragmented_at={"a:2379": NOW - 60})
    assert plan(reading, False, done, NOW, SETTINGS) is None
    assert plan(reading, True, done, NOW, SETTINGS) == Defragment("a:2379")


@pytest.mark.parametrize(
    ("reading", "refusing", "expected"),
    [
        (reading_with(), False, False),
        (reading_with(EMPTY), False, False),
        (reading_with(member("a", 0.79, 0.79)), False, False),
        (reading_with(member("a", 0.81, 0.81)), False, True),
        # hysteresis: commands are refused until clearly more room is free
        (reading_with(member("a", 0.78, 0.78)), True, True),
        (reading_with(member("a", 0.81, 0.74)), True, False),
        # most members report late what a compaction has freed
        (reading_with(EMPTY, member("b", 0.81, 0.81)), False, False),
        # one full file is enough
        (reading_with(EMPTY, member("b", 0.99, 0.3)), False, True),
        # free pages in a large file are reused; if there are few, the next large write may not fit
        (reading_with(member("a", 0.98, 0.2)), False, False),
        (reading_with(member("a", 0.99, 0.2)), False, True),
        (reading_with(member("a", 0.96, 0.6)), False, True),
        # under the alarm etcd refuses every write
        (reading_with(EMPTY, alarmed="z"), False, True),
        (reading_with(alarmed="z"), False, True),
    ],
)
def test_when_commands_must_wait(reading: SpaceReading, refusing: bool, expected: bool) -> None:
    """Commands are refused from about 80 % of the quota, counted by pages in use."""
    assert must_refuse(reading, refusing, SETTINGS) is expected


def status(db: int, quota: int = 0, errors: tuple[str, ...] = (), number: int = 7) -> MemberStatus:
    return MemberStatus(number, 7, "3.5.30", db, db, 2, 9, 40, errors, quota)


def test_statuses_of_members_become_one_reading() -> None:
    """Alarms are parsed from the errors of a status, members without an answer are listed, and a member with two
    addresses counts once."""
    reading = reading_of(
        [("a:1", status(10, errors=("memberID:7 alarm:NOSPACE ", "memberID:9 alarm:CORRUPT "))), ("b:1", None),
         ("c:1", status(10)), ("d:1", status(10, number=8))], SETTINGS, 5,
    )  # fmt: skip
    assert (reading.alarmed, reading.unanswered, reading.revision) == (frozenset({7}), ("b:1",), 40)
    assert [item.is_leader for item in reading.members] == [True, False]
    assert reading.is_leading
    assert not reading_of([("a:1", status(10))], SETTINGS).is_leading


@pytest.mark.parametrize(
    ("reported", "alarm", "expected"),
    [
        (status(10), "", QUOTA),
        (status(10, quota=777), "", 777),  # the member's own report wins
        (status(2 * QUOTA), "", QUOTA),  # one write may exceed the quota
        (status(100 << 20), "", ETCD_QUOTA_BYTES),  # the member works, so the configured quota is wrong
        (status(100 << 20), "memberID:7 alarm:NOSPACE ", QUOTA),
        (status(2 * ETCD_QUOTA_BYTES), "", 2 * ETCD_QUOTA_BYTES),
    ],
)
def test_which_quota_counts(reported: MemberStatus, alarm: str, expected: int) -> None:
    reported = replace(reported, errors=(alarm,) if alarm else ())
    assert reading_of([("a:1", reported)], SETTINGS).members[0].quota_bytes == expected


def test_messages_show_the_use_and_the_next_step() -> None:
    """The messages have figures, and name the option to change if masterd cannot make room."""
    assert describe(reading_with(member("a", 0.9, 0.83))) == (
        "etcd's database is 83% full (0.1 MiB of 0.1 MiB in use, file 0.1 MiB at a:2379)"
    )
    assert "NOSPACE" in describe(reading_with(EMPTY, alarmed="a"))
    assert "NOSPACE" in describe(reading_with(alarmed="a"))
    full = reading_with(member("a", 0.9, 0.85))
    assert waiting_reason(full, JUST_COMPACTED, NOW, SETTINGS) == "masterd is freeing space"
    assert "--quota-backend-bytes" in waiting_reason(full, COMPACTED, NOW, SETTINGS)
    waiting = replace(COMPACTED, defragmented_at={"b:2379": NOW - 1})
    assert "no member is defragmented more often" in waiting_reason(reading_with(OTHER_BIG), waiting, NOW, SETTINGS)
