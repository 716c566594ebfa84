"""Keeps free space in etcd: reads the members' sizes, refuses commands when it must, executes what `space_plan` plans.

It runs in every masterd. The leader does all of it. A standby only reads the sizes, except under the NOSPACE alarm.
Under the alarm no term can be won, so the standbys try to clear it one after another, in order of rank. They may do so
without a term, because compacting, defragmenting and disarming are unfenced and idempotent. Two members are never
defragmented at once: before a member is defragmented, every other one must answer a read, and a member that is being
defragmented answers none.
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
_RETRY_DENIED_S = 60.0
_STALE_S = 30.0
_SAMPLES_MAX = 100
_RANK_DELAY_S = 3.0
"""How long a standby waits under the alarm for each masterd of a better rank. If there is a leader, the standby waits
three times this in addition."""


class JournalOwner(Protocol):
    """The leader's journal, as the space keeper uses it: its size, its growth and its truncation."""

    @property
    def journal_bytes(self) -> int:
        """Upper bound of the bytes that truncation can free."""

    @property
    def bytes_seen(self) -> int:
        """Bytes of all journal entries that this process has applied. It never decreases. Growth makes the next check
        earlier."""

    def subscribe(self, grew: Callable[[], None]) -> Callable[[], None]:
        """Call `grew` whenever `bytes_seen` has grown; return a function that ends the subscription."""

    async def make_room(self) -> None:
        """Write a snapshot and truncate the journal before it."""


@dataclass(frozen=True, slots=True)
class _Denial:
    """A missing permission, and the time (by the keeper's clock) of the next attempt."""

    why: str
    until: float


