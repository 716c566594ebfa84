"""Routes requests that only the leader can serve: handles them on this masterd, or forwards them to the leader.

Leadership may change while a request is in progress. If a request was forwarded to a leader that dies, is frozen or is
replaced, and the request is idempotent (a read, commands with ids, or the question for an outcome), it is sent again to
the new leader. If the new leader then refuses a command as too old or is not available, or if there is none, the first
leader may have run it: the answer is OutcomeUnknown, because a client takes such an answer to its first attempt as a
proof that the command has not run.

When this masterd takes over, a client may read in etcd that it is the leader before etcd's reply to the takeover
arrives here. A request that such a client sends to this masterd is not refused: it waits until the term begins.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from aiohttp import web

from masterd.api.body_reader import parse_body
from masterd.election.campaign import MasterIdentity
from masterd.replication.cluster_view import ClusterView
from masterd.roles.health import MasterHealth
from masterd.roles.leadership import Leadership
from masterd.roles.peers import HOP_HEADER
from masterd.term.leader import Leader
from nodestore.errors import LeadershipLost, NodectlError, NoSpace, NotLeader, OutcomeUnknown, TooOld, Unavailable
from nodestore.support.tasks import owned_task
from nodestore.support.waiting import set_within

_ATTEMPTS_MAX = 5
_REPLACEMENT_WAIT_S = 0.1
_NO_LEADER_WAIT_S = 0.5
"""How long a request waits while there is no leader. A takeover usually takes less. The request is not refused at once,
because clients that repeat their requests would slow the takeover down."""
_FORWARDED_GRACE_S = 2.0
_TERM_BEGIN_WAIT_S = 2.0
"""How long a request waits for a won term to begin, or for the outcome of this masterd's takeover attempt."""
_NOT_RUN = (Unavailable.code, NotLeader.code, LeadershipLost.code, NoSpace.code)
"""The codes of errors after which a client takes it that this attempt has not run."""
_MAY_HAVE_RUN = web.RequestKey("may_have_run", bool)
"""Set in a request that was sent to a leader which did not answer."""
_ALL_WAITS_S = 4.0
"""Limit for the sum of these waits of one request. It is below the timeout of a masterd that forwards to this one."""


class TakeoverAttempts(Protocol):
    """What the router needs to know of this masterd's campaign."""

    @property
    def is_taking_over(self) -> bool:
        """Whether a takeover is in progress, or was won and its term has not begun yet."""


class Forwarder(Protocol):
    """Forwards requests to another masterd."""

    async def forward(
        self, request: web.Request, url: str | None, own_id: str, problem: str | None = None
    ) -> web.StreamResponse: ...


