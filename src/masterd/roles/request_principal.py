"""Notes in each request who sent it. The API's gate writes it; handlers and `peers` read it."""

from __future__ import annotations

from aiohttp import web

from masterd.roles.principal import ANYONE, Principal

_PRINCIPAL = web.RequestKey("principal", Principal)


def set_principal(request: web.Request, principal: Principal) -> None:
    """Note who sent this request."""
    request[_PRINCIPAL] = principal


def principal_of(request: web.Request) -> Principal:
    """Who sent this request; ANYONE without access control."""
    found: Principal = request.get(_PRINCIPAL, ANYONE)
    return found
