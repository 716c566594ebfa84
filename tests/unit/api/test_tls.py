"""The API over TLS: whom a certificate names, connections that never shake hands, and certificates that are revoked."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from masterd.api.admission import AdmissionLimits
from masterd.api.connection_guard import ConnectionGuard, GuardedRunner, peer_identity
from masterd.api.routes import Handler
from masterd.assembly import build_api, build_guard
from nodestore.daemon.followed_tls import FollowedTls
from nodestore.pki.authority import Authorities
from nodestore.pki.identity import PeerIdentity, Subject
from nodestore.support.tls_files import TlsFiles
from tests.support.etcd_cluster import free_ports
from tests.support.fakes.masterd_parts import FakeMasterd
from tests.support.waiting import eventually

MASTERD, OPERATOR = Subject("masterd", "m1"), Subject("operator", "jo")


class Door:
    """A masterd's API with TLS, the authorities of its certificates, and who has sent requests."""

    def __init__(self, authorities: Authorities) -> None:
        self.authorities = authorities
        self.tls = FollowedTls(files=self.files(MASTERD), user="the HTTP API")
        self.callers: list[PeerIdentity | None] = []
        self.url, self.port = "", 0
        self.guard: ConnectionGuard

    def files(self, subject: Subject) -> TlsFiles:
        own = self.authorities.issue(subject).directory
        return TlsFiles(
            ca=own / "ca.crt", cert=own / f"{subject.name}.crt", key=own / f"{subject.name}.key", crl=own / "ca.crl"
        )

    @web.middleware
    async def note_caller(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self.callers.append(peer_identity(request))
        return await handler(request)

    @asynccontextmanager
    async def session(self, subject: Subject | None) -> AsyncIterator[aiohttp.ClientSession]:
        """A client with the certificate of `subject`, or with none."""
        files = TlsFiles(ca=self.authorities.directory / "ca.crt") if subject is None else self.files(subject)
        async with aiohttp.ClientSession(
            self.url, connector=aiohttp.TCPConnector(ssl=files.read().client), timeout=aiohttp.ClientTimeout(total=20.0)
        ) as session:
            yield session

    @property
    def connections(self) -> int:
        return self.guard.admission.connections


@asynccontextmanager
async def door(directory: Path, limits: AdmissionLimits | None = None) -> AsyncIterator[Door]:
    authorities = Authorities(directory / "pki")
    authorities.init("wall")
    made, masterd = Door(authorities), FakeMasterd()
    api = build_api(masterd.parts, limits)
    api.app.middlewares.append(made.note_caller)
    made.guard = build_guard(masterd.parts, api, tls=made.tls.server)
    made.tls.on_renewed = made.guard.close_revoked
    runner = GuardedRunner(api.app, made.guard, shutdown_timeout=0.05)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.port = site.port
    made.url = f"https://127.0.0.1:{site.port}"
    try:
        yield made
    finally:
        await runner.cleanup()
        await masterd.close()


async def test_a_certificate_names_who_sends_a_request(tmp_path: Path) -> None:
    async with door(tmp_path) as made:
        for subject in (OPERATOR, None):
            async with made.session(subject) as client, client.get("/v1/health") as answer:
                assert answer.status == 200
        named, unnamed = made.callers
        assert unnamed is None
        assert named is not None
        assert (named.kind, named.name) == ("operator", "jo")
        assert named.serial == made.authorities.records().issued[-1].serial


async def test_a_large_body_and_many_requests_on_one_connection(tmp_path: Path) -> None:
    async with door(tmp_path) as made, made.session(OPERATOR) as client:
        for _ in range(3):
            async with client.post("/v1/commands", data=b'{"commands": "' + b"x" * 900_000 + b'"}',
                                   headers={"Content-Type": "application/json"}) as answer:  # fmt: skip
                assert answer.status in (400, 503)
                await answer.read()
        assert made.connections == 1
    assert made.connections == 0


async def test_a_revoked_certificate_is_out_at_once(tmp_path: Path) -> None:
    """The connections that it has are closed, those of others are not, and new ones are refused with the reason."""
    async with door(tmp_path) as made, made.session(OPERATOR) as living, made.session(None) as other:
        for client in (living, other):
            async with client.get("/v1/health") as answer:
                assert answer.status == 200
        assert made.connections == 2
        made.authorities.revoke(OPERATOR)
        made.tls.reread_files()
        await eventually(lambda: made.connections == 1, "the connection of the revoked certificate is closed")
        async with other.get("/v1/health") as answer:
            assert answer.status == 200
        async with living.get("/v1/health") as answer:
            assert answer.status == 403
            problem = await answer.json(content_type=None)
        assert (problem["code"], problem["detail"]) == ("denied", "the certificate of operator:jo is revoked")
        assert len(made.callers) == 3  # the request was not even parsed


async def test_a_client_without_tls_is_disconnected_and_does_no_harm(tmp_path: Path) -> None:
    async with door(tmp_path) as made:
        reader, writer = await asyncio.open_connection("127.0.0.1", made.port)
        writer.write(b"GET /v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            assert b"HTTP" not in await reader.read()
        writer.close()
        await eventually(lambda: made.connections == 0, "the connection is forgotten")
        async with made.session(OPERATOR) as client, client.get("/v1/health") as answer:
            assert answer.status == 200
        assert len(made.callers) == 1


async def test_handshakes_that_are_never_finished_are_bounded(tmp_path: Path) -> None:
    """They count as connections of their address, and end after the time for the headers of a request."""
    limits = AdmissionLimits(connections_per_known_max=3, receive_s=1.0)
    async with door(tmp_path, limits) as made:
        silent = [await asyncio.open_connection("127.0.0.1", made.port) for _ in range(5)]
        await eventually(lambda: made.connections == 3, "no more than three are admitted")
        async with made.session(OPERATOR) as client:
            with pytest.raises(aiohttp.ClientError):
                await client.get("/v1/health")
            await eventually(lambda: made.connections == 0, "the handshakes are given up", timeout_s=20.0)
            async with client.get("/v1/health") as answer:
                assert answer.status == 200
        for _, writer in silent:
            writer.close()


async def test_the_server_ends_with_handshakes_in_progress(tmp_path: Path) -> None:
    async with door(tmp_path) as made:
        _, writer = await asyncio.open_connection("127.0.0.1", made.port)
        await eventually(lambda: made.connections == 1, "the connection is admitted")
    writer.close()


async def test_a_certificate_of_another_authority_is_refused(tmp_path: Path) -> None:
    async with door(tmp_path) as made:
        other = Authorities(tmp_path / "other")
        other.init("other")
        own = other.issue(MASTERD).directory
        files = TlsFiles(ca=made.authorities.directory / "ca.crt", cert=own / "m1.crt", key=own / "m1.key")
        connector = aiohttp.TCPConnector(ssl=files.read().client)
        async with aiohttp.ClientSession(made.url, connector=connector) as client:
            with pytest.raises((aiohttp.ClientError, ssl.SSLError)):
                await client.get("/v1/health")
        assert made.callers == []


async def test_a_port_without_tls_beside_the_one_with_tls(tmp_path: Path) -> None:
    authorities = Authorities(tmp_path / "pki")
    authorities.init("wall")
    made, masterd = Door(authorities), FakeMasterd()
    api = build_api(masterd.parts)
    api.app.middlewares.append(made.note_caller)
    (plain_port,) = free_ports(1)
    made.guard = build_guard(masterd.parts, api, tls=made.tls.server, plain_port=plain_port)
    runner = GuardedRunner(api.app, made.guard, shutdown_timeout=0.05)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    await runner.listen("127.0.0.1", plain_port)
    made.url = f"https://127.0.0.1:{site.port}"
    try:
        async with made.session(OPERATOR) as client:
            for url in (made.url, f"http://127.0.0.1:{plain_port}"):
                async with client.get(f"{url}/v1/health") as answer:
                    assert answer.status == 200
    finally:
        await runner.cleanup()
        await masterd.close()
    assert [None if caller is None else caller.kind for caller in made.callers] == ["operator", None]
