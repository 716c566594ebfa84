"""Server-sent events: the part of the protocol that masterd uses."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from types import MappingProxyType
from typing import NamedTuple

import aiohttp

from nodectl.client.connection.errors import Broken
from nodectl.client.connection.http import parse_problem, to_request_error

SILENCE_S = 6.0  # masterd sends a comment every 2 s
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_EVENT_BYTES_MAX = 64 << 20


class ServerSentEvent(NamedTuple):
    """One event. `id`: the position from which to continue after it. An event without `data` carries only its `id`."""

    name: str
    data: bytes
    id: str = ""


async def read_events(
    session: aiohttp.ClientSession, url: str, headers: Mapping[str, str] = _NO_HEADERS
) -> AsyncGenerator[ServerSentEvent, None]:
    """Yield events. Raises Broken if the stream ends or is silent for 6 s, or the typed error if it is refused.

    headers: those with the client's credential.
    """
    timeout = aiohttp.ClientTimeout(total=None, connect=SILENCE_S, sock_connect=1.0, sock_read=SILENCE_S)
    try:
        async with session.get(
            url, headers={**headers, "Accept": "text/event-stream"}, timeout=timeout, allow_redirects=False
        ) as response:
            if response.status != 200:
                raise parse_problem(response.status, await response.read(), url)
            buffer = bytearray()
            async for chunk in response.content.iter_any():
                buffer += chunk.replace(b"\r\n", b"\n")
                if len(buffer) > _EVENT_BYTES_MAX:
                    raise Broken(f"{url}: an event of more than {_EVENT_BYTES_MAX} bytes", sent=True)
                while (end := buffer.find(b"\n\n")) >= 0:
                    parsed = parse_event(bytes(buffer[:end]))
                    del buffer[: end + 2]
                    if parsed is not None:
                        yield parsed
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise to_request_error(error, url, SILENCE_S) from None
    raise Broken(f"{url}: the stream ended", sent=True)


def parse_event(block: bytes) -> ServerSentEvent | None:
    """Return the event in one block; None for a comment."""
    name, number, data = "message", "", []
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"event":
            name = value.decode("utf-8", "replace")
        elif field == b"id":
            number = value.decode("utf-8", "replace")
        elif field == b"data":
            data.append(value)
    return ServerSentEvent(name, b"\n".join(data), number) if data or number else None
