"""Who answers what only the leader can: this masterd, or another one to which the request is passed on.

Leadership may change hands while a request is under way. One that was passed on to a master which dies or is replaced
(it may be frozen, and answer never) is taken back and goes to the new one, if doing it twice does nothing: reads, and
commands that carry ids. A client that has seen this masterd win may be quicker than this masterd itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from aiohttp import web

from masterd.roles.master import Master
from masterd.roles.peers import HOP_HEADER, PeerClient
from masterd.term.leader import Leader
from nodestore.errors import Garbage, LeadershipLost, NotLeader, OutcomeUnknown, Unavailable
from nodestore.support.jsonio import loads
from nodestore.support.waiting import set_within

_ATTEMPTS_MAX = 5
_REPLACEMENT_WAIT_S = 0.1
_NO_LEADER_WAIT_S = 0.5
"""For so long a request is held while nobody leads: a takeover takes less, and asking again and again would only slow
it down."""
_FORWARDED_GRACE_S = 2.0
_TERM_BEGIN_WAIT_S = 2.0
"""For how long a request waits for a term that this masterd has won to begin, or for its takeover to be decided."""
_ALL_WAITS_S = 4.0
"""For all that waiting together: whoever passed the request on has not given up yet."""


class LeaderRouter:
    """Of one masterd."""

    def __init__(self, master: Master, peers: PeerClient) -> None:
        self._master, self._peers = master, peers

    @property
    def leader_url(self) -> str | None:
        """The leader's, as last seen."""
        record = self._master.cluster_view.leader.record
        return record.urls[0] if record and record.urls else None

    async def leader_or_response(self, request: web.Request) -> Leader | web.StreamResponse:
        """The leader role of this masterd, or what the leader elsewhere answered. NotLeader when there is none;
        OutcomeUnknown when it changed while it had what must not be done twice."""
        master = self._master
        hope = (
            master.cluster_view.paused is None and master.role_problem is None
        )  # else whoever asks should hear of that at once
        begun = time.monotonic()
        held_until, wait_until = begun + (_NO_LEADER_WAIT_S if hope else 0.0), begun + _ALL_WAITS_S
        for turn in range(_ATTEMPTS_MAX):
            if turn and disconnected(request):
                break  # it may have asked another master by now, and without an id this would be done twice
            with self._leadership_change() as changed:
                leader = master.leader
                if leader is not None and not leader.has_ended:
                    return leader
                if leader is not None or self._is_recorded_leader or master.campaign.is_taking_over:
                    # A client may see this masterd win before it does itself: the answer to its takeover is on its way.
                    await set_within(changed, min(_TERM_BEGIN_WAIT_S, wait_until - time.monotonic()))
                    continue
                try:
                    answer = await self._forward(request, changed)
                except NotLeader:
                    if HOP_HEADER in request.headers or not await set_within(changed, held_until - time.monotonic()):
                        raise
                    continue
                except (OutcomeUnknown, Unavailable):  # its connection broke: if it died, another is on its way
                    soon_s = min(_NO_LEADER_WAIT_S, wait_until - time.monotonic()) if hope else 0.0
                    if not await _is_repeatable(request) or not await set_within(changed, soon_s):
                        raise
                    continue
                if answer is not None and _is_not_leader(answer) and HOP_HEADER not in request.headers:
                    soon = await set_within(
                        changed, _REPLACEMENT_WAIT_S
                    )  # it was replaced before it had begun with this
                    if soon or turn + 1 < _ATTEMPTS_MAX:
                        continue
            if answer is not None:
                return answer
            if not await _is_repeatable(request):
                raise OutcomeUnknown("the leader was replaced before it answered: this may have been done, or not")
        raise NotLeader("leadership is changing hands; ask again in a moment", self.leader_url)

    async def run_on_leader(
        self, request: web.Request, act: Callable[[Leader], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """What `act` makes of the request here, or what the leader elsewhere answers. Where the term ends before
        anything was done (LeadershipLost), the next leader gets it."""
        for turn in range(_ATTEMPTS_MAX):
            leader = await self.leader_or_response(request)
            if isinstance(leader, web.StreamResponse):
                return leader
            try:
                return await act(leader)
            except LeadershipLost:
                if not leader.has_ended or turn + 1 == _ATTEMPTS_MAX or disconnected(request):
                    raise
        raise AssertionError("unreachable")

    @property
    def _is_recorded_leader(self) -> bool:
        """Whether `leader` names this masterd already, or still."""
        record = self._master.cluster_view.leader.record
        return record is not None and record.id == self._master.me.id and record.host == self._master.me.host

    async def _forward(self, request: web.Request, changed: asyncio.Event) -> web.StreamResponse | None:
        """What the leader answers; None when it is not the leader any more."""
        master = self._master
        passing = asyncio.create_task(
            self._peers.forward(request, self.leader_url, master.me.id, master.problem_or_outage)
        )
        waiting = asyncio.create_task(changed.wait())
        try:
            await asyncio.wait({passing, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if not passing.done() and not await _is_repeatable(request):
                await asyncio.wait(
                    {passing}, timeout=_FORWARDED_GRACE_S
                )  # a switchover, say, is answered by the old leader
            return passing.result() if passing.done() else None
        finally:
            passing.cancel()
            waiting.cancel()
            await asyncio.gather(passing, waiting, return_exceptions=True)

    @contextmanager
    def _leadership_change(self) -> Iterator[asyncio.Event]:
        """Set once somebody else leads, or this masterd does, or its takeover that is under way is decided."""
        master, changed = self._master, asyncio.Event()
        board, before, role = master.cluster_view, master.cluster_view.leader.revision, master.leader
        trying = master.campaign.is_taking_over

        def look() -> None:
            if (
                board.leader.revision != before
                or master.leader is not role
                or (trying and not master.campaign.is_taking_over)
            ):
                changed.set()

        stop = board.subscribe(look)
        try:
            yield changed
        finally:
            stop()


def _is_not_leader(answer: web.StreamResponse) -> bool:
    """Whether the other masterd says that it does not lead, and has done nothing."""
    if answer.status != NotLeader.status or not isinstance(answer, web.Response) or not isinstance(answer.body, bytes):
        return False
    return any(f'"{code}"'.encode() in answer.body for code in (NotLeader.code, LeadershipLost.code))


def disconnected(request: web.Request) -> bool:
    """Whether the connection of this request is closed or closing: no client can read the answer."""
    return request.transport is None or request.transport.is_closing()


async def _is_repeatable(request: web.Request) -> bool:
    if request.method == "GET":
        return True
    if request.path != "/v1/commands":
        return False
    try:
        body = loads(await request.read())
    except Garbage:
        return False
    commands = body.get("commands", [body]) if isinstance(body, dict) else []
    return isinstance(commands, list) and all(isinstance(item, dict) and item.get("id") for item in commands)
