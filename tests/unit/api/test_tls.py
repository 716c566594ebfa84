"""The API over TLS: whom a certificate names, connections that never shake hands, and certificates that are revoked."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from masterd.api.admission import AdmissionLimits
from masterd.api.connections.connection_guard import ConnectionGuard
from masterd.api.connections.guarded_server import GuardedRunner, peer_identity
from masterd.api.routes import Handler
from masterd.assembly import build_api, build_guard
from masterd.election import heartbeat_listener
from masterd.election.heartbeat_listener import HeartbeatListener, open_session
from masterd.roles.peers import PeerClient
from nodectl import Client
from nodectl.client.connection.errors import Broken
from nodectl.client.connection.sse import read_events
from nodestore.cluster.election import LeaderSeen
from nodestore.daemon.followed_tls import FollowedTls
from nodestore.errors import NotLeader, Unavailable
from nodestore.pki.authority import Authorities
from nodestore.pki.identity import PeerIdentity, Subject
from nodestore.schema.models import LeaderRecord
from nodestore.support.jsonio import loads
from nodestore.support.tasks import owned_task
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
    made.tls.on_renewed = made.guard.close_distrusted
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


async def test_bytes_that_are_neither_tls_nor_http_are_disconnected_and_do_no_harm(tmp_path: Path) -> None:
    async with door(tmp_path) as made:
        reader, writer = await asyncio.open_connection("127.0.0.1", made.port)
        writer.write(b"\0\1 what is this")
        with contextlib.suppress(ConnectionError):
            assert b"HTTP" not in await reader.read()
        writer.close()
        await eventually(lambda: made.connections == 0, "the connection is forgotten")
        assert made.callers == []


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_a_client_without_tls_gets_the_reason_and_is_not_served(tmp_path: Path, method: str) -> None:
    """By one answer in plain HTTP, however its bytes are divided. Its request reaches no handler."""
    async with door(tmp_path, AdmissionLimits(receive_s=1.0)) as made:
        reader, writer = await asyncio.open_connection("127.0.0.1", made.port)
        writer.write(method[:1].encode())
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(f"{method[1:]} /v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert head.startswith(b"HTTP/1.1 426 Upgrade Required\r\n")
        assert b"\r\nUpgrade: TLS/1.2, HTTP/1.1\r\n" in head
        problem = loads(await reader.read())  # to the end of the connection, which is closed after the time limit
        assert problem["detail"] == "this port speaks TLS: use https:// in place of http://"
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


async def test_connections_of_an_authority_end_when_it_is_removed(tmp_path: Path) -> None:
    """Who stole its key may have opened a connection as any person. The others connect again and go on."""
    async with door(tmp_path) as made:
        stolen, trusted = Authorities(tmp_path / "stolen"), made.authorities.directory / "issued/masterd-m1/ca.crt"
        stolen.init("stolen")
        own = stolen.issue(Subject("operator", "admin")).directory
        left = trusted.read_bytes()
        trusted.write_bytes(left + b"\n" + (own / "ca.crt").read_bytes())
        made.tls.reread_files()
        files = TlsFiles(ca=made.authorities.directory / "ca.crt", cert=own / "admin.crt", key=own / "admin.key")
        connector = aiohttp.TCPConnector(ssl=files.read().client)
        async with (
            aiohttp.ClientSession(made.url, connector=connector) as thief,
            made.session(OPERATOR) as living,
            made.session(None) as other,
        ):
            for client in (thief, living, other):
                async with client.get("/v1/health") as answer:
                    assert answer.status == 200
            trusted.write_bytes(left + b"\n\n" + left)  # written in another form: nothing but one authority is removed
            made.tls.reread_files()
            await eventually(lambda: made.connections == 1, "connections with a certificate are closed")
            with pytest.raises((aiohttp.ClientError, ssl.SSLError)):
                await thief.get("/v1/health")
            async with living.get("/v1/health") as answer:
                assert answer.status == 200
            trusted.write_bytes(left)
            made.tls.reread_files()
            async with living.get("/v1/health") as answer:
                assert answer.status == 200
            assert made.connections == 2  # no authority was removed, so nothing was closed


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


# --- a URL with the wrong scheme --------------------------------------------------------------------------------------


@asynccontextmanager
async def wrong_url(directory: Path, scheme: str) -> AsyncIterator[tuple[str, str, ssl.SSLContext]]:
    """A URL with this scheme of a port that speaks the other one, the message about it, and a context for clients."""
    async with door(directory) as made:
        context = made.files(OPERATOR).read().client
        if scheme == "http":
            url = f"http://127.0.0.1:{made.port}"
            yield url, f"{url}: this port speaks TLS: use https://127.0.0.1:{made.port}", context
            return
        runner = web.AppRunner(web.Application())
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            url = f"https://127.0.0.1:{site.port}"
            yield url, f"{url}: this port does not speak TLS: use http://127.0.0.1:{site.port}", context
        finally:
            await runner.cleanup()


SCHEMES = pytest.mark.parametrize("scheme", ["http", "https"])


@SCHEMES
async def test_a_client_with_the_wrong_scheme_says_which_is_right(tmp_path: Path, scheme: str) -> None:
    """Reads and commands end with one line. No master has received the command, so its outcome is not unknown."""
    async with wrong_url(tmp_path, scheme) as (url, message, _):
        ca = tmp_path / "pki" / "ca.crt" if scheme == "https" else None
        async with Client([url], ca=ca) as client:
            with pytest.raises(Unavailable, match=re.escape(message)) as of_read:
                await client.get("/v1/state", timeout_s=0.3)
            with pytest.raises(Unavailable, match=re.escape(message)) as of_command:
                await client.command("node.set", {}, timeout_s=0.3)
    assert "\n" not in str(of_read.value) + str(of_command.value)


@SCHEMES
async def test_an_event_stream_with_the_wrong_scheme_says_which_is_right(tmp_path: Path, scheme: str) -> None:
    async with wrong_url(tmp_path, scheme) as (url, message, context):
        connector = aiohttp.TCPConnector(ssl=context)
        async with aiohttp.ClientSession(connector=connector) as session:
            with pytest.raises(Broken, match=re.escape(message)) as found:
                await anext(read_events(session, f"{url}/v1/events"))
    assert not found.value.sent


@SCHEMES
async def test_a_standby_with_the_wrong_scheme_says_which_is_right(
    tmp_path: Path, scheme: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it calls another masterd, where it forwards a request, and in its log: once in a term."""
    monkeypatch.setattr(heartbeat_listener, "_RETRY_S", 0.02)
    async with wrong_url(tmp_path, scheme) as (url, message, context):
        peers = PeerClient(context)
        try:
            with pytest.raises(Unavailable, match=re.escape(message)):
                await peers.get(f"{url}/v1/health", 5.0)
            with pytest.raises(Unavailable, match=re.escape(message)):
                await peers.post(f"{url}/v1/switchover", {}, 5.0)
            with pytest.raises(NotLeader, match=re.escape(message)):
                await peers.forward(make_mocked_request("GET", "/v1/state"), url, "m2")
        finally:
            await peers.close()
        record = LeaderRecord(id="m1", nonce="n", host="h", urls=(url,), since=0.0, why="")
        listener = HeartbeatListener(LeaderSeen(7, record), lambda: None, open_session=partial(open_session, context))
        listening = owned_task(listener.run())
        await eventually(lambda: message in caplog.text, "the standby warns")
        await asyncio.sleep(0.2)  # for more attempts
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
    assert caplog.text.count(message) == 1
    assert not listener.is_dead
