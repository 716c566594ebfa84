"""Masterds that share a store in memory, for tests of browser sessions: as pages of a browser see them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import aiohttp

from masterd.api.access.sessions.cookies import SessionCookie
from masterd.settings import MasterSettings
from nodestore.cluster.grants import Grants
from nodestore.etcd.session import Etcd
from nodestore.schema.models import Candidate, Role
from nodestore.support.tasks import background_task
from tests.support.fakes.etcd import SETTINGS, FakeEtcd
from tests.support.fakes.masterd_parts import KEYS, FakeMasterd, serving
from tests.support.waiting import eventually

COOKIE = SessionCookie(KEYS.cluster)


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a request. cookie: what the browser sends from now on; empty: it has forgotten its cookie."""

    status: int
    body: dict[str, Any]
    cookie: str | None
    set_cookie: str


class Page:
    """A page of one masterd, in a browser. A proxy in front of that masterd ends TLS, so no test needs certificates."""

    def __init__(self, name: str, url: str, session: aiohttp.ClientSession) -> None:
        self.origin, self.url, self._session = f"https://{name}.example", url, session
        self.cookie: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        """The headers of a request that changes something."""
        cookie = {} if self.cookie is None else {"Cookie": self.cookie}
        return {"Host": self.origin.removeprefix("https://"), "Origin": self.origin, **cookie}

    async def send(self, method: str, path: str, body: Any = None, *, headers: dict[str, str] | None = None) -> Answer:
        """Send a request as this page does, or with these headers, and keep the cookie of the answer."""
        if headers is None:
            headers = self.headers
            if method == "GET":
                headers = {**{k: v for k, v in headers.items() if k != "Origin"}, "Sec-Fetch-Site": "same-origin"}
        async with self._session.request(method, self.url + path, json=body, headers=headers) as answer:
            set_cookie = answer.headers.get("Set-Cookie", "")
            if set_cookie:
                pair = set_cookie.split(";")[0]
                self.cookie = None if pair.endswith("=") else pair
            content = await answer.json(content_type=None)
            return Answer(answer.status, content, self.cookie, set_cookie)

    async def log_in(self, token: str) -> Answer:
        return await self.send("POST", "/v1/login", {"token": token})


class SessionCase:
    """Two masterds, m1 and m2, on which access control is on."""

    def __init__(self, **settings: Any) -> None:
        self.server = FakeEtcd()
        self.etcd = Etcd(SETTINGS, connect=self.server.connect)
        self.settings, self.masters = settings, dict[str, FakeMasterd]()

    async def token(self, name: str = "jo", role: Role = "operator", **options: Any) -> str:
        made = await Grants(self.etcd, KEYS).create(name, role, actor="test", **options)
        assert made.token is not None
        await eventually(self._knows(made.id), "both masters know the token")
        return made.token

    def _knows(self, grant_id: str) -> Any:
        return lambda: all(grant_id in master.view.grants.items for master in self.masters.values())

    async def revoke(self, token: str) -> None:
        await Grants(self.etcd, KEYS).revoke(token.split(".")[1])

    async def sessions(self) -> int:
        """How many sessions are in the store."""
        return len((await self.etcd.range(KEYS.browser_sessions)).kvs)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[tuple[Page, Page]]:
        """A page of each masterd."""
        async with contextlib.AsyncExitStack() as stack:
            client = await stack.enter_async_context(aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()))
            pages = [Page(name, await stack.enter_async_context(self._serving(name)), client) for name in ("m1", "m2")]
            for name, page in zip(("m1", "m2"), pages, strict=True):
                candidate = Candidate(id=name, host=name, urls=(page.origin,), nonce=name)
                await self.etcd.put(KEYS.candidate(name), candidate.encode())
            await eventually(
                lambda: all(len(item.view.candidates.items) == 2 for item in self.masters.values()),
                "the masters know one another",
            )
            yield pages[0], pages[1]
        await self.etcd.close()

    @asynccontextmanager
    async def _serving(self, name: str) -> AsyncIterator[str]:
        master = self.masters[name] = FakeMasterd(etcd=Etcd(SETTINGS, connect=self.server.connect))
        settings = MasterSettings(
            require_credentials=True, allowed_hosts=(f"{name}.example",), allowed_origins=(f"https://{name}.example",),
            **self.settings,
        )  # fmt: skip
        master.parts = replace(master.parts, settings=settings)
        watching = background_task(master.view.watch(), name="watch")
        async with serving(master) as url:
            try:
                yield url
            finally:
                watching.cancel()
                await asyncio.wait({watching})
