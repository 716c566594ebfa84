"""How full etcd is, whether commands must wait for room, and the next step that makes some. Pure.

etcd counts its database file against its quota, free pages included. A file that has reached it raises the NOSPACE
alarm: from then on every put and every lease is refused, until somebody has made room *and* disarmed the alarm. Pages
become free by deleting keys and compacting history, and are used again; only defragmenting gives them back. So:

- pages in use near the quota: commands are refused, history is compacted, the journal is truncated earlier;
- a large file with free pages in it: members are defragmented, one at a time, etcd's leader last;
- the alarm: all of that at once, and then it is disarmed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from nodestore.etcd.types import MemberStatus

ETCD_QUOTA_BYTES = 2 << 30
"""etcd's own, where --quota-backend-bytes is not given."""
_UNCOUNTED_BYTES = 64 << 20
_BEHIND_REVISIONS = 1_000
_NEVER = float("-inf")
_BUSY = "masterd is making room"
_NOSPACE = re.compile(r"memberID:(\d+) alarm:NOSPACE")


@dataclass(frozen=True)
class SpaceSettings:
    """Parts are of the quota, times are seconds.

    quota_bytes: the least --quota-backend-bytes of all members; from 3.6 on they say it themselves.
    make_room_at: of pages in use; from there on room is made while commands go on.
    compact_growth: of pages in use; when they have grown by so much since the last compaction there is another one.
        Compacting rewrites what lives among the history that it drops, before that is free: it must not come late.
    refuse_at, resume_at: of pages in use; commands are refused from the one on until below the other.
    defragment_at: of the file; from there on members with enough free pages are defragmented.
    brim: of the file; no alarm is disarmed above it, and a file that is half in use counts as full there.
    full_at: of the file; the next write would raise the alarm, however many pages are free.
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
    """Bytes in etcd for each in the journal: the entry itself, and the views of what it changes."""
    lag_s: float = 2.0
    """What was written later may be missing in the members' numbers: they count at the end of each write to disk."""
    urgently_every_s: float = 10.0
    """The same while nothing is taken anyway: under the alarm, or when commands are refused."""
    settle_s: float = 1.0
    """How long the members need to free pages after a compaction."""
    check_every_s: float = 1.0
    standby_check_every_s: float = 5.0
    """A leader too looks no more often while it commits nothing and there is room in plenty."""


@dataclass(frozen=True, slots=True)
class MemberSpace:
    """One member that has answered."""

    endpoint: str
    member: int
    is_leader: bool
    db_bytes: int
    in_use_bytes: int
    quota_bytes: int
    is_behind: bool = False
    """It has not applied yet what others have."""

    @property
    def file_fraction(self) -> float:
        """The file, as a part of the quota."""
        return self.db_bytes / self.quota_bytes


@dataclass(frozen=True)
class SpaceReading:
    """etcd at one look. `alarmed`: members whose NOSPACE alarm stands; `journal_bytes`: what truncation could free,
    known to a leader only. Every command looks at it: what follows from it is kept."""

    members: tuple[MemberSpace, ...] = ()
    unanswered: tuple[str, ...] = ()
    alarmed: frozenset[int] = frozenset()
    revision: int = 0
    is_leading: bool = False
    journal_bytes: int = 0

    @cached_property
    def in_use_bytes(self) -> int:
        """By the least of the members that are up to date: they hold the same, but what compaction has freed shows only
        after the next write. On the one that was asked to compact it shows at once."""
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
        """What defragmenting that member gives back, as a part of the quota."""
        return (member.db_bytes - self.in_use_bytes) / member.quota_bytes


@dataclass(frozen=True, slots=True)
class StepHistory:
    """What this process has done so far, and when, by the monotonic clock."""

    compacted_revision: int = 0
    compacted_at: float = _NEVER
    least_use: float = 1.0
    """The least that was in use since."""
    truncated_at: float = _NEVER
    defragmented_at: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Compact:
    """Forget history before `revision`."""

    revision: int


@dataclass(frozen=True, slots=True)
class Truncate:
    """Write a snapshot and delete the journal before it, however long it should have been kept."""


@dataclass(frozen=True, slots=True)
class Defragment:
    """Let one member give its free pages back."""

    endpoint: str


@dataclass(frozen=True, slots=True)
class Disarm:
    """There is room again: take these members' alarms back."""

    members: tuple[int, ...]


SpaceStep = Compact | Truncate | Defragment | Disarm


def reading_of(
    statuses: Iterable[tuple[str, MemberStatus | None]], settings: SpaceSettings, journal_bytes: int | None = None
) -> SpaceReading:
    """What the members said, by endpoint; None: it did not answer. `journal_bytes` None: we do not lead."""
    told = list(statuses)
    answered = [(endpoint, status) for endpoint, status in told if status is not None]
    alarmed = frozenset(
        int(found) for _, status in answered for error in status.errors for found in _NOSPACE.findall(error)
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
        tuple(endpoint for endpoint, status in told if status is None),
        alarmed,
        revision,
        journal_bytes is not None,
        journal_bytes or 0,
    )


def quota_of(status: MemberStatus, settings: SpaceSettings, alarmed: bool) -> int:
    """What the member's file must not reach. A file far beyond the quota that we were told, without an alarm, proves
    that we were told wrong; then it is taken to be etcd's own, or what the file is. A little beyond proves nothing:
    etcd does not count what was written in the last 100 ms."""
    if status.quota_bytes:
        return status.quota_bytes
    if not alarmed and status.db_bytes > 1.25 * settings.quota_bytes + _UNCOUNTED_BYTES:
        return max(ETCD_QUOTA_BYTES, status.db_bytes)
    return settings.quota_bytes


