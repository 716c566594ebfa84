"""Problem documents (RFC 9457): how the HTTP API reports errors."""

from __future__ import annotations

from aiohttp import web

from nodestore.errors import Invalid, NodectlError, NotFound, NotLeader, TooLarge
from nodestore.schema.api_types import Problem
from nodestore.support.jsonio import dumps

CONTENT_TYPE = "application/problem+json"


def problem_of(error: NodectlError, leader_url: str | None = None) -> Problem:
    """The problem document of `error`: `code` is for programs, `detail` for people."""
    title = (type(error).__doc__ or "").split(":")[0].split(".")[0]
    problem: Problem = {
        "type": f"urn:nodectl:problem:{error.code}",
        "title": title,
        "status": error.status,
        "detail": str(error),
        "code": error.code,
    }
    url = error.url if isinstance(error, NotLeader) and error.url else leader_url
    if url:
        problem["leader_url"] = url
    return problem


def problem_response(error: NodectlError, leader_url: str | None = None) -> web.Response:
    """The response that reports `error`; `leader_url` is the URL of the leader, if it is known."""
    headers = {"Retry-After": "1"} if error.status == 503 else None
    return web.Response(
        body=dumps(problem_of(error, leader_url)), status=error.status, content_type=CONTENT_TYPE, headers=headers
    )


def http_problem(request: web.Request, error: web.HTTPException) -> web.Response:
    """The response to a request that aiohttp refuses: an unknown path or method, or a body that is too large. It keeps
    aiohttp's status."""
    kind: type[NodectlError] = {404: NotFound, 413: TooLarge}.get(error.status, Invalid)
    refused = problem_of(kind(f"{request.method} {request.path}: {error.reason}")) | {"status": error.status}
    headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
    return web.Response(body=dumps(refused), status=error.status, content_type=CONTENT_TYPE, headers=headers)
