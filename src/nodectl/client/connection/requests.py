"""Requests that are retried until they are answered or time out: for reads and for idempotent writes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Mapping
from typing import Any, TypeVar

from nodectl.client.connection.backoff import backoff, requested_pause_s
from nodectl.client.connection.discovery import Discovery
from nodectl.client.connection.errors import Broken
from nodectl.client.connection.http import Http, cancel_all
from nodectl.client.connection.leadership import Leader, Leadership
from nodectl.client.connection.state import ConnectionState
from nodestore.errors import NodectlError, NodeUnavailable, NotLeader, OutcomeUnknown, Unavailable
from nodestore.support.tasks import owned_task

T = TypeVar("T")

SLOW_S = 0.3
"""If an answer takes longer, discovery looks for a newer leader while the request goes on."""

ATTEMPT_S = 5.0
LAST_ATTEMPT_S = 1.0


class LeaderSuperseded(Broken):
    """A newer leader appeared before the old one answered."""

    def __init__(self, old: Leader) -> None:
        super().__init__(f"master {old.id} was replaced before it answered", sent=True)


class Requests:
    """Sends requests to the leader, or to any masterd, until a deadline."""

    def __init__(self, http: Http, discovery: Discovery, leadership: Leadership, state: ConnectionState) -> None:
        self._http = http
        self._discovery = discovery
        self._leadership = leadership
        self._state = state

    async def to_leader(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        params: Mapping[str, str] | None = None,
        timeout_s: float,
        repeatable: bool = True,
        slow_s: float = SLOW_S,
        attempt_s: float = ATTEMPT_S,
    ) -> Any:
        """Return the leader's answer.

        slow_s: when an answer is late, so that discovery looks for a newer leader. attempt_s: how long one attempt may
        take, if `repeatable`.

        Raises NodeUnavailable if the leader answers that: another attempt would not help soon.
        Raises Unavailable if no leader answered within `timeout_s` seconds. If not `repeatable`, raises OutcomeUnknown
        as soon as an attempt that a master may have received got no answer.
        """
        deadline = time.monotonic() + timeout_s
        pauses, last = backoff(), ""
        while True:
            leader = await self._leader(deadline, last)
            left_s = max(deadline - time.monotonic(), 0.05)
            if pauses.failures and not repeatable and left_s < LAST_ATTEMPT_S:
                # An attempt now would probably end as OutcomeUnknown, which is worse for the caller.
                raise Unavailable(self._not_served_text(last))
            limit_s = min(attempt_s, left_s) if repeatable else left_s
            requested_s = 0.0
            url = leader.urls[pauses.failures % len(leader.urls)] + path
            try:
                answer = await self._call_until_superseded(
                    leader, self._http.call(method, url, body=body, params=params, timeout_s=limit_s), slow_s
                )
            except Broken as error:
                last = str(error)
                if error.sent and not repeatable:
                    raise OutcomeUnknown(f"{last}; the request may or may not have taken effect") from None
                self._state.mark_suspended()
                self._leadership.mark_doubtful()
            except NodeUnavailable:
                self._state.mark_connected()
                self._leadership.clear_doubt()
                raise
            except Unavailable as error:
                last = f"master {leader.id}: {error}"
                requested_s = requested_pause_s(error)
                if not requested_s:  # a leader that is overloaded still leads
                    self._leadership.mark_doubtful(error.url if isinstance(error, NotLeader) else None)
            else:
                self._state.mark_connected()
                self._leadership.clear_doubt()
                return answer
            await self._pause(leader, max(pauses.next_s(), requested_s), deadline)

    async def to_any(
        self,
        path: str,
        *,
        method: str = "GET",
        body: bytes | None = None,
        params: Mapping[str, str] | None = None,
        timeout_s: float,
    ) -> Any:
        """Return the first answer of any masterd, asked one after another, the leader first. The request is repeated.

        Raises Unavailable if none answered within `timeout_s` seconds.
        """
        deadline = time.monotonic() + timeout_s
        pauses, last = backoff(), ""
        while True:
            try:
                for url in await self._discovery.urls():
                    limit_s = min(1.0, max(deadline - time.monotonic(), 0.05))
                    try:
                        return await self._http.call(method, url + path, body=body, params=params, timeout_s=limit_s)
                    except (Broken, Unavailable) as error:  # a master that cannot answer now; another one may
                        last = str(error)
            except Unavailable as error:
                last = str(error)
            if self._leadership.refusal is not None:
                raise _copy_error(self._leadership.refusal)
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise Unavailable(self._not_served_text(last))
            await self._leadership.wait_changed(min(left_s, pauses.next_s()))

    async def urls(self) -> tuple[str, ...]:
        """Return the known URLs of masterds, the leader's first. Raises Unavailable if they cannot be found out."""
        return await self._discovery.urls()

    async def leader(self, timeout_s: float) -> Leader:
        """Return the known leader. Raises Unavailable if discovery finds none within `timeout_s` seconds."""
        return await self._leader(time.monotonic() + timeout_s, "")

    async def _leader(self, deadline: float, last: str) -> Leader:
        while True:
            if self._leadership.refusal is not None:
                raise _copy_error(self._leadership.refusal)
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise Unavailable(self._not_served_text(last))
            if self._leadership.leader is not None:
                return self._leadership.leader
            self._state.mark_suspended()
            await self._leadership.wait_changed(left_s)

    async def _pause(self, tried: Leader, pause_s: float, deadline: float) -> None:
        """Back off from the leader that failed; return early if a newer one is known."""
        until = min(deadline, time.monotonic() + pause_s)
        while self._leadership.leader == tried and (left_s := until - time.monotonic()) > 0:
            await self._leadership.wait_changed(left_s)

    async def _call_until_superseded(self, leader: Leader, call: Awaitable[T], slow_s: float) -> T:
        request = owned_task(call)
        slow = asyncio.get_running_loop().call_later(slow_s, self._leadership.mark_doubtful)
        try:
            while not request.done():
                change = owned_task(self._leadership.wait_changed())
                try:
                    await asyncio.wait({request, change}, return_when=asyncio.FIRST_COMPLETED)
                finally:  # this task may be cancelled here
                    await cancel_all([change])
                newest = self._leadership.newest_leader
                if not request.done() and newest is not None and newest.term > leader.term:
                    raise LeaderSuperseded(leader)
            return request.result()
        finally:
            slow.cancel()
            await cancel_all([request])

    def _not_served_text(self, last: str) -> str:
        detail = last or self._leadership.trouble or "no leader was found"
        return f"the request was not served: {detail}"


def _copy_error(error: NodectlError) -> NodectlError:
    """Return a new exception of the same kind: raising one object in many callers would mix their tracebacks."""
    return type(error)(*error.args)
