"""Keeps the client's state true while nobody sends anything: greets every new leader, and then every two seconds."""

from __future__ import annotations

import time

from nodectl.client.connection.backoff import backoff
from nodectl.client.connection.errors import Broken
from nodectl.client.connection.http import Http
from nodectl.client.connection.leadership import Leader, Leadership
from nodectl.client.connection.state import ConnectionState
from nodestore.errors import NodectlError

HEARTBEAT_S = 2.0
_ANSWER_TIMEOUT_S = 2.0
_FIRST_CHECK_DELAY_S = 0.05
"""A leader that follows another one is greeted so much later: what has waited for it goes first, and tells as much."""


async def monitor_leader(http: Http, leadership: Leadership, state: ConnectionState) -> None:
    """Runs until it is cancelled."""
    pauses = backoff()
    before: Leader | None = None
    while True:
        leader = leadership.leader
        if leader is None:
            state.mark_suspended()
            await leadership.wait_changed()
            continue
        if before is not None and leader.term != before.term:
            await _wait_or_leader_change(leadership, leader, _FIRST_CHECK_DELAY_S)
            if leadership.leader != leader:
                continue
        before, pause_s = leader, HEARTBEAT_S
        if await _check_health(http, leader, leadership):
            pauses.reset()
            leadership.clear_doubt()
            state.mark_connected()
        elif leadership.leader == leader:
            pause_s = pauses.next_s()
            leadership.mark_doubtful()
            state.mark_suspended()
        await _wait_or_leader_change(leadership, leader, pause_s)


async def _check_health(http: Http, leader: Leader, leadership: Leadership) -> bool:
    try:
        answer = await http.call("GET", f"{leader.url}/v1/health", timeout_s=_ANSWER_TIMEOUT_S)
    except (Broken, NodectlError) as error:
        leadership.trouble = str(error)
        return False
    return isinstance(answer, dict) and answer.get("role") == "leader"


async def _wait_or_leader_change(leadership: Leadership, leader: Leader, delay_s: float) -> None:
    """Until the pause is over or another leader is known."""
    until = time.monotonic() + delay_s
    while leadership.leader == leader and (left_s := until - time.monotonic()) > 0:
        await leadership.wait_changed(left_s)
