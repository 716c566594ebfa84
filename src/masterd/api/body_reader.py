"""Receives and parses the body of a request, within the limits of `admission`.

The bytes of a body, and the memory of what it is parsed into, count as in flight until the request is answered. A body
is parsed in one step, because the parser cannot be interrupted: so a body that would take too long is refused.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from masterd.api.admission import BYTES_PER_VALUE, VALUES_MAX, Admission, parse_cost
from masterd.roles.peers import TIMEOUT_HEADER
from nodestore.errors import Garbage, Invalid, Overloaded, TooLarge, Unavailable
from nodestore.support.jsonio import Json, duplicate_key, loads
from nodestore.support.time_slices import TimeSlice

_SMALL_BYTES = 8 << 10
"""Any body of this length is parsed within two milliseconds."""
_TOKENS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[{\[,:]', re.DOTALL)
_TOKENS_A_STEP = 1_000
_RETRY_AFTER_S = 1.0


@dataclass(slots=True)
class _RequestState:
    """What is known of one request until it is answered. deadline: until when its sender waits, monotonic."""

    admission: Admission | None = None
    reserved_bytes: int = 0
    deadline: float = math.inf
    is_parsed: bool = False
    body: Json = None


_STATE = web.RequestKey("state", _RequestState)


def _state_of(request: web.Request) -> _RequestState:
    if _STATE not in request:
        request[_STATE] = _RequestState()
    return request[_STATE]


async def receive_body(request: web.Request, admission: Admission) -> None:
    """Receive the whole body; afterwards `request.read()` returns it at once.

    Raises TooLarge, Overloaded, or aiohttp's error for a compressed body or one that did not arrive in time.
    """
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise web.HTTPUnsupportedMediaType(
            reason="compressed bodies are not accepted: send it without Content-Encoding"
        )
    _state_of(request).admission = admission
    length, limits = request.content_length, admission.limits
    if (refusal := admission.body_refusal(length)) is not None:
        raise TooLarge(refusal)
    reserve(request, admission, limits.body_bytes_max if length is None else length)
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    try:
        if request.content.is_eof():  # it came with the headers, so there is nothing to wait for
            await request.read()
            return
        async with asyncio.timeout(limits.receive_s):
            await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout(reason=f"the body was not complete within {limits.receive_s:g} s") from None
    except web.HTTPRequestEntityTooLarge:
        raise TooLarge(f"the body is larger than the limit of {limits.body_bytes_max} bytes") from None


def reserve(request: web.Request, admission: Admission, size: int) -> None:
    """Reserve bytes until `release`. Raises Overloaded if too many are in flight."""
    if not admission.reserve(size):
        raise Overloaded(
            f"the requests that are being served hold {admission.bytes_in_flight} bytes already; try again in a moment",
            _RETRY_AFTER_S,
        )
    _state_of(request).reserved_bytes += size


def release(request: web.Request, admission: Admission) -> None:
    """Give back what was reserved for this request, and forget the rest that is known of it."""
    admission.release(_state_of(request).reserved_bytes)
    request[_STATE] = _RequestState()


async def parse_body(request: web.Request) -> Json:
    """The JSON value of the body, parsed once. Garbage if it is none, or has a name twice in one object.

    TooLarge if it holds too many values.
    """
    state = _state_of(request)
    if not state.is_parsed:
        raw = await request.read()
        if len(raw) > _SMALL_BYTES:
            cost = await cost_of(raw)
            if cost > VALUES_MAX:
                raise TooLarge(
                    f"the request body holds more than {VALUES_MAX} values; send it in several requests, or large "
                    "data as text"
                )
            if state.admission is not None:
                reserve(request, state.admission, cost * BYTES_PER_VALUE)
        body = loads(raw, "the request body")
        if (name := duplicate_key(raw, body)) is not None:  # `loads` keeps its last value, other parsers the first
            raise Garbage(f"the request body holds {name[:40]!r} twice in one object")
        state.body, state.is_parsed = body, True
    return state.body


async def cost_of(raw: bytes) -> int:
    """The cost of parsing `raw`, or a number above VALUES_MAX. Yields while it counts."""
    escapes, separators = raw.count(b"\\"), 0
    for mark in (b"{", b"[", b",", b":"):
        separators += raw.count(mark)
    if parse_cost(separators, escapes) <= VALUES_MAX:
        return parse_cost(separators, escapes)
    # Texts may hold any number of these characters, so count those outside of them.
    separators, strings, time_slice = 0, 0, TimeSlice()
    for position, token in enumerate(_TOKENS.finditer(raw)):
        if raw[token.start()] == 0x22:
            strings += 1
        else:
            separators += 1
        if parse_cost(max(separators, strings // 2), escapes) > VALUES_MAX:
            break
        if position % _TOKENS_A_STEP == 0:
            await time_slice.yield_if_used_up()
    return parse_cost(max(separators, strings // 2), escapes)


# --- deadlines ---


def set_deadline(request: web.Request, limit_s: float) -> None:
    """Note until when the sender waits: as its header says, but at most `limit_s` seconds."""
    text = request.headers.get(TIMEOUT_HEADER, "")
    said_s = int(text) / 1000 if text.isascii() and text.isdigit() and len(text) < 10 else limit_s
    _state_of(request).deadline = time.monotonic() + min(said_s, limit_s)


def deadline_of(request: web.Request) -> float:
    """Until when the sender of the request waits, by the monotonic clock; infinity if that was not noted."""
    return _state_of(request).deadline


def raise_if_too_late(request: web.Request) -> None:
    """Raise Unavailable if the sender no longer waits: serving the request would delay the others."""
    if time.monotonic() >= deadline_of(request):
        raise Unavailable("the request was not served within its time limit; nothing was done")


async def read_body(request: web.Request) -> dict[str, Any]:
    """The JSON object in the body of a request. Raises Invalid if the body is not a JSON object."""
    try:
        body = await parse_body(request)
    except Garbage as error:
        raise Invalid(str(error)) from None
    if not isinstance(body, dict):
        raise Invalid("the request body must be a JSON object")
    return body
