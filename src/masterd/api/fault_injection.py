"""Drills: kill or freeze the leader on request, so that operators see a takeover before they need one.

A drill runs only on the leader, only if masterd was started with --allow-drills, and only if a standby can take over.
The request is answered first. A freeze blocks the event loop, as on a PC that hangs: heartbeats, answers to challenges
and keepalives stop. Afterwards the process wakes as a deposed leader.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from masterd.api.read_sources import ReadSources
from masterd.api.reads import standbys
from masterd.api.request_bodies import actor_of
from masterd.roles.principal import ANYONE, Principal
from masterd.term.leader import Leader
from nodestore.errors import Conflict, Denied, Invalid, Unavailable
from nodestore.schema.api_types import DRILLS, FREEZE_MAX_S, Drill, DrillKind

log = logging.getLogger(__name__)

FREEZE_S = 3.0
EXIT_CODE = 137
"""The exit code that a shell shows for a process killed by SIGKILL (128 + 9)."""
_ANSWER_S = 0.05
"""Delay before the fault, so that the answer is sent first."""


@dataclass(frozen=True, slots=True)
class DrillRequest:
    """A request for a drill. `term` is the revision of the only term in which it may run; None allows any term."""

    how: DrillKind
    seconds: float = FREEZE_S
    term: int | None = None
    actor: str = "anonymous"


def parse_drill_request(body: Mapping[str, Any], principal: Principal = ANYONE) -> DrillRequest:
    """Parse the body of a drill request. Raises Invalid. principal: who sent the request."""
    how, seconds, term = body.get("how"), body.get("seconds"), body.get("term")
    if not isinstance(how, str) or how not in DRILLS:
        raise Invalid(f"how: expected one of {', '.join(DRILLS)}")
    if seconds is not None and (
        isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= FREEZE_MAX_S
    ):
        raise Invalid(f"seconds: expected a number above 0, at most {FREEZE_MAX_S:g}")
    if term is not None and (isinstance(term, bool) or not isinstance(term, int) or term < 1):
        raise Invalid("term: expected the revision of a term")
    return DrillRequest(how, FREEZE_S if seconds is None else float(seconds), term, principal.author(actor_of(body)))


def start_drill(
    sources: ReadSources,
    leader: Leader,
    drill: DrillRequest,
    *,
    allowed: bool,
    exit_process: Callable[[int], object] = os._exit,
    freeze_process: Callable[[float], object] = time.sleep,
) -> Drill:
    """Schedule the drill and return the answer to the request; the fault follows 50 ms later. `allowed`: whether
    masterd was started with --allow-drills.

    Raises Denied if drills are not allowed, Conflict if the drill is for another term or takeovers are paused, and
    Unavailable if there is no standby. In these cases nothing is scheduled.
    """
    me, term = sources.own_id, leader.fence.term
    if not allowed:
        raise Denied(f"drills are not allowed on {me}: start its masterd with --allow-drills; nothing was done")
    if drill.term is not None and drill.term != term.revision:
        raise Conflict(f"{me} leads in term {term}, the drill is for term {drill.term}: nothing was done")
    if sources.cluster_view.paused is not None:
        raise Conflict("takeovers are paused, so no standby would take over; resume them first (nodectl master resume)")
    if not standbys(sources):
        raise Unavailable("there is no standby that could take over; nothing was done")
    loop = asyncio.get_running_loop()
    if drill.how == "kill":
        log.warning("drill requested by %s: this leader ends abruptly", drill.actor)
        loop.call_later(_ANSWER_S, exit_process, EXIT_CODE)
    else:
        log.warning("drill requested by %s: this leader freezes for %g s", drill.actor, drill.seconds)
        loop.call_later(_ANSWER_S, freeze_process, drill.seconds)
    epoch, revision = term
    return {"master": me, "how": drill.how, "seconds": drill.seconds, "term": {"epoch": epoch, "revision": revision}}
