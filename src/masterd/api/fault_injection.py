"""Ending or freezing the leader on purpose, so that operators see a takeover before they need one.

Only the leader obeys, only where masterd was started with --allow-drills, and only when another could take over. It
answers first. A freeze is what a PC that hangs does: the event loop stands still, so neither heartbeats nor answers
nor the lease go on; then it wakes up as a deposed leader.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from masterd.api.reads import standbys
from masterd.roles.master import Master
from masterd.term.leader import Leader
from nodestore.errors import Conflict, Denied, Invalid, Unavailable
from nodestore.schema.api_types import DRILLS, FREEZE_MAX_S, Drill, DrillKind

log = logging.getLogger(__name__)

FREEZE_S = 3.0
EXIT_CODE = 137
"""What a shell shows of a process that was killed (128 + 9)."""
_ANSWER_S = 0.05
"""Until the answer has left."""


@dataclass(frozen=True, slots=True)
class DrillRequest:
    """`term`: revision of the only term it is meant for; None: whichever it is."""

    how: DrillKind
    seconds: float = FREEZE_S
    term: int | None = None
    actor: str = "anonymous"


def parse_drill_request(body: Mapping[str, Any]) -> DrillRequest:
    """The order in a request's body. Invalid."""
    how, seconds, term, actor = body.get("how"), body.get("seconds"), body.get("term"), body.get("actor")
    if not isinstance(how, str) or how not in DRILLS:
        raise Invalid(f"how: expected one of {', '.join(DRILLS)}")
    if seconds is not None and (
        isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= FREEZE_MAX_S
    ):
        raise Invalid(f"seconds: expected a number above 0, at most {FREEZE_MAX_S:g}")
    if term is not None and (isinstance(term, bool) or not isinstance(term, int) or term < 1):
        raise Invalid("term: expected the revision of a term")
    if actor is not None and not isinstance(actor, str):
        raise Invalid("actor: expected text")
    return DrillRequest(how, FREEZE_S if seconds is None else float(seconds), term, actor or "anonymous")


def start_drill(
    master: Master,
    leader: Leader,
    order: DrillRequest,
    *,
    exit_process: Callable[[int], object] = os._exit,
    freeze_process: Callable[[float], object] = time.sleep,
) -> Drill:
    """What is answered; a moment later this process ends, or stands still. Denied where drills are not allowed;
    Conflict for another term, and while takeovers are paused; Unavailable when nobody could take over."""
    me, term = master.me.id, leader.fence.term
    if not master.drills_allowed:
        raise Denied(f"{me} allows no drills: its masterd was started without --allow-drills; nothing has happened")
    if order.term is not None and order.term != term.revision:
        raise Conflict(f"{me} leads in term {term}, the drill was meant for {order.term}: nothing has happened")
    if master.cluster_view.paused is not None:
        raise Conflict("takeovers are paused: nobody would take over (nodectl master resume)")
    if not standbys(master):
        raise Unavailable("there is no standby: nobody would take over")
    loop = asyncio.get_running_loop()
    if order.how == "kill":
        log.warning("drill, asked for by %s: this leader ends abruptly", order.actor)
        loop.call_later(_ANSWER_S, exit_process, EXIT_CODE)
    else:
        log.warning("drill, asked for by %s: this leader does nothing for %g s", order.actor, order.seconds)
        loop.call_later(_ANSWER_S, freeze_process, order.seconds)
    epoch, revision = term
    return {"master": me, "how": order.how, "seconds": order.seconds, "term": {"epoch": epoch, "revision": revision}}
