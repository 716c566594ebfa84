"""Problem documents (RFC 9457): how the HTTP API reports errors."""

from __future__ import annotations

import math
from http import HTTPStatus

from aiohttp import web

from nodestore.errors import Invalid, NodectlError, NotFound, NotLeader, TooLarge, Unavailable
from nodestore.schema.api_types import Problem
from nodestore.support.jsonio import dumps
from nodestore.support.tls_context import TLS_REQUIRED

CONTENT_TYPE = "application/problem+json"


def problem_of(error: NodectlError, leader_url: str | None = None, *, status: int | None = None) -> Problem:
    """The problem document of `error`: `code` is for programs, `detail` for people. status: instead of the error's."""
    title = (type(error).__doc__ or "").split(":")[0].split(".")[0]
    problem: Problem = {
        "type": f"urn:nodectl:problem:{error.code}",
        "title": title,
        "status": status or error.status,
        "detail": str(error),
        "code": error.code,
    }
    url = error.url if isinstance(error, NotLeader) and error.url else leader_url
    if url:
        problem["leader_url"] = url
    if isinstance(error, Unavailable) and error.retry_after_s is not None:
        problem["retry_after_s"] = error.retry_after_s
    return problem


def problem_response(error: NodectlError, leader_url: str | None = None, *, status: int | None = None) -> web.Response:
    """The response that reports `error`; `leader_url` is the URL of the leader, if it is known. status: instead of the
    error's own."""
    problem = problem_of(error, leader_url, status=status)
    headers = {"Retry-After": _retry_after(error)} if error.status == 503 else {}
    if problem["status"] == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return web.Response(body=dumps(problem), status=problem["status"], content_type=CONTENT_TYPE, headers=headers)


def raw_answer(error: NodectlError, status: int | None = None, *, closes: bool = True) -> bytes:
    """The bytes of an answer that reports `error`, for an unparsed request. closes: it ends the connection."""
    problem = problem_of(error, status=status)
    body = dumps(problem)
    more = f"Retry-After: {_retry_after(error)}\r\n" if error.status == 503 else ""
    if problem["status"] == TLS_REQUIRED:  # RFC 9110 demands the name of the protocol
        more += "Upgrade: TLS/1.2, HTTP/1.1\r\n"
    head = (
        f"HTTP/1.1 {problem['status']} {HTTPStatus(problem['status']).phrase}\r\nContent-Type: {CONTENT_TYPE}\r\n"
        f"Content-Length: {len(body)}\r\n{more}Connection: {'close' if closes else 'keep-alive'}\r\n\r\n"
    )
    return head.encode() + body


def _retry_after(error: NodectlError) -> str:
    """The header Retry-After, which holds whole seconds."""
    retry_after_s = error.retry_after_s if isinstance(error, Unavailable) else None
    return str(max(1, math.ceil(retry_after_s or 1.0)))


def http_problem(request: web.Request, error: web.HTTPException) -> web.Response:
    """The response to a request that aiohttp refuses: an unknown path or method, or a body that is too large. It keeps
    aiohttp's status."""
    kind: type[NodectlError] = {404: NotFound, 413: TooLarge}.get(error.status, Invalid)
    refused = problem_of(kind(f"{request.method} {request.path}: {error.reason}"), status=error.status)
    headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
    return web.Response(body=dumps(refused), status=error.status, content_type=CONTENT_TYPE, headers=headers)
