"""Decides how full etcd is, whether commands must be refused, and the next step that frees space. Pure.

etcd counts its database file against its quota, free pages included. When the file reaches the quota, etcd raises the
NOSPACE alarm. From then on it refuses every put and every lease, until space was freed *and* the alarm disarmed.
Deleting keys and compacting history make pages free, and etcd reuses them; only defragmenting shrinks the file. So:

- If the pages in use come near the quota, commands are refused, history is compacted, the journal is truncated earlier.
- If the file is large and has free pages, members are defragmented, one at a time, etcd's leader last.
- Under the alarm all of that happens at once; then the alarm is disarmed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from nodestore.etcd.types import MemberStatus

ETCD_QUOTA_BYTES = 2 << 30
"""etcd's default, used if --quota-backend-bytes is not given."""
_UNCOUNTED_BYTES = 64 << 20
_BEHIND_REVISIONS = 1_000
_NEVER = float("-inf")
_FREEING = "masterd is freeing space"
_NOSPACE = re.compile(r"memberID:(\d+) alarm:NOSPACE")


@dataclass(frozen=True, kw_only=True)
class SpaceSettings:
    """Thresholds and intervals for freeing space and refusing commands. Fractions are of the quota, times in seconds.

    quota_bytes: the smallest --quota-backend-bytes of all members. A quota that a member reports (etcd 3.6 and later)
        takes precedence.
    make_room_at: from this fraction of pages in use on, space is freed while commands are still accepted.
    compact_growth: once the pages in use have grown by this much since the last compaction, the next one is due. A
        compaction must begin early, because it needs space itself: it rewrites pages that hold live data next to
        dropped history, and frees pages only afterwards.
    refuse_at, resume_at: commands are refused once the pages in use reach `refuse_at`, until below `resume_at`.
    defragment_at: from this size of its file on, a member with enough free pages is defragmented.
    nearly_full_at: the alarm is disarmed only while every file is smaller than this. It also replaces `full_at` as the
        limit for refusing commands while the pages in use are at least half of this fraction.
    full_at: commands are refused once a file has this size: the next write would raise the alarm, even if many pages
        are free.
    worth_defragmenting: a member is defragmented only if it has at least this many free pages; under the alarm, a fifth
        of this.
    worth_truncating: size of the journal from which on it is truncated early.
    """

    quota_bytes: int = 256 << 20
    make_room_at: float = 0.65
    compact_growth: float = 0.15
    refuse_at: float = 0.80
    resume_at: float = 0.75
    defragment_at: float = 0.80
    nearly_full_at: float = 0.95
    full_at: float = 0.99
    worth_defragmenting: float = 0.10
    worth_truncating: float = 0.05
    compact_every_s: float = 5.0
    truncate_every_s: float = 3.0
    defragment_every_s: float = 300.0
    write_amplification: float = 4.0
    """Bytes written to etcd for each byte of the journal: the entry itself, and the views of what it changes."""
    lag_s: float = 2.0
    """Delay of the sizes that members report. etcd updates them at the end of each write to disk."""
    urgently_every_s: float = 10.0
    """In place of `defragment_every_s` under the alarm, or while commands are refused."""
    compaction_lag_s: float = 1.0
    """How long members need to free pages after a compaction."""
    check_every_s: float = 1.0
    standby_check_every_s: float = 5.0
    """The interval of standbys, and of a leader that commits nothing while `is_calm`."""


@dataclass(frozen=True, slots=True)
class MemberSpace:
    """The sizes that one member has reported."""

    endpoint: str
    member: int
    is_leader: bool
    db_bytes: int
    in_use_bytes: int
    quota_bytes: int
    is_behind: bool = False
    """It has not yet applied revisions that other members have."""

    @property
    def file_fraction(self) -> float:
        """Size of the database file, as a fraction of the quota."""
        return self.db_bytes / self.quota_bytes


