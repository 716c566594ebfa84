"""The site of a stranger: a page that tries to use a master through the browser that opens it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from aiohttp import web
from aiohttp.test_utils import TestServer
from yarl import URL

from tests.support.browser.chromium import FOREIGN_NAME, opened
from tests.support.browser.tap import Exchange, Tap
from tests.support.waiting import eventually

_PAGE = Path(__file__).with_name("page.html").read_text("utf-8")
ATTEMPTS = frozenset(re.findall(r'^  "([a-z-]+)": ', _PAGE, re.MULTILINE))
"""The names of what the page tries."""
_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Visit:
    """What came of one opening of the page.

    report: for each attempt what the page could read, or `error`. exchanges: what reached the master, and its answers.
    """

    report: dict[str, dict[str, Any]]
    exchanges: list[Exchange]

    def read(self) -> dict[str, dict[str, Any]]:
        """Return the attempts whose answer the page could read. The empty text of a hidden answer is none."""
        return {name: found for name, found in self.report.items() if found.get("text")}

    def statuses(self, attempt: str) -> list[int]:
        """Return how the master answered the requests of this attempt, questions of the browser included."""
        return sorted(exchange.status or 0 for exchange in self.exchanges if exchange.attempt == attempt)


class Stranger:
    """Serves the page. Use `async with Stranger.serving() as stranger`."""

    def __init__(self, port: int = 0) -> None:
        app = web.Application()
        app.router.add_get("/", self._page)
        app.router.add_post("/move", self._move)
        app.router.add_post("/report", self._take_report)
        self._server = TestServer(app, host="127.0.0.1", port=port or None)
        self._tap = Tap()
        self._settings: dict[str, str] = {}
        self._cookies: list[str] = []
        self._master_port = 0
        self._report: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

    @classmethod
    @contextlib.asynccontextmanager
    async def serving(cls) -> AsyncIterator[Self]:
        stranger = cls()
        await stranger._server.start_server()
        try:
            yield stranger
        finally:
            await stranger._server.close()

    @classmethod
    @contextlib.asynccontextmanager
    async def serving_with_tls(cls, context: ssl.SSLContext, port: int) -> AsyncIterator[Self]:
        """As another web server on the PC of a master: a browser sends it the cookies of that host."""
        stranger = cls(port)
        await stranger._server.start_server(ssl=context)
        try:
            yield stranger
        finally:
            await stranger._server.close()

    def prepare(self, master: str) -> str:
        """The URL of the page, which tries to use the master at this URL without a tap. Only with TLS."""
        self._report = asyncio.get_running_loop().create_future()
        url = f"https://127.0.0.1:{self._server.port}"
        self._settings = {"target": master, "moveUrl": "", "reportUrl": f"{url}/report"}
        return f"{url}/"

    async def reported(self) -> dict[str, dict[str, Any]]:
        """What the prepared page could read, by attempt."""
        async with asyncio.timeout(_PATIENCE_S):
            return await self._report

    def cookies_seen(self) -> list[str]:
        """The cookies that the browser has sent to this server."""
        return self._cookies

    @property
    def origin(self) -> str:
        """The origin of its page, unless it is opened with `rebound`."""
        return f"http://{FOREIGN_NAME}:{self._server.port}"

    async def visited(self, master: str, *, host: str = FOREIGN_NAME) -> Visit:
        """Open the page under this host. It tries to use the master at the URL `master`, whose address it knows."""
        async with self._begun(master):
            self._tap.destination_port = self._master_port
            page = f"http://{host}:{self._server.port}/"
            return await self._visit(page, target=f"http://127.0.0.1:{self._tap.port}", moveUrl="")

    async def visited_and_rebound(self, master: str) -> Visit:
        """Open the page under the foreign name. Then let the same name and port lead to the master: DNS rebinding."""
        async with self._begun(master):
            self._tap.destination_port = self._server.port or 0
            return await self._visit(f"http://{FOREIGN_NAME}:{self._tap.port}/", target="", moveUrl="/move")

    @contextlib.asynccontextmanager
    async def _begun(self, master: str) -> AsyncIterator[None]:
        self._master_port = URL(master).port or 0
        self._tap, self._report = Tap(), asyncio.get_running_loop().create_future()
        async with self._tap.listening():
            yield

    async def _visit(self, page: str, **settings: str) -> Visit:
        self._settings = {**settings, "reportUrl": f"http://127.0.0.1:{self._server.port}/report"}
        async with opened(page):
            async with asyncio.timeout(_PATIENCE_S):
                report = await self._report
            await eventually(self._all_answered, self._missing)
        return Visit(report, self._tap.exchanges())

    def _all_answered(self) -> bool:
        """Whether each attempt has reached the master, and each request is answered. Beacons end after the report."""
        exchanges = self._tap.exchanges()
        return {exchange.attempt for exchange in exchanges} == ATTEMPTS and all(one.status for one in exchanges)

    def _missing(self) -> str:
        return f"all of {sorted(ATTEMPTS)} are answered: {self._tap.exchanges()}"

    async def _page(self, request: web.Request) -> web.Response:
        self._cookies += request.headers.getall("Cookie", [])
        text = _PAGE.replace("SETTINGS", json.dumps(self._settings), 1)
        return _once(web.Response(text=text, content_type="text/html", headers={"Cache-Control": "no-store"}))

    async def _move(self, _: web.Request) -> web.Response:
        self._tap.destination_port = self._master_port
        return _once(web.Response())

    async def _take_report(self, request: web.Request) -> web.Response:
        self._report.set_result(json.loads(await request.text()))
        return _once(web.Response())


def _once(response: web.Response) -> web.Response:
    """The browser must use a new connection for its next request."""
    response.force_close()
    return response
