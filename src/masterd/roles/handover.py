"""Planned handover of leadership to a standby: at a switchover, and when this masterd stops.

1. Wait until the successor reports that its replica has almost caught up. While it applies the rest, no command is
   served, so the rest must be short.
2. Stop accepting commands. Pending ones are finished, new ones wait (`Leader.close_for_handover`).
3. Request that the successor takes over this term. The takeover ends the term; waiting commands are forwarded to the
   new leader.

If this masterd dies between two steps, an ordinary takeover follows. If the successor fails, this leader continues.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
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
_SERVED_S = 8.0
"""Time limit of the successor's takeover until it serves. A masterd of an earlier release answers when it has won."""
_LAG_MAX_COMMANDS = 200
_POLL_S = 0.02


async def hand_over(leader: Leader, index: int, url: str, actor: str, http: PeerClient) -> Campaign:
    """Let the masterd at `url` take this term over, and return its answer. `index` is this leader's index.

    Raises Unavailable or the successor's own error if no takeover happened, and OutcomeUnknown if the successor did
    not answer. After an error this leader continues until it is deposed.
    """
    await _wait_caught_up(index, url, http)
    leader.close_for_handover()
    try:
        async with asyncio.timeout(_DRAIN_S):
            await leader.wait_drained()
        request: CampaignRequest = {"revision": leader.fence.term.revision, "actor": actor}
        return cast(Campaign, await http.post(f"{url}/v1/campaign", request, _SERVED_S))
    except TimeoutError:
        leader.reopen()
        raise Unavailable(f"pending commands were not finished within {_DRAIN_S:g} s; this leader continues") from None
    except BaseException:
        leader.reopen()
        raise


async def _wait_caught_up(index: int, url: str, http: PeerClient) -> None:
    """Wait until the successor is at most 200 commands behind `index`. Unavailable after 5 s."""
    deadline = time.monotonic() + _CATCH_UP_S
    while True:
        health = await http.get(f"{url}/v1/health", _TAKE_OVER_S)
        if int(health.get("index", 0)) >= index - _LAG_MAX_COMMANDS:
            return
        if time.monotonic() > deadline:
            raise Unavailable(
                f"the standby at {url} has not caught up within {_CATCH_UP_S:g} s: it is at index "
                f"{health.get('index')}, the leader at {index}"
            )
        await asyncio.sleep(_POLL_S)


async def hand_over_to_any(leader: Leader, index: int, urls: list[str], actor: str, tls: ssl.SSLContext | None) -> bool:
    """Hand over to the first of the standbys at `urls` that takes over. False if none did. tls: see `PeerClient`."""
    http = PeerClient(tls)
    try:
        for url in urls:
            try:
                await hand_over(leader, index, url, actor, http)
            except NodectlError as error:
                log.info("no handover to the standby at %s: %s", url, error)
            else:
                return True
        return False
    finally:
        await http.close()
