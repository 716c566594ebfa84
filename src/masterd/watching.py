"""The nodes as a stream of server-sent events: all of them first, then what changed."""

from __future__ import annotations

import asyncio

from aiohttp import web

from masterd.master import Master
from masterd.queries import NodeView, node_views
from nodestore.jsonio import dumps

_COALESCE_S = 0.1
_HEARTBEAT_S = 2.0


async def stream_nodes(master: Master, request: web.Request) -> web.StreamResponse:
    """`event: nodes` with the nodes that changed; a comment when there is nothing new. Always a local read."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
    await response.prepare(request)
    woken = asyncio.Event()
    unsubscribe = master.board.subscribe(woken.set)
    shown: dict[str, NodeView] = {}
    try:
        while True:
            woken.clear()
            now = _now(master)
            changed = [view for name, view in now.items() if shown.get(name) != view]
            gone = [name for name in shown if name not in now]
            if changed or gone or not shown:
                await response.write(b"event: nodes\ndata: " + dumps({"nodes": changed, "gone": gone}) + b"\n\n")
                shown = now
                await asyncio.sleep(_COALESCE_S)
            elif not await _wait(woken):
                await response.write(b": still here\n\n")
    finally:
        unsubscribe()


def _now(master: Master) -> dict[str, NodeView]:
    board, state = master.board, master.replica.state
    views = node_views(state.inventory, state, board.status.items, board.alive.items)
    return {view.name: view for view in views}


async def _wait(woken: asyncio.Event) -> bool:
    try:
        async with asyncio.timeout(_HEARTBEAT_S):
            await woken.wait()
    except TimeoutError:
        return False
    return True
