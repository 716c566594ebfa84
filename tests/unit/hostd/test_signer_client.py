"""Which signer a joining PC trusts: the one with a certificate of the authority that the token names, and no other."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from hostd.signing.client import SignerClient, WrongAuthority, authority_hash, authority_with_hash
from hostd.signing.messages import JoinRequest
from nodestore.errors import Unavailable
from nodestore.pki.authority import Authorities
from nodestore.pki.identity import Subject
from nodestore.support.tls_files import TlsFiles

_REQUEST = JoinRequest(token="secret", host="pc2", address="127.0.0.1", kind="node", requests={})


class _Signer:
    """A program at the port of a signer. It keeps what it receives. shown: the authorities that it sends."""

    def __init__(self, authorities: Authorities, shown: str) -> None:
        self._authorities, self.shown = authorities, shown
        self.received: list[str] = []

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[SignerClient]:
        directory = self._authorities.issue(Subject("hostd", "pc1"), ["127.0.0.1"]).directory
        app = web.Application()
        app.router.add_get("/v1/authority", self._authority)
        app.router.add_post("/v1/join", self._join)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            TlsFiles(cert=directory / "pc1.crt", key=directory / "pc1.key").load_into(context)
            site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
            await site.start()
            yield SignerClient(f"127.0.0.1:{runner.addresses[0][1]}")
        finally:
            await runner.cleanup()

    async def _authority(self, _: web.Request) -> web.Response:
        return web.json_response({"authority": self.shown, "time": 0.0})

    async def _join(self, request: web.Request) -> web.Response:
        self.received.append(await request.text())
        return web.json_response(
            {"cluster": "wall", "certificates": {}, "endpoints": [], "signers": [], "members_wanted": 3}
        )


def _authorities(directory: Path) -> tuple[Authorities, str]:
    made = Authorities(directory)
    made.init("wall")
    return made, (directory / "ca.crt").read_text("ascii")


@pytest.mark.parametrize("order", ["first", "last"])
async def test_a_second_authority_in_the_answer_gets_no_token(tmp_path: Path, order: str) -> None:
    """Who can change what is sent adds an authority of its own to that of the cluster, whose certificate is public."""
    (_, own), (attacker, others) = _authorities(tmp_path / "own"), _authorities(tmp_path / "attacker")
    signer = _Signer(attacker, own + others if order == "first" else others + own)
    async with signer.serving() as client:
        found = await client.fetch_authority(authority_hash(own))
        assert found.authority.split() == own.split()
        with pytest.raises(Unavailable, match="is not accepted"):
            await client.join(found.authority, _REQUEST)
    assert signer.received == []


async def test_a_signer_of_the_authority_gets_the_token_also_while_it_is_replaced(tmp_path: Path) -> None:
    (authorities, own), (_, other) = _authorities(tmp_path / "own"), _authorities(tmp_path / "other")
    signer = _Signer(authorities, other + own)
    async with signer.serving() as client:
        found = await client.fetch_authority(authority_hash(own))
        assert (await client.join(found.authority, _REQUEST)).cluster == "wall"
    assert len(signer.received) == 1


async def test_an_authority_with_another_hash_is_refused(tmp_path: Path) -> None:
    (attacker, others), (_, own) = _authorities(tmp_path / "attacker"), _authorities(tmp_path / "own")
    async with _Signer(attacker, others).serving() as client:
        with pytest.raises(WrongAuthority, match="its authority has another hash"):
            await client.fetch_authority(authority_hash(own))


def test_a_malformed_certificate_has_no_hash() -> None:
    broken = "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"
    assert authority_hash(broken) == authority_hash("") == ""
    assert authority_with_hash(broken, "") == authority_with_hash("", "") == ""
