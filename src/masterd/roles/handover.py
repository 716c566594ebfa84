"""Handing leadership over on purpose: at a switchover, and when this masterd is asked to stop.

1. The successor is caught up, as it says itself: what it lacks would be a gap in service.
2. No more commands begin here; those that wait are finished, those that come wait (`Leader.close_for_handover`).
3. The successor is told to take this term over. Its takeover ends it, and what waits here is passed on to it.

Dying between any two: the ordinary takeover follows. The successor failing: this leader goes on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import cast

from masterd.roles.peers import PeerClient
from masterd.term.leader import Leader
from nodestore.errors import NodectlError, Unavailable
from nodestore.schema.api_types import Campaign, CampaignRequest

log = logging.getLogger(__name__)

_CATCH_UP_S = 5.0
_DRAIN_S = 3.0
_TAKE_OVER_S = 3.0
_LAG_MAX_COMMANDS = 200
_POLL_S = 0.02


async def hand_over(leader: Leader, index: int, url: str, actor: str, http: PeerClient) -> Campaign:
    """Have the masterd at `url` take this term over; what it answered. `index`: how far this leader is.

    Unavailable, or what the successor says, when that did not come about; OutcomeUnknown when it does not say. Either
    way this leader goes on until it is deposed.
    """
    await _wait_caught_up(index, url, http)
    leader.close_for_handover()
    try:
        async with asyncio.timeout(_DRAIN_S):
            await leader.wait_drained()
        order: CampaignRequest = {"revision": leader.fence.term.revision, "actor": actor}
        return cast(Campaign, await http.post(f"{url}/v1/campaign", order, _TAKE_OVER_S))
    except TimeoutError:
        leader.reopen()
        raise Unavailable("the commands that wait were not finished in time; the leader goes on") from None
    except BaseException:
        leader.reopen()
        raise


async def _wait_caught_up(index: int, url: str, http: PeerClient) -> None:
    """Until the successor is not far behind."""
    deadline = time.monotonic() + _CATCH_UP_S
    while True:
        health = await http.get(f"{url}/v1/health", _TAKE_OVER_S)
        if int(health.get("index", 0)) >= index - _LAG_MAX_COMMANDS:
            return
        if time.monotonic() > deadline:
            raise Unavailable(f"the masterd at {url} is at index {health.get('index')}, {index} is needed: it lags")
        await asyncio.sleep(_POLL_S)


async def hand_over_to_any(leader: Leader, index: int, urls: list[str], why: str) -> bool:
    """Try the standbys at `urls` in turn; False when none took over."""
    http = PeerClient()
    try:
        for url in urls:
            try:
                await hand_over(leader, index, url, why, http)
            except NodectlError as error:
                log.info("no handover to %s: %s", url, error)
            else:
                return True
        return False
    finally:
        await http.close()
