"""A client that runs uses renewed certificates for its next connection."""

from __future__ import annotations

import shutil
import ssl
from pathlib import Path

import pytest

from nodectl import Client
from nodectl.client.connection import http as http_module
from nodestore.errors import Denied
from tests.support.certificates import Authority
from tests.support.fakes.masterd import FakeCluster, fake_cluster
from tests.support.waiting import eventually


class _Files:
    """The files that a client was opened with. Their content changes."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.ca, self.cert, self.key = (directory / name for name in ("ca.pem", "client.pem", "client.key"))

    def renew(self, authority: Authority) -> None:
        cert, key = authority.issue("client")
        for source, target in ((authority.ca, self.ca), (cert, self.cert), (key, self.key)):
            shutil.copy(source, target)


def _server(authority: Authority) -> ssl.SSLContext:
    """Requires a client certificate of this authority, and has one of it."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.ca))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(*authority.issue("server"))
    return context


async def _restart(cluster: FakeCluster, tls: ssl.SSLContext) -> None:
    """Break all connections; new ones need certificates that this context accepts."""
    (master,) = cluster.masters.values()
    await master.stop()
    master.tls = tls
    await master.start()


async def test_renewed_certificates_are_used_while_the_client_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The masterd trusts a new authority only, and has a certificate of it. Before the files are renewed, commands
    fail; while a file cannot be used, the former ones stay in use; afterwards the same client goes on."""
    monkeypatch.setattr(http_module, "_FILES_CHECK_S", 0.0)
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new")
    files = _Files(tmp_path / "client")
    files.renew(old)
    async with (
        fake_cluster("m1", tls=_server(old)) as cluster,
        Client(cluster.urls[0], ca=files.ca, cert=files.cert, key=files.key, command_timeout_s=20.0) as client,
    ):
        first = await client.command("node.clear", {"node": "n1"})
        files.cert.write_text("half a cert")
        assert (await client.command("node.clear", {"node": "n1"})).index == first.index + 1
        files.renew(old)
        await _restart(cluster, _server(new))
        with pytest.raises(Denied):
            await client.command("node.clear", {"node": "n1"}, timeout_s=0.5)
        files.renew(new)

        async def is_done() -> bool:
            try:
                return (await client.command("node.clear", {"node": "n1"})).index > first.index + 1
            except Denied:  # the refusal of before is reported until the next look for the leader
                return False

        await eventually(is_done, "the client is trusted again")
