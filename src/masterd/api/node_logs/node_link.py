"""The connection of one noded to the leader: sends it requests for its program's log, and receives the pieces."""

from __future__ import annotations

import asyncio
import itertools
import logging
from typing import Any

from aiohttp import WSMsgType, web
from pydantic import TypeAdapter, ValidationError

from nodestore.errors import Garbage, NodectlError, NodeUnavailable, from_code
from nodestore.schema.api_types import LogPiece
from nodestore.support.jsonio import dumps, loads

log = logging.getLogger(__name__)

_PIECE = TypeAdapter(LogPiece)


class NodeLink:
    """The connection of one noded. `ended` is set when it must be closed."""

    def __init__(self, socket: web.WebSocketResponse, nonce: str) -> None:
        self.nonce = nonce
        self.ended = asyncio.Event()
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[LogPiece]] = {}

    async def fetch(self, query: dict[str, Any], timeout_s: float) -> LogPiece:
        """Send `query`; return the piece, or raise the error in the answer. NodeUnavailable: no answer came."""
        number = next(self._numbers)
        answer: asyncio.Future[LogPiece] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        try:
            async with asyncio.timeout(timeout_s):
                await self._socket.send_str(dumps({"id": number, **query}).decode())
                return await answer
        except TimeoutError:
            raise NodeUnavailable(f"its noded did not answer within {timeout_s:g} s") from None
        except ConnectionError:
            raise NodeUnavailable("the connection of its noded broke") from None
        finally:
            del self._answers[number]

    async def receive(self) -> None:
        """Hand answers to the requests that wait for them, until the connection ends."""
        async for message in self._socket:
            if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                return
            try:
                self._hand_over(loads(message.data))
            except (Garbage, TypeError, KeyError, ValidationError) as error:
                log.warning("a noded sent something else than the answer to a request: %s", error)
                return

    def _hand_over(self, answer: Any) -> None:
        waiting = self._answers.get(answer["id"])
        if waiting is None or waiting.done():
            return
        if "error" in answer:
            waiting.set_exception(from_code(str(answer["error"]["code"]), str(answer["error"]["detail"])))
        else:
            waiting.set_result(_PIECE.validate_python(answer["piece"]))

    def fail_requests(self, error: NodectlError) -> None:
        for waiting in self._answers.values():
            if not waiting.done():
                waiting.set_exception(type(error)(*error.args))
