"""A page of a real Chromium that a test drives: by the browser's own protocol for developer tools."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.browser.chromium import opened
from tests.support.waiting import eventually, first_true

_ANSWER_S = 30.0


class DrivenPage:
    """One tab of a browser."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._numbers = socket, itertools.count(1)

    async def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        async with asyncio.timeout(_ANSWER_S):
            while True:
                message = await self._socket.receive_json()
                if message.get("id") == number:
                    assert "error" not in message, message
                    return dict(message["result"])

    async def run(self, script: str) -> Any:
        """The value of an expression in the page, or what its promise resolves to. None while the page changes."""
        found = await self._call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def open(self, url: str) -> None:
        await self._call("Page.navigate", url=url)

    async def until(self, script: str) -> None:
        """Wait until an expression in the page is true."""

        async def is_true() -> bool:
            with contextlib.suppress(AssertionError):  # the page is being replaced by another one
                return bool(await self.run(f"Boolean({script})"))
            return False

        await eventually(is_true, f"in the browser: {script}")

    async def text(self) -> str:
        """What a person sees of the page."""
        return str(await self.run("document.body.innerText"))

    async def cookies(self, url: str) -> list[dict[str, Any]]:
        """The cookies that the browser would send to this URL, with those that no script sees."""
        return list((await self._call("Network.getCookies", urls=[url]))["cookies"])


@contextlib.asynccontextmanager
async def driven(url: str, *, authority: Path | None = None) -> AsyncIterator[DrivenPage]:
    """A browser that shows this page. authority: see `opened`."""
    async with (
        opened(url, "--remote-debugging-port=0", authority=authority) as profile,
        aiohttp.ClientSession() as session,
    ):
        port = profile / "DevToolsActivePort"
        lines = await first_true(lambda: port.exists() and port.read_text().splitlines(), "the browser can be driven")

        async def tab() -> Any:
            async with session.get(f"http://127.0.0.1:{lines[0]}/json/list") as answer:
                return next((item for item in await answer.json() if item["type"] == "page"), None)

        found = await first_true(tab, "the browser has a page")
        async with session.ws_connect(found["webSocketDebuggerUrl"], max_msg_size=0) as socket:
            yield DrivenPage(socket)
