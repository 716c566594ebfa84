"""Keeps room in etcd: looks at the members, refuses commands when it must, and takes the steps that `space` plans.

Runs in every masterd. The leader does all of it. Standbys only look, unless the NOSPACE alarm stands: nobody can win
a term then, so one after another they try to mend it, the best ranked first; compacting, defragmenting and disarming
need no term. All of that is unfenced and harmless to do twice. Two members are never defragmented at once: one that
does not answer reads is waited for, whoever defragments it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NoReturn, Protocol

from masterd.replication.cluster_view import ClusterView
from masterd.upkeep.space_plan import (
    Compact,
    Defragment,
    Disarm,
    SpaceReading,
    SpaceSettings,
    SpaceStep,
    StepHistory,
    Truncate,
    describe,
    is_calm,
    may_fill,
    must_refuse,
    plan,
    reading_of,
    waiting_reason,
)
from nodestore.errors import Compacted, Denied, NodectlError, NoSpace, OutcomeUnknown, Unavailable
from nodestore.etcd import maintenance as maintenance
from nodestore.etcd.maintenance import Alarm
from nodestore.etcd.session import Etcd, MemberStatus
from nodestore.support.logs import RateLimitedLog
from nodestore.support.waiting import set_within

log = logging.getLogger(__name__)

_COMPACT_S = 20.0
_DEFRAGMENT_S = 120.0
_AFTER_STEP_S = 0.2
_AGAIN_DENIED_S = 60.0
_STALE_S = 30.0
_LOOKS_MAX = 100
_RANK_DELAY_S = 3.0
"""For each better placed masterd, before a standby mends what the alarm stopped; three times that for a leader."""


class JournalOwner(Protocol):
    """What a leader can do for room."""

    @property
    def journal_bytes(self) -> int:
        """What truncation could free at most."""

    @property
    def bytes_seen(self) -> int:
        """Only grows: the more, the sooner it is looked again."""

    def subscribe(self, grew: Callable[[], None]) -> Callable[[], None]:
        """Call back whenever `bytes_seen` has grown; returns how to stop that."""

    async def make_room(self) -> None:
        """Snapshot and truncate."""


@dataclass(frozen=True, slots=True)
class _Denial:
    """A right that is missing, and when it is worth asking again."""

    why: str
    until: float


class SpaceKeeper:
    """`etcd` has the maintenance credential, `session` is the one that everything else of this masterd goes through.

    `rank`: how many masterds should try to mend it before this one.
    """

    def __init__(
        self,
        etcd: Etcd,
        session: Etcd,
        cluster_view: ClusterView,
        settings: SpaceSettings,
        rank: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._etcd, self._session, self._cluster_view, self._settings = etcd, session, cluster_view, settings
        self._rank, self._clock = rank, clock
        self._journal_owner: JournalOwner | None = None
        self._on_refusal_changed: Callable[[], None] = lambda: None
        self._reading = SpaceReading()
        self._seen_at = 0.0
        self._full_since: float | None = None
        self._step_history = StepHistory()
        self._status_denial: _Denial | None = None
        """Why the members' sizes cannot be asked for."""
        self._step_denial: _Denial | None = None
        """Why nothing can be done about them."""
        self._refusing = False
        self._journal_samples: deque[tuple[float, int]] = deque([(0.0, 0)], maxlen=_LOOKS_MAX)
        """What the journal had got at each look; the first is what the members surely have in their numbers."""
        self._waiting_for = ""
        self._wake = asyncio.Event()
        """Set when the pause between two looks may be over before its time."""
        self._wake_at_bytes = 0
        """That is, by bytes of the journal."""
        self._stop_listening: Callable[[], None] = lambda: None
        self._limited_log = RateLimitedLog(log, 60.0)

    # --- what others ask ---

    def set_journal_owner(self, room: JournalOwner | None, changed: Callable[[], None] = lambda: None) -> None:
        """This masterd leads from now on, or (None) does not any more. `changed`: called when `refusal` has changed."""
        self._journal_owner, self._on_refusal_changed = room, changed
        self._stop_listening()
        self._stop_listening = lambda: None
        if room is not None:
            self._journal_samples.clear()
            self._journal_samples.append((self._clock(), room.bytes_seen))
            self._stop_listening = room.subscribe(self._on_growth)
        self._wake.set()

    def _on_growth(self) -> None:
        if self._journal_owner is not None and self._journal_owner.bytes_seen >= self._wake_at_bytes:
            self._wake.set()

    def refusal(self) -> NoSpace | None:
        """Why no command can be taken just now; None when it can."""
        if self._clock() - self._seen_at > _STALE_S:
            return None
        if self._refusing:
            return NoSpace(f"{describe(self._reading)}, so no commands are taken: {self._waiting_reason()}")
        if self._journal_owner is not None and may_fill(
            self._reading, self._journal_owner.bytes_seen - self._journal_samples[0][1], self._settings
        ):
            return NoSpace(f"{describe(self._reading)}, and much has just been written: try again in a moment")
        return None

    @property
    def problem(self) -> str | None:
        """What an operator should know."""
        if self._refusing:
            return f"{describe(self._reading)}: {self._waiting_reason()}"
        if self._status_denial is not None:
            return f"nobody sees how full etcd is ({self._status_denial.why}): start masterd with --maintenance-user"
        return None

    def _waiting_reason(self) -> str:
        denial = self._step_denial or self._status_denial
        if denial is None:
            return self._waiting_for or waiting_reason(self._reading, self._step_history, self._clock(), self._settings)
        etcdctl = f"etcdctl --endpoints={','.join(self._etcd.settings.endpoints)}"
        return (
            f"masterd may not make room ({denial.why}): start it with --maintenance-user, or as root run "
            f"`{etcdctl} compact REVISION`, `{etcdctl} defrag`, `{etcdctl} alarm disarm` (docs/recovery.md)"
        )

    # --- the loop ---

    async def run(self) -> NoReturn:
        """Look and act until cancelled. A fault is told and tried again at the next look."""
        while True:
            acted = False
            try:
                acted = await self._check()
            except NodectlError as error:
                self._limited_log.log(logging.WARNING, f"room in etcd: {error}; again later", about=type(error))
            await self._wait_for_check(_AFTER_STEP_S if acted else self._every_s)

    @property
    def _every_s(self) -> float:
        busy = self._reading.alarmed or (self._journal_owner is not None and not is_calm(self._reading, self._settings))
        return (
            self._settings.check_every_s
            if busy and self._status_denial is None
            else self._settings.standby_check_every_s
        )

    async def _wait_for_check(self, seconds: float) -> None:
        """Until it is time, or much was written since: etcd can be filled within a second. Where anything is written at
        all the next look is due as usual, however calm it was."""
        room, now = self._journal_owner, asyncio.get_running_loop().time
        begun = now()
        bytes_before = 0 if room is None else room.bytes_seen
        enough, self._wake_at_bytes = bytes_before + self._settings.quota_bytes // 50, bytes_before + 1
        while self._journal_owner is room and (room is None or room.bytes_seen < enough):
            self._wake.clear()
            if room is not None and room.bytes_seen > bytes_before:
                self._wake_at_bytes = enough
                if self._status_denial is None:
                    seconds = min(seconds, self._settings.check_every_s)
            if not await set_within(self._wake, begun + seconds - now()):
                return

    async def _check(self) -> bool:
        """One look, and a step if one is due; whether one was taken."""
        room = self._journal_owner
        self._sample_journal(room)
        statuses = [(endpoint, await self._status(endpoint)) for endpoint in self._etcd.settings.endpoints]
        seen = reading_of(statuses, self._settings, None if room is None else room.journal_bytes)
        if self._status_denial is not None:
            found = await maintenance.alarms(self._session)  # any user may ask for these
            seen = replace(seen, alarmed=frozenset(alarm.member for alarm in found if alarm.kind == "NOSPACE"))
        elif not seen.members:
            return False  # nobody answers: what was true is the best guess, until it is stale
        self._update_reading(seen)
        if not self._is_our_turn():
            self._waiting_for = "another masterd is making room" if self._refusing else ""
            return False
        if self._status_denial is not None or (
            self._step_denial is not None and self._clock() < self._step_denial.until
        ):
            return False
        step = plan(seen, self._refusing, self._step_history, self._clock(), self._settings)
        if step is None:
            return False
        return await self._execute_step(step, seen)

    def _sample_journal(self, room: JournalOwner | None) -> None:
        if room is None:
            return
        now = self._clock()
        self._journal_samples.append((now, room.bytes_seen))
        while len(self._journal_samples) > 1 and self._journal_samples[1][0] <= now - self._settings.lag_s:
            self._journal_samples.popleft()

    async def _status(self, endpoint: str) -> MemberStatus | None:
        if self._status_denial is not None and self._clock() < self._status_denial.until:
            return None
        try:
            status = await self._etcd.status(endpoint)
        except Unavailable:
            return None
        except Denied as error:
            self._status_denial = self._denial(error)
            return None
        self._status_denial = None
        return status

    def _denial(self, error: Denied) -> _Denial:
        settings = self._etcd.settings
        who = f"user {settings.user}" if settings.user else "its certificate" if settings.cert else "no user"
        why = f"{who}: {error}"
        self._limited_log.log(
            logging.WARNING, f"masterd cannot look after room in etcd, which asks for root's rights ({why})"
        )
        return _Denial(why, self._clock() + _AGAIN_DENIED_S)

    def _update_reading(self, seen: SpaceReading) -> None:
        now = self._clock()
        refusing = must_refuse(seen, self._refusing, self._settings)
        self._step_history = replace(self._step_history, least_use=min(self._step_history.least_use, seen.use_fraction))
        before, self._refusing = self._refusing, refusing
        self._reading, self._seen_at = seen, now
        self._full_since = None if not seen.alarmed else self._full_since or now
        self._waiting_for = ""
        if refusing != before:
            log.warning("%s: %s", describe(seen), "commands are refused" if refusing else "commands go on")
            self._on_refusal_changed()

    def _is_our_turn(self) -> bool:
        if self._journal_owner is not None:
            return True
        if self._full_since is None:
            return False
        patience_s = self._rank() * _RANK_DELAY_S + (0 if self._cluster_view.leader.is_vacant else 3 * _RANK_DELAY_S)
        return self._clock() - self._full_since >= patience_s

    # --- the steps ---

    async def _execute_step(self, step: SpaceStep, seen: SpaceReading) -> bool:
        taken = True
        try:
            match step:
                case Compact(revision):
                    await self._compact(revision, seen)
                case Truncate():
                    await self._truncate(seen)
                case Defragment(endpoint):
                    taken = await self._defragment(endpoint, seen)
                case Disarm(members):
                    await self._disarm(members)
        except Denied as error:
            self._step_denial = self._denial(error)
            return False
        self._step_denial = None
        return taken

    async def _compact(self, revision: int, seen: SpaceReading) -> None:
        self._step_history = replace(self._step_history, compacted_at=self._clock())
        with contextlib.suppress(Compacted):  # somebody else has been faster, etcd itself for one
            await self._etcd.compact(revision, physical=True, timeout_s=_COMPACT_S)
        self._step_history = replace(
            self._step_history, compacted_revision=revision, compacted_at=self._clock(), least_use=1.0
        )
        log.info("%s: compacted up to revision %d", describe(seen), revision)

    async def _truncate(self, seen: SpaceReading) -> None:
        room = self._journal_owner
        self._step_history = replace(self._step_history, truncated_at=self._clock())
        if room is None:
            return
        log.info("%s: truncating the journal, which has %d bytes", describe(seen), room.journal_bytes)
        await room.make_room()
        self._step_history = replace(self._step_history, truncated_at=self._clock())

    async def _defragment(self, endpoint: str, seen: SpaceReading) -> bool:
        for member in seen.members:
            if member.endpoint != endpoint and not await maintenance.answers_reads(self._etcd, member.endpoint):
                self._waiting_for = f"waiting for etcd member {member.endpoint}, which answers no reads"
                return False
        begun = self._clock()
        self._step_history = replace(
            self._step_history, defragmented_at={**self._step_history.defragmented_at, endpoint: begun}
        )
        self._session.switch_from_address(endpoint)  # it answers nobody meanwhile
        log.info("%s: defragmenting %s", describe(seen), endpoint)
        try:
            await self._etcd.defragment(endpoint, timeout_s=_DEFRAGMENT_S)
        except OutcomeUnknown as error:
            log.warning("defragmenting %s: %s", endpoint, error)
        self._step_history = replace(
            self._step_history, defragmented_at={**self._step_history.defragmented_at, endpoint: self._clock()}
        )
        log.info("defragmented %s in %.1f s", endpoint, self._clock() - begun)
        return True

    async def _disarm(self, members: tuple[int, ...]) -> None:
        for member in members:
            await maintenance.disarm(self._etcd, Alarm(member, "NOSPACE"))
        log.warning("there is room in etcd again: the NOSPACE alarm is disarmed")
