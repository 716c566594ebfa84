"""Health checks of the leader, which keep the client's state current while no request is sent.

A new leader is checked at once, and then every two seconds.
"""

from __future__ import annotations

import time

from nodectl.client.connection.backoff import backoff
from nodectl.client.connection.errors import Broken
from nodectl.client.connection.http import Http
from nodectl.client.connection.leadership import Leader, Leadership
from nodectl.client.connection.state import ConnectionState
from nodestore.errors import NodectlError

_CHECK_INTERVAL_S = 2.0
_ANSWER_TIMEOUT_S = 2.0
_FIRST_CHECK_DELAY_S = 0.05
"""Delay of the first check after a change of leader. Waiting commands are sent first; their answers also show whether
it works."""


async def monitor_leader(http: Http, leadership: Leadership, state: ConnectionState) -> None:
    """Check the leader and update `state`, until cancelled."""
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
        before, pause_s = leader, _CHECK_INTERVAL_S
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
    """Wait for `delay_s` seconds, or until another leader is known."""
    until = time.monotonic() + delay_s
    while leadership.leader == leader and (left_s := until - time.monotonic()) > 0:
        await leadership.wait_changed(left_s)