@dataclass(frozen=True)
class SpaceReading:
    """The sizes of all members at one check.

    unanswered: endpoints of members that did not answer. alarmed: ids of members whose NOSPACE alarm is raised.
    journal_bytes: upper bound of what truncation can free; only a leader knows it.
    """

    members: tuple[MemberSpace, ...] = ()
    unanswered: tuple[str, ...] = ()
    alarmed: frozenset[int] = frozenset()
    revision: int = 0
    is_leading: bool = False
    journal_bytes: int = 0

    @cached_property
    def in_use_bytes(self) -> int:
        """Bytes in use: the smallest value that an up-to-date member reports."""
        # All members hold the same data, but their values differ after a compaction: the member that executed the
        # request reports the freed pages at once, the others only after the next write. Cached, as every command
        # reads it.
        return min((member.in_use_bytes for member in self.members if not member.is_behind), default=0)

    @cached_property
    def quota_bytes(self) -> int:
        return min((member.quota_bytes for member in self.members), default=1)

    @cached_property
    def use_fraction(self) -> float:
        """The pages in use, as a part of the quota."""
        return self.in_use_bytes / self.quota_bytes

    @property
    def largest(self) -> MemberSpace | None:
        return max(self.members, key=lambda member: member.file_fraction, default=None)

    def free_fraction(self, member: MemberSpace) -> float:
        """Bytes that defragmenting this member frees, as a fraction of the quota."""
        return (member.db_bytes - self.in_use_bytes) / member.quota_bytes


@dataclass(frozen=True, slots=True)
class StepHistory:
    """The steps that this process has executed, with their times by the monotonic clock."""

    compacted_revision: int = 0
    compacted_at: float = _NEVER
    least_use: float = 1.0
    """The smallest fraction in use since the last compaction."""
    truncated_at: float = _NEVER
    defragmented_at: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Compact:
    """Compact etcd's history before `revision`."""

    revision: int


@dataclass(frozen=True, slots=True)
class Truncate:
    """Write a snapshot and truncate the journal before it, earlier than retention would."""


@dataclass(frozen=True, slots=True)
class Defragment:
    """Defragment one member, which removes the free pages from its file."""

    endpoint: str


@dataclass(frozen=True, slots=True)
class Disarm:
    """Disarm the NOSPACE alarms of these members."""

    members: tuple[int, ...]


SpaceStep = Compact | Truncate | Defragment | Disarm


def reading_of(
    statuses: Iterable[tuple[str, MemberStatus | None]], settings: SpaceSettings, journal_bytes: int | None = None
) -> SpaceReading:
    """The reading from the members' statuses, by endpoint.

    A status is None if the member did not answer. journal_bytes: None if this masterd does not lead.
    """
    listed = list(statuses)
    answered = [(endpoint, status) for endpoint, status in listed if status is not None]
    alarmed = frozenset(
        int(member_id) for _, status in answered for error in status.errors for member_id in _NOSPACE.findall(error)
    )
    revision = max((status.revision for _, status in answered), default=0)
    members = {
        status.member: MemberSpace(
            endpoint, status.member, status.member == status.leader, status.db_bytes, status.db_in_use_bytes,
            quota_of(status, settings, bool(alarmed)), status.revision < revision - _BEHIND_REVISIONS,
        )
        for endpoint, status in answered
    }  # fmt: skip
    return SpaceReading(
        tuple(members.values()),
        tuple(endpoint for endpoint, status in listed if status is None),
        alarmed,
        revision,
        journal_bytes is not None,
        journal_bytes or 0,
    )


def quota_of(status: MemberStatus, settings: SpaceSettings, alarmed: bool) -> int:
    """The member's quota: the one that it reports. If it reports none, the configured one, unless the file is so large
    that the real quota must be larger."""
    if status.quota_bytes:
        return status.quota_bytes
    if not alarmed and status.db_bytes > 1.25 * settings.quota_bytes + _UNCOUNTED_BYTES:
        # The file is far above the configured quota, but no alarm is raised: the real quota must be larger. Assume
        # etcd's default, or the size of the file if that is larger. A file slightly above the quota is no evidence,
        # because etcd does not count the writes of the last 100 ms.
        return max(ETCD_QUOTA_BYTES, status.db_bytes)
    return settings.quota_bytes


def must_refuse(reading: SpaceReading, refusing: bool, settings: SpaceSettings) -> bool:
    """Whether commands must be refused. refusing: whether they are refused already."""
    if reading.alarmed:
        return True
    if reading.use_fraction >= (settings.resume_at if refusing else settings.refuse_at):
        return True
    limit = settings.nearly_full_at if reading.use_fraction >= settings.nearly_full_at / 2 else settings.full_at
    return any(member.file_fraction >= limit for member in reading.members)


def may_fill(reading: SpaceReading, written_bytes: int, settings: SpaceSettings) -> bool:
    """Whether writes since this reading may have filled etcd up to `refuse_at`.

    written_bytes: growth of the journal that the reading may not include. The members are read only periodically, and
    the sizes that they report lag.
    """
    if not reading.members:
        return False
    return (
        reading.use_fraction + settings.write_amplification * written_bytes / reading.quota_bytes >= settings.refuse_at
    )