class SpaceKeeper:
    """Checks etcd's free space periodically and executes one step at a time.

    etcd: the session with the maintenance credentials. session: the session that the rest of this masterd uses.
    rank: the number of masterds that should try to clear the alarm before this one.
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
        self._read_at = 0.0
        self._alarmed_since: float | None = None
        self._step_history = StepHistory()
        self._status_denial: _Denial | None = None
        """Why the members' sizes cannot be read."""
        self._step_denial: _Denial | None = None
        """Why no step can be executed."""
        self._refusing = False
        self._journal_samples: deque[tuple[float, int]] = deque([(0.0, 0)], maxlen=_SAMPLES_MAX)
        """Time and `bytes_seen` at each recent check, oldest first. The sizes that members report may lag by
        `lag_s`, but they include all writes up to the first sample."""
        self._waiting_for = ""
        self._wake = asyncio.Event()
        """Ends the pause between two checks early."""
        self._wake_at_bytes = 0
        """The value of `bytes_seen` from which on `_wake` is set."""
        self._stop_listening: Callable[[], None] = lambda: None
        self._limited_log = RateLimitedLog(log, 60.0)

    # --- for the leader and the API ---

    def set_journal_owner(self, owner: JournalOwner | None, changed: Callable[[], None] = lambda: None) -> None:
        """Set the leader's journal when this masterd becomes the leader; None when it no longer leads.

        changed: called when commands start or stop being refused.
        """
        self._journal_owner, self._on_refusal_changed = owner, changed
        self._stop_listening()
        self._stop_listening = lambda: None
        if owner is not None:
            self._journal_samples.clear()
            self._journal_samples.append((self._clock(), owner.bytes_seen))
            self._stop_listening = owner.subscribe(self._on_growth)
        self._wake.set()

    def _on_growth(self) -> None:
        if self._journal_owner is not None and self._journal_owner.bytes_seen >= self._wake_at_bytes:
            self._wake.set()

    @property
    def is_refusing(self) -> bool:
        """Whether commands are refused because etcd is nearly full, as of the last reading."""
        return self._refusing and self._clock() - self._read_at <= _STALE_S

    def refusal(self) -> NoSpace | None:
        """The error with which commands must be refused now; None if they are accepted."""
        if self._clock() - self._read_at > _STALE_S:
            return None
        if self._refusing:
            return NoSpace(f"{describe(self._reading)}, so no commands are accepted: {self._waiting_reason()}")
        if self._journal_owner is not None and may_fill(
            self._reading, self._journal_owner.bytes_seen - self._journal_samples[0][1], self._settings
        ):
            return NoSpace(
                f"{describe(self._reading)}, and may be full after the most recent writes: retry in a moment"
            )
        return None

    @property
    def problem(self) -> str | None:
        """What an operator must know about etcd's free space; None if nothing."""
        if self._refusing:
            return f"{describe(self._reading)}: {self._waiting_reason()}"
        if self._status_denial is not None:
            return f"masterd cannot read how full etcd is ({self._status_denial.why}): start it with --maintenance-user"
        return None

    def _waiting_reason(self) -> str:
        denial = self._step_denial or self._status_denial
        if denial is None:
            return self._waiting_for or waiting_reason(self._reading, self._step_history, self._clock(), self._settings)
        etcdctl = f"etcdctl --endpoints={','.join(self._etcd.settings.endpoints)}"
        return (
            f"masterd is not permitted to free space in etcd ({denial.why}): start it with --maintenance-user, or as "
            f"root run `{etcdctl} compact REVISION`, `{etcdctl} defrag`, `{etcdctl} alarm disarm` (docs/recovery.md)"
        )

    # --- the loop ---

    async def run(self) -> NoReturn:
        """Check and execute steps until cancelled. A failed check is logged and retried at the next one."""
        while True:
            acted = False
            try:
                acted = await self._check()
            except NodectlError as error:
                self._limited_log.log(
                    logging.WARNING, f"cannot check or free space in etcd, retrying: {error}", about=type(error)
                )
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
        """Wait `seconds`, or less if the journal grows.

        If the journal grows at all, the wait is at most `check_every_s`. If it grows by 2 % of the quota, the wait ends
        at once: etcd can be filled within a second.
        """
        owner, now = self._journal_owner, asyncio.get_running_loop().time
        started = now()
        bytes_before = 0 if owner is None else owner.bytes_seen
        wake_at, self._wake_at_bytes = bytes_before + self._settings.quota_bytes // 50, bytes_before + 1
        while self._journal_owner is owner and (owner is None or owner.bytes_seen < wake_at):
            self._wake.clear()
            if owner is not None and owner.bytes_seen > bytes_before:
                self._wake_at_bytes = wake_at
                if self._status_denial is None:
                    seconds = min(seconds, self._settings.check_every_s)
            if not await set_within(self._wake, started + seconds - now()):
                return

    async def _check(self) -> bool:
        """Read the members' sizes and execute one step if one is due; return whether one was executed."""
        owner = self._journal_owner
        self._sample_journal(owner)
        statuses = [(endpoint, await self._status(endpoint)) for endpoint in self._etcd.settings.endpoints]
        reading = reading_of(statuses, self._settings, None if owner is None else owner.journal_bytes)
        if self._status_denial is not None:
            alarms = await maintenance.alarms(self._session)  # any user may read the alarms
            reading = replace(reading, alarmed=frozenset(alarm.member for alarm in alarms if alarm.kind == "NOSPACE"))
        elif not reading.members:
            return False  # no member answers: the last reading stays in use until it is stale
        self._update_reading(reading)
        if not self._is_our_turn():
            self._waiting_for = "another masterd is freeing space" if self._refusing else ""
            return False
        if self._status_denial is not None or (
            self._step_denial is not None and self._clock() < self._step_denial.until
        ):
            return False
        step = plan(reading, self._refusing, self._step_history, self._clock(), self._settings)
        if step is None:
            return False
        return await self._execute_step(step, reading)

    def _sample_journal(self, owner: JournalOwner | None) -> None:
        if owner is None:
            return
        now = self._clock()
        self._journal_samples.append((now, owner.bytes_seen))
        while len(self._journal_samples) > 1 and self._journal_samples[1][0] <= now - self._settings.lag_s:
            self._journal_samples.popleft()

    async def _status(self, endpoint: str) -> MemberStatus | None:
        if self._status_denial is not None and self._clock() < self._status_denial.until:
            return None
        try:
            status = await maintenance.status(self._etcd, endpoint)
        except Unavailable:
            return None
        except Denied as error:
            self._status_denial = self._denial(error)
            return None
        self._status_denial = None
        return status

    def _denial(self, error: Denied) -> _Denial:
        settings = self._etcd.settings
        credential = f"user {settings.user}" if settings.user else "its certificate" if settings.cert else "no user"
        why = f"{credential}: {error}"
        self._limited_log.log(
            logging.WARNING, f"masterd cannot keep free space in etcd, which needs etcd's root role ({why})"
        )
        return _Denial(why, self._clock() + _RETRY_DENIED_S)

    def _update_reading(self, reading: SpaceReading) -> None:
        now = self._clock()
        refusing = must_refuse(reading, self._refusing, self._settings)
        self._step_history = replace(
            self._step_history, least_use=min(self._step_history.least_use, reading.use_fraction)
        )
        before, self._refusing = self._refusing, refusing
        self._reading, self._read_at = reading, now
        self._alarmed_since = None if not reading.alarmed else self._alarmed_since or now
        self._waiting_for = ""
        if refusing != before:
            log.warning(
                "%s: %s", describe(reading), "commands are refused" if refusing else "commands are accepted again"
            )
            self._on_refusal_changed()

    def _is_our_turn(self) -> bool:
        if self._journal_owner is not None:
            return True
        if self._alarmed_since is None:
            return False
        patience_s = self._rank() * _RANK_DELAY_S + (0 if self._cluster_view.leader.is_vacant else 3 * _RANK_DELAY_S)
        return self._clock() - self._alarmed_since >= patience_s

    # --- the steps ---

    async def _execute_step(self, step: SpaceStep, reading: SpaceReading) -> bool:
        executed = True
        try:
            match step:
                case Compact(revision):
                    await self._compact(revision, reading)
                case Truncate():
                    await self._truncate(reading)
                case Defragment(endpoint):
                    executed = await self._defragment(endpoint, reading)
                case Disarm(members):
                    await self._disarm(members)
        except Denied as error:
            self._step_denial = self._denial(error)
            return False
        self._step_denial = None
        return executed

    async def _compact(self, revision: int, reading: SpaceReading) -> None:
        self._step_history = replace(self._step_history, compacted_at=self._clock())
        with contextlib.suppress(Compacted):  # another masterd, or etcd's own compaction, was faster
            await maintenance.compact(self._etcd, revision, physical=True, timeout_s=_COMPACT_S)
        self._step_history = replace(
            self._step_history, compacted_revision=revision, compacted_at=self._clock(), least_use=1.0
        )
        log.info("%s: compacted up to revision %d", describe(reading), revision)

    async def _truncate(self, reading: SpaceReading) -> None:
        owner = self._journal_owner
        self._step_history = replace(self._step_history, truncated_at=self._clock())
        if owner is None:
            return
        log.info("%s: truncating the journal, which has %d bytes", describe(reading), owner.journal_bytes)
        await owner.make_room()
        self._step_history = replace(self._step_history, truncated_at=self._clock())

    async def _defragment(self, endpoint: str, reading: SpaceReading) -> bool:
        for member in reading.members:
            if member.endpoint != endpoint and not await maintenance.answers_reads(self._etcd, member.endpoint):
                self._waiting_for = f"waiting for etcd member {member.endpoint}, which answers no reads"
                return False
        started = self._clock()
        self._step_history = replace(
            self._step_history, defragmented_at={**self._step_history.defragmented_at, endpoint: started}
        )
        self._session.switch_from_address(endpoint)  # a member does not answer while it is defragmented
        log.info("%s: defragmenting %s", describe(reading), endpoint)
        try:
            await maintenance.defragment(self._etcd, endpoint, timeout_s=_DEFRAGMENT_S)
        except OutcomeUnknown as error:
            log.warning("defragmenting %s: %s", endpoint, error)
        self._step_history = replace(
            self._step_history, defragmented_at={**self._step_history.defragmented_at, endpoint: self._clock()}
        )
        log.info("defragmented %s in %.1f s", endpoint, self._clock() - started)
        return True

    async def _disarm(self, members: tuple[int, ...]) -> None:
        for member in members:
            await maintenance.disarm(self._etcd, Alarm(member, "NOSPACE"))
        log.warning("there is free space in etcd again: the NOSPACE alarm is disarmed")
