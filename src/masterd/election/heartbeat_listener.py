"""The follow stream: a standby listens to the leader's heartbeat over HTTP, and so sees its process die at once.

A stream that breaks *and* a reconnect that is refused mean: that PC's kernel lives and nobody listens on the port any
more, so the process is dead. A break alone proves nothing, but is a reason to challenge the leader at once: Windows
asks a port that refuses three times over, for a second or two, before it says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
from collections.abc import Callable

import aiohttp

from nodestore.cluster.election import LeaderSeen

log = logging.getLogger(__name__)

_CONNECT_S = 1.0
_RETRY_S = 0.25
_BEGIN_AFTER_S = 0.05  # it may not know yet that it has won, and those who wait for it go first
_REFUSAL_S = 0.05
"""A port that refuses says so within a round trip, where the system does not ask it again."""
_READ_TIMEOUT_S = 10.0  # a stream this silent is opened anew; what silence means is not decided here
_REFUSED = {errno.ECONNREFUSED, 10061, 1225}  # 10061: WSAECONNREFUSED, 1225: ERROR_CONNECTION_REFUSED


class HeartbeatListener:
    """Follows one leader for one term. `is_dead` once its process surely ended; belongs to that term alone.

    died: called then. beat: called at each heartbeat, with the seconds for which the leader could not commit. broke:
    called when the stream broke and whether its port refuses is not known soon.
    """

    def __init__(
        self,
        seen: LeaderSeen,
        on_death: Callable[[], None],
        on_heartbeat: Callable[[float], None] = lambda _: None,
        on_break: Callable[[], None] = lambda: None,
    ) -> None:
        self.revision = seen.revision
        self.is_dead = False
        self.is_connected = False
        self._urls = seen.record.urls if seen.record else ()
        self._died, self._beat, self._broke = on_death, on_heartbeat, on_break
        self._had_heartbeat = False
        """Whether there was a heartbeat since the last reconnect."""
        self._break_timer: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Follow until cancelled, or until the leader's process is known to be dead."""
        if not self._urls:
            return
        await asyncio.sleep(_BEGIN_AFTER_S)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_READ_TIMEOUT_S)
        try:
            await self._follow(timeout)
        finally:
            self._cancel_break_timer()

    def _cancel_break_timer(self) -> None:
        """The break is explained, or healed."""
        if self._break_timer is not None:
            self._break_timer.cancel()
            self._break_timer = None

    async def _follow(self, timeout: aiohttp.ClientTimeout) -> None:
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while not self.is_dead:
                try:
                    await self._listen(session)
                except aiohttp.ClientConnectorError as error:
                    if self.is_connected and _refused(error):
                        self.is_dead = True
                        self._died()
                        return
                except (aiohttp.ClientError, TimeoutError, OSError) as error:
                    log.debug("follow stream of term %d: %s", self.revision, error)
                    if self._had_heartbeat:
                        self._had_heartbeat = False
                        self._cancel_break_timer()
                        self._break_timer = asyncio.get_running_loop().call_later(_REFUSAL_S, self._broke)
                        continue  # the one reconnect that tells a dead process from a lost connection: at once
                await asyncio.sleep(_RETRY_S)

    async def _listen(self, session: aiohttp.ClientSession) -> None:
        async with session.get(f"{self._urls[0]}/v1/follow", params={"term": str(self.revision)}) as response:
            self._cancel_break_timer()
            if response.status != 200:
                self.is_connected = False
                return
            async for line in response.content:
                with contextlib.suppress(ValueError, TypeError, AttributeError):
                    beat = json.loads(line)
                    if beat.get("term") == self.revision:
                        self.is_connected = self._had_heartbeat = True
                        self._beat(float(beat.get("stuck_s", 0.0)))
        # A proper end of the stream: the leader says that its term is over, or its process was closed in order.
        # The port tells which, at the reconnect.


def _refused(error: aiohttp.ClientConnectorError) -> bool:
    numbers = {error.os_error.errno, getattr(error.os_error, "winerror", None)}
    return bool(numbers & _REFUSED)
