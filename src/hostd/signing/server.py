"""The HTTPS port of a signer. Whoever sends something is not trusted before its token or certificate was checked."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from hostd.pc.host_file import HostFile
from hostd.pc.identities import fingerprint_of_certificate
from hostd.pc.layout import Layout
from hostd.signing.joins import Joins
from hostd.signing.messages import (
    AuthorityAnswer,
    CertificatesAnswer,
    CertificatesRequest,
    JoinRequest,
    LeaveAnswer,
    Problem,
)
from nodestore.daemon.followed_tls import FollowedTls
from nodestore.errors import Denied, Invalid, NodectlError, Overloaded
from nodestore.pki.identity import PeerIdentity, peer_identity_of
from nodestore.schema.models import first_problem

log = logging.getLogger(__name__)

BODY_BYTES_MAX = 65_536
_DENIED_PAUSE_S = 0.3
_AT_ONCE_MAX = 8
_REQUEST_TIMEOUT_S, _BODY_TIMEOUT_S = 60.0, 10.0
_STATUS = {1: 500, 2: 400, 3: 404, 4: 409, 5: 503, 6: 403, 7: 504, 8: 503}
"""By exit code of an error: the status of the answer."""

B = TypeVar("B", bound=BaseModel)
Handler = Callable[[web.Request], Awaitable[BaseModel]]


class SignerApi:
    """The application that serves the port."""

    def __init__(self, layout: Layout, joins: Joins, is_revoked: Callable[[bytes | None], bool]) -> None:
        self._layout, self._joins, self._is_revoked = layout, joins, is_revoked
        self._running = 0
        self.app = web.Application(client_max_size=BODY_BYTES_MAX)
        self.app.router.add_get("/v1/authority", self._answered(self._authority))
        self.app.router.add_post("/v1/join", self._answered(self._join))
        self.app.router.add_post("/v1/certificates", self._answered(self._certificates))
        self.app.router.add_post("/v1/leave", self._answered(self._leave))

    async def _authority(self, _: web.Request) -> BaseModel:
        text = await asyncio.to_thread((self._layout.tls("hostd") / "ca.crt").read_text, "ascii")
        return AuthorityAnswer(authority=text, time=time.time())

    async def _join(self, request: web.Request) -> BaseModel:
        return await self._joins.join(await _body(request, JoinRequest), request.remote or "")

    async def _certificates(self, request: web.Request) -> BaseModel:
        """The certificates of the PC that asks. Its certificate says which PC it is."""
        host, key = self._host_of(request)
        wanted = await _body(request, CertificatesRequest)
        return CertificatesAnswer(certificates=await self._joins.certificates(host, key, wanted.requests))

    async def _leave(self, request: web.Request) -> BaseModel:
        """Mark the PC that asks for removal, and wait a while for its end. Its certificate says which PC it is."""
        return LeaveAnswer(left=await self._joins.leave(*self._host_of(request)))

    def _host_of(self, request: web.Request) -> tuple[str, str]:
        """The name of the PC whose hostd sends the request, and the fingerprint of its key. Raises Denied."""
        certificate, identity = self._peer_of(request)
        if identity is None or identity.kind != "hostd":
            raise Denied("this needs the certificate of the hostd of a PC of the cluster")
        return identity.name, fingerprint_of_certificate(certificate)

    def _peer_of(self, request: web.Request) -> tuple[bytes, PeerIdentity | None]:
        """The verified certificate of the sender, and whom it names. None if there is none, or if it is revoked."""
        connection = None if request.transport is None else request.transport.get_extra_info("ssl_object")
        if connection is None:
            return b"", None
        certificate = connection.getpeercert(binary_form=True)
        if certificate is None or self._is_revoked(certificate):
            return b"", None
        return certificate, peer_identity_of(connection.getpeercert())

    def _answered(self, handler: Handler) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def answer(request: web.Request) -> web.StreamResponse:
            try:
                await _read_body(request)
                return _json(await self._bounded(handler, request), 200)
            except NodectlError as error:
                if isinstance(error, Denied):
                    await asyncio.sleep(_DENIED_PAUSE_S)
                log.warning("%s from %s is refused: %s", request.path, request.remote, error)
                return _json(Problem(code=error.code, detail=str(error)), _STATUS.get(error.exit_code, 500))

        return answer

    async def _bounded(self, handler: Handler, request: web.Request) -> BaseModel:
        if self._running >= _AT_ONCE_MAX:
            raise Overloaded(f"{_AT_ONCE_MAX} requests are being handled: try again in a moment")
        self._running += 1
        try:
            async with asyncio.timeout(_REQUEST_TIMEOUT_S):
                return await handler(request)
        except TimeoutError:
            raise Overloaded(f"the request took longer than {_REQUEST_TIMEOUT_S:g} s: try again") from None
        finally:
            self._running -= 1


async def _read_body(request: web.Request) -> None:
    """Receive the body, which aiohttp keeps. A sender that takes its time must not hold a place of `_AT_ONCE_MAX`."""
    try:
        async with asyncio.timeout(_BODY_TIMEOUT_S):
            await request.read()
    except TimeoutError:
        raise Invalid(f"the body did not arrive within {_BODY_TIMEOUT_S:g} s") from None


async def _body(request: web.Request, model: type[B]) -> B:
    """The body of a request. Raises Invalid."""
    try:
        return model.model_validate_json(await request.read())
    except ValidationError as error:
        raise Invalid(first_problem(error)) from None


def _json(body: BaseModel, status: int) -> web.Response:
    return web.Response(body=body.model_dump_json().encode(), status=status, content_type="application/json")


def _revocations(tls: FollowedTls) -> Callable[[bytes | None], bool]:
    """Returns whether a certificate is revoked by the list that is in force now."""
    server = tls.server
    if server is None:
        raise Invalid("the signer has no certificate")
    return server.is_revoked


@asynccontextmanager
async def serving(layout: Layout, host: HostFile, joins: Joins, tls: FollowedTls) -> AsyncIterator[None]:
    """Serve the port of this signer. Raises NodectlError if the port is taken."""
    options: dict[str, Any] = {"access_log": None, "handle_signals": False, "handler_cancellation": True}
    runner = web.AppRunner(SignerApi(layout, joins, _revocations(tls)).app, **options)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host.address, host.ports.host, ssl_context=tls.server, reuse_address=True)
        await site.start()
    except OSError as error:
        await runner.cleanup()
        raise NodectlError(f"cannot listen on {host.address}:{host.ports.host}: {error.strerror or error}") from None
    try:
        yield
    finally:
        await runner.cleanup()
