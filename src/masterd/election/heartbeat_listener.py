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
_SILENCE_S = 10.0  # a stream this silent is opened anew; what silence means is not decided here
_REFUSED = {errno.ECONNREFUSED, 10061, 1225}  # 10061: WSAECONNREFUSED, 1225: ERROR_CONNECTION_REFUSED


class FollowStream:
    """Follows one leader for one term. `dead` once its process surely ended; belongs to that term alone.

    died: called then. beat: called at each heartbeat, with the seconds for which the leader could not commit. broke:
    called when the stream broke and whether its port refuses is not known soon.
    """

    def __init__(
        self,
        seen: LeaderSeen,
        died: Callable[[], None],
        beat: Callable[[float], None] = lambda _: None,
        broke: Callable[[], None] = lambda: None,
    ) -> None:
        self.revision = seen.revision
        self.dead = False
        self.connected = False
        self._urls = seen.record.urls if seen.record else ()
        self._died, self._beat, self._broke = died, beat, broke
        self._beaten = False
        """Whether there was a heartbeat since the last reconnect."""
        self._doubt: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Follow until cancelled, or until the leader's process is known to be dead."""
        if not self._urls:
            return
        await asyncio.sleep(_BEGIN_AFTER_S)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_SILENCE_S)
        try:
            await self._follow(timeout)
        finally:
            self._certain()

    def _certain(self) -> None:
        """The break is explained, or healed."""
        if self._doubt is not None:
            self._doubt.cancel()
            self._doubt = None

    async def _follow(self, timeout: aiohttp.ClientTimeout) -> None:
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while not self.dead:
                try:
                    await self._listen(session)
                except aiohttp.ClientConnectorError as error:
                    if self.connected and _refused(error):
                        self.dead = True
                        self._died()
                        return
                except (aiohttp.ClientError, TimeoutError, OSError) as error:
                    log.debug("follow stream of term %d: %s", self.revision, error)
                    if self._beaten:
                        self._beaten = False
                        self._certain()
                        self._doubt = asyncio.get_running_loop().call_later(_REFUSAL_S, self._broke)
                        continue  # the one reconnect that tells a dead process from a lost connection: at once
                await asyncio.sleep(_RETRY_S)

    async def _listen(self, session: aiohttp.ClientSession) -> None:
        async with session.get(f"{self._urls[0]}/v1/follow", params={"term": str(self.revision)}) as response:
            self._certain()
            if response.status != 200:
                self.connected = False
                return
            async for line in response.content:
                with contextlib.suppress(ValueError, TypeError, AttributeError):
                    beat = json.loads(line)
                    if beat.get("term") == self.revision:
                        self.connected = self._beaten = True
                        self._beat(float(beat.get("stuck_s", 0.0)))
        # A proper end of the stream: the leader says that its term is over, or its process was closed in order.
        # The port tells which, at the reconnect.


def _refused(error: aiohttp.ClientConnectorError) -> bool:
    numbers = {error.os_error.errno, getattr(error.os_error, "winerror", None)}
    return bool(numbers & _REFUSED)
