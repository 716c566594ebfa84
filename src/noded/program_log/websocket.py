"""A WebSocket client (RFC 6455) on asyncio's streams, as far as noded needs it: short text messages both ways.

noded imports no HTTP library: aiohttp alone would take 14 MB of a small PC's memory.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import secrets
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from nodestore.errors import Garbage, Invalid, NodectlError, Unavailable, from_code
from nodestore.support.jsonio import loads

MESSAGE_BYTES_MAX = 64 << 10
_HEAD_BYTES_MAX = 16 << 10
_WRITE_TIMEOUT_S = 10.0
_CLOSE_TIMEOUT_S = 0.5
_ACCEPT_SALT = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # from RFC 6455
_FINAL, _MASKED = 0x80, 0x80
_TEXT, _CLOSE, _PING, _PONG = 0x1, 0x8, 0x9, 0xA
_SHORT_MAX, _TWO_BYTES, _EIGHT_BYTES = 125, 126, 127
_STATUS_LINE = re.compile(r"HTTP/[0-9.]+ ([0-9]{3})(?: |$)", re.ASCII)
_LENGTH = re.compile(r"[0-9]{1,9}", re.ASCII)
_PORTS = {"http": 80, "https": 443}


class WebSocket:
    """An open connection. Several tasks may send; one receives."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._sending = asyncio.Lock()

    async def send(self, text: bytes) -> None:
        """Send one message. Raises Unavailable if the peer takes no data for 10 s, or the connection is broken."""
        await self._send(_TEXT, text)

    async def receive(self, silence_s: float) -> bytes:
        """Return the next message, and answer pings meanwhile.

        Raises Unavailable if the connection ends, or if the peer sends nothing at all for `silence_s` seconds.
        """
        while True:
            try:
                async with asyncio.timeout(silence_s):
                    kind, payload = await self._read_frame()
            except TimeoutError:
                raise Unavailable(f"the master sent nothing for {silence_s:g} s") from None
            except (OSError, EOFError) as error:
                raise Unavailable(f"the connection is broken: {error}") from None
            if kind == _TEXT:
                return payload
            if kind == _PING:
                await self._send(_PONG, payload)
            elif kind == _CLOSE:
                raise Unavailable(f"the master closed the connection: {payload[2:].decode('utf-8', 'replace')}")

    async def _read_frame(self) -> tuple[int, bytes]:
        first, length = await self._reader.readexactly(2)
        if length == _TWO_BYTES:
            length = int.from_bytes(await self._reader.readexactly(2), "big")
        elif length >= _EIGHT_BYTES:  # longer than any message of ours, or masked, which a server must not do
            length = MESSAGE_BYTES_MAX + 1
        if not first & _FINAL or length > MESSAGE_BYTES_MAX:
            raise Unavailable("the master sent a frame that is too long or fragmented")
        return first & 0x0F, await self._reader.readexactly(length)

    async def _send(self, kind: int, payload: bytes) -> None:
        try:
            async with asyncio.timeout(_WRITE_TIMEOUT_S), self._sending:
                self._writer.write(_frame(kind, payload, secrets.token_bytes(4)))
                await self._writer.drain()
        except TimeoutError:
            raise Unavailable(f"the master took no data for {_WRITE_TIMEOUT_S:g} s") from None
        except OSError as error:
            raise Unavailable(f"the connection is broken: {error}") from None


@asynccontextmanager
async def connect(
    url: str, headers: Mapping[str, str], *, timeout_s: float, tls: ssl.SSLContext | None = None
) -> AsyncIterator[WebSocket]:
    """Open a connection to an http or https URL.

    tls: the context for https; None: the system's certificate authorities are trusted.

    Raises Unavailable if the server does not answer within `timeout_s` seconds, and Invalid for a malformed URL. If the
    server refuses the connection, the error in its answer is raised.
    """
    host, port, is_tls = _address(url)
    context = (tls or ssl.create_default_context()) if is_tls else None
    writer = None
    try:
        try:
            async with asyncio.timeout(timeout_s):
                reader, writer = await asyncio.open_connection(host, port, ssl=context, limit=2 * MESSAGE_BYTES_MAX)
                await _shake_hands(reader, writer, url, headers)
        except TimeoutError:
            raise Unavailable(f"{url}: no answer within {timeout_s:g} s") from None
        except (OSError, EOFError, asyncio.LimitOverrunError) as error:
            raise Unavailable(f"{url}: {error}") from None
        yield WebSocket(reader, writer)
    finally:
        if writer is not None:
            await _close(writer)


