"""Answers for load balancers: `/leader`, `/ready` and `/live`, by status alone, 200 or 503.

They need no credential, have no body and show no data. A status is what this masterd knows at that moment, without a
question to etcd: a leader that was deposed a moment ago may still answer 200. A request that is then sent to it is
safe, because every commit is fenced and linearizable reads are confirmed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import hdrs, web

from masterd.roles.health import MasterHealth
from masterd.roles.leadership import Leadership

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Probes:
    """The routes for load balancers."""

    def __init__(self, leadership: Leadership, health: MasterHealth) -> None:
        self._leadership, self._health = leadership, health

    def routes(self) -> list[tuple[str, str, Handler]]:
        handlers = {"/leader": self._leader, "/ready": self._ready, "/live": self._live}
        return [(method, path, handler) for path, handler in handlers.items() for method in (hdrs.METH_GET, "HEAD")]

    async def _leader(self, _: web.Request) -> web.StreamResponse:
        """200 if this masterd serves as the leader."""
        return _status(self._leadership.is_serving)

    async def _ready(self, _: web.Request) -> web.StreamResponse:
        """200 if this masterd serves as the leader, or follows the journal and can forward requests."""
        return _status(self._leadership.is_serving or self._health.follows)

    async def _live(self, _: web.Request) -> web.StreamResponse:
        """200: the process serves requests."""
        return _status(True)


def _status(is_so: bool) -> web.Response:
    return web.Response(status=200 if is_so else 503, headers={hdrs.CACHE_CONTROL: "no-store"})
