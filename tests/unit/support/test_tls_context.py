"""One context for a program's whole life: renewed certificates and authorities, and peers that are revoked."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from nodestore.pki.authority import Authorities
from nodestore.pki.identity import PeerIdentity, Subject, peer_identity_of
from nodestore.support.tls_context import FollowingContext
from nodestore.support.tls_files import TlsFiles

SERVER, CLIENT = Subject("masterd", "pc1"), Subject("noded", "n1")


class Ends:
    """A server that repeats what it reads, and a client; each follows its files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authorities = Authorities(directory / "pki")
        self.authorities.init("wall")
        for identity in (SERVER, CLIENT):
            self.authorities.issue(identity)
        self.server = FollowingContext(self.files(SERVER).read(), server_side=True)
        self.client = FollowingContext(self.files(CLIENT).read(), server_side=False)
        self.port = 0
        self.peers: list[PeerIdentity | None] = []

    def files(self, identity: Subject) -> TlsFiles:
        own = self.authorities.issue(identity).directory
        return TlsFiles(
            ca=own / "ca.crt", cert=own / f"{identity.name}.crt", key=own / f"{identity.name}.key", crl=own / "ca.crl"
        )

    def reread(self) -> None:
        self.server.renew(self.files(SERVER).read())
        self.client.renew(self.files(CLIENT).read())

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.peers.append(peer_identity_of(writer.get_extra_info("peercert")))
        try:
            while line := await reader.readline():
                writer.write(line)
                await writer.drain()
        except (OSError, ssl.SSLError):
            pass
        finally:
            writer.transport.abort()

    @asynccontextmanager
    async def connection(self, context: ssl.SSLContext) -> AsyncIterator[Echo]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=context)
        try:
            yield Echo(reader, writer)
        finally:
            writer.transport.abort()


class Echo:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer

    async def works(self) -> bool:
        """Whether the server answers. Raises the error that ends the connection, if it is one of this end."""
        self.writer.write(b"hello\n")
        return await self._reader.readline() == b"hello\n"

    async def is_refused(self) -> bool:
        """Whether the server ends the connection; whether by an alert or not is a matter of timing."""
        try:
            return not await self.works()
        except (ssl.SSLError, ConnectionError):
            return True

    @property
    def server_serial(self) -> str:
        return str(self.writer.get_extra_info("peercert")["serialNumber"])


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[Ends]:
    made = Ends(directory)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, ssl=made.server)
    made.port = server.sockets[0].getsockname()[1]
    async with server:
        yield made


async def test_a_server_knows_whom_a_certificate_names(tmp_path: Path) -> None:
    async with running(tmp_path) as ends, ends.connection(ends.client) as echo:
        assert await echo.works()
        [peer] = ends.peers
        assert peer is not None
        assert (peer.kind, peer.name) == ("noded", "n1")
        assert peer.serial == ends.authorities.records().issued[1].serial


async def test_a_client_needs_no_certificate(tmp_path: Path) -> None:
    async with running(tmp_path) as ends:
        files = TlsFiles(ca=ends.authorities.directory / "ca.crt")
        async with ends.connection(FollowingContext(files.read(), server_side=False)) as echo:
            assert await echo.works()
        assert ends.peers == [None]


async def test_a_certificate_of_another_authority_is_refused_on_both_sides(tmp_path: Path) -> None:
    """A certificate between etcd's members does not open the API either."""
    async with running(tmp_path) as ends:
        etcd = ends.authorities.issue(Subject("etcd", "pc1")).directory
        files = TlsFiles(ca=etcd / "ca.crt", cert=etcd / "pc1-peer.crt", key=etcd / "pc1-peer.key")
        async with ends.connection(FollowingContext(files.read(), server_side=False)) as echo:
            assert await echo.is_refused()
        with pytest.raises(ssl.SSLCertVerificationError):
            async with ends.connection(
                FollowingContext(TlsFiles(ca=etcd / "peer-ca.crt").read(), server_side=False)
            ) as echo:
                assert await echo.works()
        assert ends.peers == []


async def test_renewed_files_are_used_by_new_connections_and_living_ones_go_on(tmp_path: Path) -> None:
    async with running(tmp_path) as ends, ends.connection(ends.client) as before:
        assert await before.works()
        ends.authorities.renew(force=True)
        ends.reread()
        async with ends.connection(ends.client) as after:
            assert await after.works()
            assert await before.works()
            assert after.server_serial != before.server_serial
        assert len({peer.serial for peer in ends.peers if peer is not None}) == 2


async def test_an_authority_that_was_replaced_is_trusted_no_more(tmp_path: Path) -> None:
    async with running(tmp_path) as ends:
        other = Ends(tmp_path / "other")
        ends.server.renew(other.files(SERVER).read())
        with pytest.raises(ssl.SSLCertVerificationError):
            async with ends.connection(ends.client) as echo:
                assert await echo.works()
        ends.client.renew(other.files(CLIENT).read())
        async with ends.connection(ends.client) as echo:
            assert await echo.works()


async def test_a_revoked_server_is_cut_off_at_once(tmp_path: Path) -> None:
    """A new connection fails, and over a living one no byte passes any more. Another server is not affected."""
    async with running(tmp_path) as ends, running(tmp_path / "other") as other, ends.connection(ends.client) as living:
        assert await living.works()
        async with other.connection(other.client) as unaffected:
            assert await unaffected.works()
            ends.authorities.revoke(SERVER)
            contents = TlsFiles(ca=ends.authorities.directory / "ca.crt", crl=ends.authorities.directory / "ca.crl")
            ends.client.renew(contents.read())
            other.client.renew(other.files(CLIENT).read())
            assert await unaffected.works()
        assert await living.is_refused()
        with pytest.raises(ssl.SSLCertVerificationError, match="revoked"):
            async with ends.connection(ends.client) as echo:
                assert await echo.works()


async def test_a_server_asks_whether_a_client_is_revoked(tmp_path: Path) -> None:
    async with running(tmp_path) as ends:
        own = ends.authorities.issue(CLIENT).directory / "n1.crt"
        der = ssl.PEM_cert_to_DER_cert(own.read_text("ascii"))
        assert not ends.server.is_revoked(der)
        assert not ends.server.is_revoked(None)
        ends.authorities.revoke(CLIENT)
        ends.reread()
        assert ends.server.is_revoked(der)
        assert ends.server.is_revoked(b"\x30\x03not a certificate")


def test_old_versions_of_tls_are_off(tmp_path: Path) -> None:
    files = Ends(tmp_path).files(SERVER).read()
    assert files.server is not None
    assert files.server.minimum_version is ssl.TLSVersion.TLSv1_2
    assert files.client.minimum_version is ssl.TLSVersion.TLSv1_2