def _address(url: str) -> tuple[str, int, bool]:
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS[parts.scheme]
    except (ValueError, KeyError):
        raise Invalid(f"{url!r} is not the URL of a master") from None
    if not parts.hostname or not url.isascii() or not url.isprintable() or " " in url:
        raise Invalid(f"{url!r} is not the URL of a master")
    return parts.hostname, port, parts.scheme == "https"


async def _shake_hands(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, url: str, headers: Mapping[str, str]
) -> None:
    parts, key = urlsplit(url), base64.b64encode(secrets.token_bytes(16))
    head = [f"GET {parts.path} HTTP/1.1", f"Host: {parts.netloc.rpartition('@')[2]}", "Upgrade: websocket"]
    head += ["Connection: Upgrade", f"Sec-WebSocket-Key: {key.decode()}", "Sec-WebSocket-Version: 13"]
    head += [f"{name}: {value}" for name, value in headers.items()]
    writer.write("\r\n".join([*head, "", ""]).encode("ascii", "replace"))
    await writer.drain()
    status, fields = await _read_head(reader)
    if status != 101:
        raise await _refusal(reader, status, fields, url)
    accept = base64.b64encode(hashlib.sha1(key + _ACCEPT_SALT, usedforsecurity=False).digest()).decode()
    if fields.get("sec-websocket-accept") != accept:
        raise Unavailable(f"{url} is not a WebSocket")


async def _read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """Return the status of the answer, and its header fields by their names in lower case."""
    head = await reader.readuntil(b"\r\n\r\n")
    if len(head) > _HEAD_BYTES_MAX:
        raise Unavailable("the header of the answer is too long")
    first, *lines = head.decode("latin-1").split("\r\n")
    found = _STATUS_LINE.match(first)
    if found is None:
        raise Unavailable("the answer is not HTTP")
    split = (line.partition(":") for line in lines if line)
    return int(found[1]), {name.strip().lower(): value.strip() for name, _, value in split}


async def _refusal(reader: asyncio.StreamReader, status: int, fields: Mapping[str, str], url: str) -> NodectlError:
    """The error in a problem document, or one that names the status."""
    length = fields.get("content-length", "")
    if _LENGTH.fullmatch(length) and int(length) <= MESSAGE_BYTES_MAX:
        try:
            problem = loads(await reader.readexactly(int(length)))
            if isinstance(problem, dict) and "code" in problem:
                return from_code(str(problem["code"]), f"{url}: {problem.get('detail')}")
        except Garbage:
            pass
    return Unavailable(f"{url}: HTTP {status}")


def _frame(kind: int, payload: bytes, mask: bytes) -> bytes:
    count = len(payload)
    if count <= _SHORT_MAX:
        length = bytes([_MASKED | count])
    elif count < 1 << 16:
        length = bytes([_MASKED | _TWO_BYTES]) + count.to_bytes(2, "big")
    else:
        length = bytes([_MASKED | _EIGHT_BYTES]) + count.to_bytes(8, "big")
    repeated = (mask * (count // 4 + 1))[:count]
    masked = (int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")).to_bytes(count, "big")
    return bytes([_FINAL | kind]) + length + mask + masked


async def _close(writer: asyncio.StreamWriter) -> None:
    """Close the connection without waiting for data that the peer does not take."""
    writer.transport.abort()
    try:
        async with asyncio.timeout(_CLOSE_TIMEOUT_S):
            await writer.wait_closed()
    except (OSError, TimeoutError):
        pass
