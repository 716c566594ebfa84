"""Reads and follows the log of a node's program, one piece after another.

Each request names the position that the piece before reached, so a request that is repeated, at another master or
after the node was restarted, yields no line twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import cast

from nodectl.client.connection.backoff import backoff
from nodectl.client.connection.http import path_segment
from nodectl.client.connection.requests import ATTEMPT_S, Requests
from nodectl.client.connection.state import ConnectionState
from nodestore.errors import Invalid, Unavailable
from nodestore.schema.api_types import NodeLog
from nodestore.schema.log_requests import LOG_LINES_MAX, LOG_WAIT_MAX_S

_LENGTH_MAX = 16 << 20
"""How many characters are read without `follow`: a log that grows faster than it is read would have no end."""
_MASTER_S = 7.0
"""How long a master may take for a request, in addition to the wait for new lines."""


async def read_log(
    requests: Requests, state: ConnectionState, node: str, *, lines: int, follow: bool, timeout_s: float
) -> AsyncGenerator[NodeLog, None]:
    """See Client.node_logs. timeout_s: for a request without `follow`, and for the first one."""
    if not 0 <= lines <= LOG_LINES_MAX:
        raise Invalid(f"lines: expected a number from 0 to {LOG_LINES_MAX}, got {lines}")
    path, length = f"/v1/nodes/{path_segment(node)}/log", 0
    piece = await _fetch(requests, path, {"lines": str(lines)}, timeout_s)
    pauses, is_outage = backoff(), False
    while True:
        length += len(piece["text"])
        if piece["text"] or piece["note"]:
            yield piece
        if not follow and (piece["at_end"] or length >= _LENGTH_MAX):
            return
        if state.is_closed:
            raise Unavailable("the client was closed")
        if not follow:
            piece = await _fetch(requests, path, {"after": piece["position"]}, timeout_s)
            continue
        try:
            piece = await _fetch_new(requests, path, piece["position"])
            pauses, is_outage = backoff(), False
        except Unavailable as error:
            piece = {**piece, "text": "", "note": "" if is_outage else f"no new lines at present: {error}"}
            is_outage = True
            await asyncio.sleep(pauses.next_s())


async def _fetch_new(requests: Requests, path: str, position: str) -> NodeLog:
    limit_s = LOG_WAIT_MAX_S + _MASTER_S
    query = {"after": position, "wait_s": f"{LOG_WAIT_MAX_S:g}"}
    found = await requests.to_leader(
        "GET", path, params=query, timeout_s=limit_s, slow_s=LOG_WAIT_MAX_S + 1.0, attempt_s=limit_s
    )
    return cast(NodeLog, found)


async def _fetch(requests: Requests, path: str, query: Mapping[str, str], timeout_s: float) -> NodeLog:
    found = await requests.to_leader(
        "GET", path, params=query, timeout_s=timeout_s, slow_s=ATTEMPT_S, attempt_s=_MASTER_S
    )
    return cast(NodeLog, found)