def is_calm(reading: SpaceReading, settings: SpaceSettings) -> bool:
    """Whether so little is in use that the leader may check less often while its journal does not grow."""
    # The growth of the journal is a sufficient criterion, because no program but the leader writes much into etcd.
    return (
        bool(reading.members)
        and not reading.alarmed
        and reading.use_fraction < settings.make_room_at / 2
        and all(member.file_fraction < settings.defragment_at for member in reading.members)
    )


def plan(
    reading: SpaceReading, refusing: bool, history: StepHistory, now: float, settings: SpaceSettings
) -> SpaceStep | None:
    """The next step; None if nothing is to be done, or nothing can be done now. refusing: see `must_refuse`."""
    urgent = bool(reading.alarmed) or refusing
    crowded = reading.use_fraction >= settings.make_room_at
    grown = reading.is_leading and reading.use_fraction - history.least_use >= settings.compact_growth
    if (urgent or crowded or grown) and reading.revision > history.compacted_revision:
        every_s = settings.compaction_lag_s if urgent else settings.compact_every_s
        if history.truncated_at > history.compacted_at or now - history.compacted_at >= every_s:
            return Compact(reading.revision)
        if urgent:
            return None  # wait until the next compaction is possible: it may free enough
    if crowded and _may_truncate(reading, history, now, settings):
        return Truncate()
    member = _to_defragment(reading, urgent, history, now, settings)
    if member is not None:
        return Defragment(member.endpoint)
    if (
        reading.alarmed
        and reading.members
        and all(member.file_fraction < settings.nearly_full_at for member in reading.members)
    ):
        return Disarm(tuple(sorted(reading.alarmed)))
    return None


def _may_truncate(reading: SpaceReading, history: StepHistory, now: float, settings: SpaceSettings) -> bool:
    return (
        reading.is_leading
        and reading.journal_bytes >= settings.worth_truncating * reading.quota_bytes
        and now - history.truncated_at >= settings.truncate_every_s
    )


def _to_defragment(
    reading: SpaceReading, urgent: bool, history: StepHistory, now: float, settings: SpaceSettings
) -> MemberSpace | None:
    """The member to defragment: the fullest first, etcd's leader last, and none again before its interval has passed.

    If a member does not answer, the quorum may need every other one. So none is defragmented then, unless urgent.
    """
    if now - history.compacted_at < settings.compaction_lag_s or (reading.unanswered and not urgent):
        return None
    every_s = settings.urgently_every_s if urgent else settings.defragment_every_s
    worth = settings.worth_defragmenting / (5 if reading.alarmed else 1)
    candidates = [
        member
        for member in reading.members
        if member.file_fraction >= settings.defragment_at
        and reading.free_fraction(member) >= worth
        and now - history.defragmented_at.get(member.endpoint, _NEVER) >= every_s
    ]
    return min(candidates, key=lambda member: (member.is_leader, -member.file_fraction), default=None)


def waiting_reason(reading: SpaceReading, history: StepHistory, now: float, settings: SpaceSettings) -> str:
    """Why commands are refused while no step is due, for the error message."""
    if now - history.compacted_at < 2 * settings.compaction_lag_s:
        return _FREEING
    if any(
        reading.free_fraction(member) >= settings.worth_defragmenting
        and now - history.defragmented_at.get(member.endpoint, _NEVER) < settings.urgently_every_s
        for member in reading.members
    ):
        return f"{_FREEING} (no member is defragmented more often than every {settings.urgently_every_s:g} s)"
    return (
        "nothing more can be freed: delete named snapshots (nodectl snapshot list) and keys of other programs in this "
        "etcd, or raise --quota-backend-bytes on every member and masterd's --etcd-quota-bytes"
    )


def describe(reading: SpaceReading) -> str:
    """How full etcd is, as the beginning of a sentence."""
    largest = reading.largest
    if largest is None:
        return "etcd's database is full (NOSPACE alarm)" if reading.alarmed else "etcd's members report no sizes"
    size = f"{_mib(reading.in_use_bytes)} of {_mib(reading.quota_bytes)} in use, file {_mib(largest.db_bytes)}"
    if reading.alarmed:
        return f"etcd's database is full (NOSPACE alarm; {size} at {largest.endpoint})"
    return f"etcd's database is {max(reading.use_fraction, 0.0):.0%} full ({size} at {largest.endpoint})"


def _mib(count: int) -> str:
    return f"{count / (1 << 20):.1f} MiB"