def must_refuse(seen: SpaceReading, refusing: bool, settings: SpaceSettings) -> bool:
    """Whether commands must wait for room. `refusing`: whether they do already."""
    if seen.alarmed:
        return True
    if seen.use_fraction >= (settings.resume_at if refusing else settings.refuse_at):
        return True
    limit = settings.nearly_full_at if seen.use_fraction >= settings.nearly_full_at / 2 else settings.full_at
    return any(member.file_fraction >= limit for member in seen.members)


def may_fill(seen: SpaceReading, written_bytes: int, settings: SpaceSettings) -> bool:
    """Whether what has gone into the journal since (`written_bytes`), with all that was written beside it, may fill
    etcd beyond what is allowed before its members say so: they are asked now and then, and their numbers lag."""
    if not seen.members:
        return False
    return seen.use_fraction + settings.write_amplification * written_bytes / seen.quota_bytes >= settings.refuse_at


def is_calm(seen: SpaceReading, settings: SpaceSettings) -> bool:
    """Whether so little is in use that, as long as the journal does not grow, it need not be looked often: others than
    its leader hardly write into this etcd."""
    return (
        bool(seen.members)
        and not seen.alarmed
        and seen.use_fraction < settings.make_room_at / 2
        and all(member.file_fraction < settings.defragment_at for member in seen.members)
    )


def plan(
    seen: SpaceReading, refusing: bool, done: StepHistory, now: float, settings: SpaceSettings
) -> SpaceStep | None:
    """The next step; None when nothing is to be done, or nothing can be done just now."""
    urgent = bool(seen.alarmed) or refusing
    crowded = seen.use_fraction >= settings.make_room_at
    grown = seen.is_leading and seen.use_fraction - done.least_use >= settings.compact_growth
    if (urgent or crowded or grown) and seen.revision > done.compacted_revision:
        every_s = settings.settle_s if urgent else settings.compact_every_s
        if done.truncated_at > done.compacted_at or now - done.compacted_at >= every_s:
            return Compact(seen.revision)
        if urgent:
            return None  # what the next one frees is worth waiting for
    if crowded and _may_truncate(seen, done, now, settings):
        return Truncate()
    member = _to_defragment(seen, urgent, done, now, settings)
    if member is not None:
        return Defragment(member.endpoint)
    if seen.alarmed and seen.members and all(member.file_fraction < settings.nearly_full_at for member in seen.members):
        return Disarm(tuple(sorted(seen.alarmed)))
    return None


def _may_truncate(seen: SpaceReading, done: StepHistory, now: float, settings: SpaceSettings) -> bool:
    return (
        seen.is_leading
        and seen.journal_bytes >= settings.worth_truncating * seen.quota_bytes
        and now - done.truncated_at >= settings.truncate_every_s
    )


def _to_defragment(
    seen: SpaceReading, urgent: bool, done: StepHistory, now: float, settings: SpaceSettings
) -> MemberSpace | None:
    """The member to defragment: the fullest first, etcd's leader last, nobody twice within its time. While a member
    is away the others are left alone, unless it is urgent: each of them is needed."""
    if now - done.compacted_at < settings.settle_s or (seen.unanswered and not urgent):
        return None
    every_s = settings.urgently_every_s if urgent else settings.defragment_every_s
    worth = settings.worth_defragmenting / (5 if seen.alarmed else 1)
    wanting = [
        member
        for member in seen.members
        if member.file_fraction >= settings.defragment_at
        and seen.free_fraction(member) >= worth
        and now - done.defragmented_at.get(member.endpoint, _NEVER) >= every_s
    ]
    return min(wanting, key=lambda member: (member.is_leader, -member.file_fraction), default=None)


def waiting_reason(seen: SpaceReading, done: StepHistory, now: float, settings: SpaceSettings) -> str:
    """What commands are waiting for while no step can be taken."""
    if now - done.compacted_at < 2 * settings.settle_s:
        return _BUSY
    if any(
        seen.free_fraction(member) >= settings.worth_defragmenting
        and now - done.defragmented_at.get(member.endpoint, _NEVER) < settings.urgently_every_s
        for member in seen.members
    ):
        return f"{_BUSY} (no member is defragmented more often than every {settings.urgently_every_s:g} s)"
    return (
        "nothing more can be freed: delete named snapshots (nodectl snapshot list) and whatever else is in this etcd, "
        "or raise --quota-backend-bytes on every member and masterd's --etcd-quota-bytes"
    )


def describe(seen: SpaceReading) -> str:
    """How full it is, as the beginning of a sentence."""
    largest = seen.largest
    if largest is None:
        return "etcd's database is full (NOSPACE alarm)" if seen.alarmed else "etcd's members do not say their sizes"
    size = f"{_mib(seen.in_use_bytes)} of {_mib(seen.quota_bytes)} in use, file {_mib(largest.db_bytes)}"
    if seen.alarmed:
        return f"etcd's database is full (NOSPACE alarm; {size} at {largest.endpoint})"
    return f"etcd's database is {max(seen.use_fraction, 0.0):.0%} full ({size} at {largest.endpoint})"


def _mib(count: int) -> str:
    return f"{count / (1 << 20):.1f} MiB"
