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

from masterd.replication.cluster_view import Board
from masterd.upkeep.space_plan import (
    Compact,
    Defragment,
    Disarm,
    Done,
    Seen,
    SpaceSettings,
    Step,
    Truncate,
    calm,
    describe,
    fills,
    look,
    outlook,
    plan,
    refuses,
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
_PATIENCE_S = 3.0
"""For each better placed masterd, before a standby mends what the alarm stopped; three times that for a leader."""


class Room(Protocol):
    """What a leader can do for room."""

    @property
    def journal_bytes(self) -> int:
        """What truncation could free at most."""

    @property
    def bytes_seen(self) -> int:
        """Only grows: the more, the sooner it is looked again."""

    def listen(self, grew: Callable[[], None]) -> Callable[[], None]:
        """Call back whenever `bytes_seen` has grown; returns how to stop that."""

    async def make_room(self) -> None:
        """Snapshot and truncate."""


@dataclass(frozen=True, slots=True)
class _Denial:
    """A right that is missing, and when it is worth asking again."""

    why: str
    until: float


class Spacekeeper:
    """`etcd` has the maintenance credential, `session` is the one that everything else of this masterd goes through.

    `rank`: how many masterds should try to mend it before this one.
    """

    def __init__(
        self,
        etcd: Etcd,
        session: Etcd,
        board: Board,
        settings: SpaceSettings,
        rank: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._etcd, self._session, self._board, self._settings = etcd, session, board, settings
        self._rank, self._clock = rank, clock
        self._room: Room | None = None
        self._changed: Callable[[], None] = lambda: None
        self._seen = Seen()
        self._seen_at = 0.0
        self._full_since: float | None = None
        self._done = Done()
        self._blind: _Denial | None = None
        """Why the members' sizes cannot be asked for."""
        self._bound: _Denial | None = None
        """Why nothing can be done about them."""
        self._refusing = False
        self._written: deque[tuple[float, int]] = deque([(0.0, 0)], maxlen=_LOOKS_MAX)
        """What the journal had got at each look; the first is what the members surely have in their numbers."""
        self._waits = ""
        self._stir = asyncio.Event()
        """Set when the pause between two looks may be over before its time."""
        self._stir_at = 0
        """That is, by bytes of the journal."""
        self._stop_listening: Callable[[], None] = lambda: None
        self._limited_log = RateLimitedLog(log, 60.0)

    # --- what others ask ---

    def led_by(self, room: Room | None, changed: Callable[[], None] = lambda: None) -> None:
        """This masterd leads from now on, or (None) does not any more. `changed`: called when `refusal` has changed."""
        self._room, self._changed = room, changed
        self._stop_listening()
        self._stop_listening = lambda: None
        if room is not None:
            self._written.clear()
            self._written.append((self._clock(), room.bytes_seen))
            self._stop_listening = room.listen(self._grew)
        self._stir.set()

    def _grew(self) -> None:
        if self._room is not None and self._room.bytes_seen >= self._stir_at:
            self._stir.set()

    def refusal(self) -> NoSpace | None:
        """Why no command can be taken just now; None when it can."""
        if self._clock() - self._seen_at > _STALE_S:
            return None
        if self._refusing:
            return NoSpace(f"{describe(self._seen)}, so no commands are taken: {self._outlook()}")
        if self._room is not None and fills(self._seen, self._room.bytes_seen - self._written[0][1], self._settings):
            return NoSpace(f"{describe(self._seen)}, and much has just been written: try again in a moment")
        return None

    @property
    def problem(self) -> str | None:
        """What an operator should know."""
        if self._refusing:
            return f"{describe(self._seen)}: {self._outlook()}"
        if self._blind is not None:
            return f"nobody sees how full etcd is ({self._blind.why}): start masterd with --maintenance-user"
        return None

    def _outlook(self) -> str:
        denial = self._bound or self._blind
        if denial is None:
            return self._waits or outlook(self._seen, self._done, self._clock(), self._settings)
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
                acted = await self._look()
            except NodectlError as error:
                self._limited_log.log(logging.WARNING, f"room in etcd: {error}; again later", about=type(error))
            await self._pause(_AFTER_STEP_S if acted else self._every_s)

    @property
    def _every_s(self) -> float:
        busy = self._seen.alarmed or (self._room is not None and not calm(self._seen, self._settings))
        return self._settings.look_every_s if busy and self._blind is None else self._settings.standby_looks_every_s

    async def _pause(self, seconds: float) -> None:
        """Until it is time, or much was written since: etcd can be filled within a second. Where anything is written at
        all the next look is due as usual, however calm it was."""
        room, now = self._room, asyncio.get_running_loop().time
        begun = now()
        bytes_before = 0 if room is None else room.bytes_seen
        enough, self._stir_at = bytes_before + self._settings.quota_bytes // 50, bytes_before + 1
        while self._room is room and (room is None or room.bytes_seen < enough):
            self._stir.clear()
            if room is not None and room.bytes_seen > bytes_before:
                self._stir_at = enough
                if self._blind is None:
                    seconds = min(seconds, self._settings.look_every_s)
            if not await set_within(self._stir, begun + seconds - now()):
                return

    async def _look(self) -> bool:
        """One look, and a step if one is due; whether one was taken."""
        room = self._room
        self._count(room)
        statuses = [(endpoint, await self._status(endpoint)) for endpoint in self._etcd.settings.endpoints]
        seen = look(statuses, self._settings, None if room is None else room.journal_bytes)
        if self._blind is not None:
            found = await maintenance.alarms(self._session)  # any user may ask for these
            seen = replace(seen, alarmed=frozenset(alarm.member for alarm in found if alarm.kind == "NOSPACE"))
        elif not seen.members:
            return False  # nobody answers: what was true is the best guess, until it is stale
        self._note(seen)
        if not self._my_turn():
            self._waits = "another masterd is making room" if self._refusing else ""
            return False
        if self._blind is not None or (self._bound is not None and self._clock() < self._bound.until):
            return False
        step = plan(seen, self._refusing, self._done, self._clock(), self._settings)
        if step is None:
            return False
        return await self._take(step, seen)

    def _count(self, room: Room | None) -> None:
        if room is None:
            return
        now = self._clock()
        self._written.append((now, room.bytes_seen))
        while len(self._written) > 1 and self._written[1][0] <= now - self._settings.lag_s:
            self._written.popleft()

    async def _status(self, endpoint: str) -> MemberStatus | None:
        if self._blind is not None and self._clock() < self._blind.until:
            return None
        try:
            status = await self._etcd.status(endpoint)
        except Unavailable:
            return None
        except Denied as error:
            self._blind = self._denial(error)
            return None
        self._blind = None
        return status

    def _denial(self, error: Denied) -> _Denial:
        settings = self._etcd.settings
        who = f"user {settings.user}" if settings.user else "its certificate" if settings.cert else "no user"
        why = f"{who}: {error}"
        self._limited_log.log(
            logging.WARNING, f"masterd cannot look after room in etcd, which asks for root's rights ({why})"
        )
        return _Denial(why, self._clock() + _AGAIN_DENIED_S)

    def _note(self, seen: Seen) -> None:
        now = self._clock()
        refusing = refuses(seen, self._refusing, self._settings)
        self._done = replace(self._done, least_use=min(self._done.least_use, seen.use))
        before, self._refusing = self._refusing, refusing
        self._seen, self._seen_at = seen, now
        self._full_since = None if not seen.alarmed else self._full_since or now
        self._waits = ""
        if refusing != before:
            log.warning("%s: %s", describe(seen), "commands are refused" if refusing else "commands go on")
            self._changed()

    def _my_turn(self) -> bool:
        if self._room is not None:
            return True
        if self._full_since is None:
            return False
        patience_s = self._rank() * _PATIENCE_S + (0 if self._board.leader.vacant else 3 * _PATIENCE_S)
        return self._clock() - self._full_since >= patience_s

    # --- the steps ---

    async def _take(self, step: Step, seen: Seen) -> bool:
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
            self._bound = self._denial(error)
            return False
        self._bound = None
        return taken

    async def _compact(self, revision: int, seen: Seen) -> None:
        self._done = replace(self._done, compacted_at=self._clock())
        with contextlib.suppress(Compacted):  # somebody else has been faster, etcd itself for one
            await self._etcd.compact(revision, physical=True, timeout_s=_COMPACT_S)
        self._done = replace(self._done, compacted_revision=revision, compacted_at=self._clock(), least_use=1.0)
        log.info("%s: compacted up to revision %d", describe(seen), revision)

    async def _truncate(self, seen: Seen) -> None:
        room = self._room
        self._done = replace(self._done, truncated_at=self._clock())
        if room is None:
            return
        log.info("%s: truncating the journal, which has %d bytes", describe(seen), room.journal_bytes)
        await room.make_room()
        self._done = replace(self._done, truncated_at=self._clock())

    async def _defragment(self, endpoint: str, seen: Seen) -> bool:
        for member in seen.members:
            if member.endpoint != endpoint and not await maintenance.reads(self._etcd, member.endpoint):
                self._waits = f"waiting for etcd member {member.endpoint}, which answers no reads"
                return False
        begun = self._clock()
        self._done = replace(self._done, defragmented_at={**self._done.defragmented_at, endpoint: begun})
        self._session.leave_address(endpoint)  # it answers nobody meanwhile
        log.info("%s: defragmenting %s", describe(seen), endpoint)
        try:
            await self._etcd.defragment(endpoint, timeout_s=_DEFRAGMENT_S)
        except OutcomeUnknown as error:
            log.warning("defragmenting %s: %s", endpoint, error)
        self._done = replace(self._done, defragmented_at={**self._done.defragmented_at, endpoint: self._clock()})
        log.info("defragmented %s in %.1f s", endpoint, self._clock() - begun)
        return True

    async def _disarm(self, members: tuple[int, ...]) -> None:
        for member in members:
            await maintenance.disarm(self._etcd, Alarm(member, "NOSPACE"))
        log.warning("there is room in etcd again: the NOSPACE alarm is disarmed")