class LeaderRouter:
    """Decides for each request whether this masterd handles it or forwards it."""

    def __init__(
        self,
        me: MasterIdentity,
        *,
        leadership: Leadership,
        health: MasterHealth,
        cluster_view: ClusterView,
        takeovers: TakeoverAttempts,
        peers: Forwarder,
    ) -> None:
        self._me, self._leadership, self._health = me, leadership, health
        self._cluster_view, self._takeovers, self._peers = cluster_view, takeovers, peers

    @property
    def leader_url(self) -> str | None:
        """URL of the leader, as the watch last showed it; None if there is none."""
        record = self._cluster_view.leader.record
        return record.urls[0] if record and record.urls else None

    async def leader_or_response(self, request: web.Request) -> Leader | web.StreamResponse:
        """Return this masterd's leader role if it leads; else forward the request and return the leader's answer.

        Raises NotLeader if there is no leader, and OutcomeUnknown if the leader was replaced before it answered a
        request that is not idempotent.
        """
        if (leader := self._leadership.leader) is not None and not leader.has_ended:
            return leader
        # If no takeover can be expected, the request is refused at once instead of held.
        takeover_expected = self._cluster_view.paused is None and self._health.role_problem is None
        begun = time.monotonic()
        held_until, wait_until = begun + (_NO_LEADER_WAIT_S if takeover_expected else 0.0), begun + _ALL_WAITS_S
        for attempt in range(_ATTEMPTS_MAX):
            if attempt and disconnected(request):
                # The client may send it to another masterd. If this one sent it too, a command without an id would run
                # twice.
                break
            with self._leadership_change() as changed:
                leader = self._leadership.leader
                if leader is not None and not leader.has_ended:
                    return leader
                if leader is not None or self._is_recorded_leader or self._takeovers.is_taking_over:
                    # Wait for the term to begin: the takeover may be visible in etcd before etcd's reply arrives here.
                    await set_within(changed, min(_TERM_BEGIN_WAIT_S, wait_until - time.monotonic()))
                    continue
                try:
                    answer = await self._forward(request, changed)
                except NotLeader:
                    if HOP_HEADER in request.headers or not await set_within(changed, held_until - time.monotonic()):
                        raise
                    continue
                except (OutcomeUnknown, Unavailable):  # the connection broke: if the leader died, a takeover follows
                    wait_s = min(_NO_LEADER_WAIT_S, wait_until - time.monotonic()) if takeover_expected else 0.0
                    if not await _is_repeatable(request) or not await set_within(changed, wait_s):
                        raise
                    request[_MAY_HAVE_RUN] = True
                    continue
                if answer is not None and _is_not_leader(answer) and HOP_HEADER not in request.headers:
                    # The other masterd had been deposed before it began to serve this request.
                    replaced = await set_within(changed, _REPLACEMENT_WAIT_S)
                    if replaced or attempt + 1 < _ATTEMPTS_MAX:
                        continue
            if answer is not None:
                return answer
            if not await _is_repeatable(request):
                raise OutcomeUnknown(
                    "the leader was replaced before it answered: the request may or may not have taken effect"
                )
            request[_MAY_HAVE_RUN] = True
        raise NotLeader("leadership is changing; try again in a moment", self.leader_url)

    async def run_on_leader(
        self, request: web.Request, act: Callable[[Leader], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Run `act` if this masterd leads; else forward the request and return the leader's answer.

        Raises OutcomeUnknown if the request is refused as not run, and an earlier leader may have run it.
        """
        try:
            return _checked(request, await self._routed(request, act))
        except (TooOld, Unavailable) as error:
            if _may_have_run(request):
                raise _unknown(str(error)) from None
            raise

    async def _routed(
        self, request: web.Request, act: Callable[[Leader], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """LeadershipLost from `act` means that the term ended before the request had an effect. The request is then
        routed again, to the next leader."""
        for attempt in range(_ATTEMPTS_MAX):
            leader = await self.leader_or_response(request)
            if isinstance(leader, web.StreamResponse):
                return leader
            try:
                return await act(leader)
            except LeadershipLost:
                if not leader.has_ended or attempt + 1 == _ATTEMPTS_MAX or disconnected(request):
                    raise
        raise AssertionError("unreachable")

    @property
    def _is_recorded_leader(self) -> bool:
        """Whether the key `leader` names this masterd. If it does while this masterd does not lead, its term is about
        to begin or has ended."""
        record = self._cluster_view.leader.record
        return record is not None and record.id == self._me.id and record.host == self._me.host

    async def _forward(self, request: web.Request, changed: asyncio.Event) -> web.StreamResponse | None:
        """The leader's answer; None if it stopped being the leader before it answered."""
        forwarding = owned_task(
            self._peers.forward(request, self.leader_url, self._me.id, self._health.no_leader_reason)
        )
        waiting = owned_task(changed.wait())
        try:
            await asyncio.wait({forwarding, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if not forwarding.done() and not await _is_repeatable(request):
                # The old leader may still answer: a switchover is answered after the change of leader.
                await asyncio.wait({forwarding}, timeout=_FORWARDED_GRACE_S)
            return forwarding.result() if forwarding.done() else None
        finally:
            forwarding.cancel()
            waiting.cancel()
            await asyncio.gather(forwarding, waiting, return_exceptions=True)

    @contextmanager
    def _leadership_change(self) -> Iterator[asyncio.Event]:
        """An event that is set when the key `leader` changes, this masterd's role changes, or the takeover attempt
        that is in progress now ends."""
        changed, view = asyncio.Event(), self._cluster_view
        revision, role = view.leader.revision, self._leadership.leader
        was_taking_over = self._takeovers.is_taking_over

        def check() -> None:
            if (
                view.leader.revision != revision
                or self._leadership.leader is not role
                or (was_taking_over and not self._takeovers.is_taking_over)
            ):
                changed.set()

        unsubscribe = view.subscribe_but_nodes(check)
        try:
            yield changed
        finally:
            unsubscribe()


def _may_have_run(request: web.Request) -> bool:
    """Whether an earlier leader may have run the commands of this request."""
    return request.method != "GET" and request.get(_MAY_HAVE_RUN, False)


def _checked(request: web.Request, answer: web.StreamResponse) -> web.StreamResponse:
    """Return the answer.

    Raises OutcomeUnknown if the answer refuses a command as too old or as not run now, alone or in a list, and an
    earlier leader may have run that command.
    """
    body = answer.body if isinstance(answer, web.Response) else None
    if not _may_have_run(request) or not isinstance(body, bytes):
        return answer
    if f'"code":"{TooOld.code}"'.encode() in body:
        raise _unknown("the new leader no longer knows the results of that time")
    if any(f'"code":"{code}"'.encode() in body for code in _NOT_RUN):
        raise _unknown("the new leader did not run it now")
    return answer


def _unknown(why: str) -> OutcomeUnknown:
    return OutcomeUnknown(f"the leader was replaced before it answered, so the request may have taken effect: {why}")


def _is_not_leader(answer: web.StreamResponse) -> bool:
    """Whether the other masterd answered that it is not the leader, so that the request had no effect."""
    if answer.status != NotLeader.status or not isinstance(answer, web.Response) or not isinstance(answer.body, bytes):
        return False
    return any(f'"{code}"'.encode() in answer.body for code in (NotLeader.code, LeadershipLost.code))


def disconnected(request: web.Request) -> bool:
    """Whether the connection of this request is closed or closing: no client can read the answer."""
    return request.transport is None or request.transport.is_closing()


async def _is_repeatable(request: web.Request) -> bool:
    """Whether the request is idempotent: a read, or commands that all carry ids, or the question for an outcome."""
    if request.method == "GET":
        return True
    if request.path not in ("/v1/commands", "/v1/commands/outcome"):
        return False
    try:
        body = await parse_body(request)
    except NodectlError:
        return False
    commands = body.get("commands", [body]) if isinstance(body, dict) else []
    return isinstance(commands, list) and all(isinstance(item, dict) and item.get("id") for item in commands)
