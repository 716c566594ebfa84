"""A masterd whose certificate does not name the host of its URL says so, and no longer once that is mended."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from masterd.own_certificate import OwnCertificate
from nodestore.pki.authority import Authorities
from nodestore.pki.identity import Subject
from nodestore.support.tls_context import FollowingContext
from nodestore.support.tls_files import TlsContents, TlsFiles
from tests.support.etcd_cluster import free_ports


def contents(directory: Path, *, names: tuple[str, ...] = ()) -> TlsContents:
    authorities = Authorities(directory)
    authorities.init("wall")
    own = authorities.issue(Subject("masterd", "m1"), names).directory
    return TlsFiles(ca=own / "ca.crt", cert=own / "m1.crt", key=own / "m1.key").read()


async def _close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def test_a_host_that_the_certificate_does_not_name_is_a_warning(tmp_path: Path) -> None:
    """127.0.0.2 is not among the loopback addresses that every certificate names."""
    found = contents(tmp_path)
    tls = FollowingContext(found, server_side=True)
    server = await asyncio.start_server(_close, "127.0.0.2", 0, ssl=tls)
    async with server:
        url = f"https://127.0.0.2:{server.sockets[0].getsockname()[1]}"
        own = OwnCertificate(url, found.client)
        await own.check()
        assert own.warning is not None
        assert own.warning.startswith(f"other programs do not trust {url}: IP address mismatch")
        tls.renew(contents(tmp_path, names=("127.0.0.2",)))
        await own.check()
        assert own.warning is None


async def test_a_certificate_of_ones_own_that_is_revoked_is_a_warning(tmp_path: Path) -> None:
    """The connection is refused by our own check, not by that of OpenSSL."""
    found = contents(tmp_path)
    Authorities(tmp_path).revoke(Subject("masterd", "m1"))
    server = await asyncio.start_server(_close, "127.0.0.1", 0, ssl=found.server)
    async with server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        listed = TlsFiles(ca=tmp_path / "ca.crt", crl=tmp_path / "ca.crl").read()
        own = OwnCertificate(url, FollowingContext(listed, server_side=False))
        await own.check()
        assert own.warning == f"other programs do not trust {url}: the certificate is revoked"


async def test_an_address_that_cannot_be_reached_proves_nothing(tmp_path: Path) -> None:
    own = OwnCertificate(f"https://127.0.0.1:{free_ports(1)[0]}", contents(tmp_path).client)
    await own.check()
    assert own.warning is None


async def test_renewed_files_are_checked_at_once(tmp_path: Path) -> None:
    found = contents(tmp_path)
    checked = asyncio.Queue[None]()

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        checked.put_nowait(None)
        await _close(reader, writer)

    server = await asyncio.start_server(note, "127.0.0.1", 0, ssl=found.server)
    async with server:
        own = OwnCertificate(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}", found.client)
        running = asyncio.create_task(own.run())
        for _ in range(2):
            async with asyncio.timeout(20.0):
                await checked.get()
            own.renewed.set()
        running.cancel()
        await asyncio.wait((running,))


@pytest.mark.parametrize("host", ["a..b", "x" * 70])
async def test_a_host_that_no_name_can_be_proves_nothing(tmp_path: Path, host: str) -> None:
    """The error of its encoding is no OSError. It must not end a masterd whose certificate is only checked."""
    own = OwnCertificate(f"https://{host}:8401", contents(tmp_path).client)
    await own.check()
    assert own.warning is None
