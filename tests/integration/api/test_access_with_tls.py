"""Access control of a cluster with TLS, switched on while it runs: masters recognise one another by certificates."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from nodectl import Client
from nodestore.errors import Unauthenticated
from nodestore.pki.authority import Authorities
from nodestore.pki.identity import Subject
from nodestore.schema.keys import Keys
from nodestore.schema.models import Inventory, NodeConfig
from nodestore.support.tls_files import TlsFiles
from tests.support.etcd_cluster import EtcdCluster
from tests.support.masters import Masterd, Masters

NAMES = ("m1", "m2")


@pytest.fixture(scope="module", autouse=True)
def _warm_masters_end() -> Iterator[None]:
    yield
    Masterd.discard_warm()


def _issue(authorities: Authorities, kind: str, name: str) -> TlsFiles:
    """The files of a new certificate."""
    folder = authorities.issue(Subject(kind, name)).directory
    return TlsFiles(ca=folder / "ca.crt", cert=folder / f"{name}.crt", key=folder / f"{name}.key")


async def _send(url: str, files: TlsFiles) -> int:
    """Send a command to this master, with a certificate; the status of the answer."""
    command = {"name": "node.set", "args": {"node": "n1", "values": {"at": url}}, "actor": "an impostor"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/v1/commands", json=command, ssl=files.context()) as answer,
    ):
        return answer.status


async def test_switched_on_while_the_cluster_runs(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """Requests are forwarded with their principal, handovers work, and a role given later counts everywhere."""
    authorities = Authorities(tmp_path / "pki")
    await asyncio.to_thread(authorities.init, "plant")
    anna = await asyncio.to_thread(_issue, authorities, "operator", "anna")
    async with Masters(etcd_one, keys) as masters:
        await masters.configure(Inventory(nodes={"n1": NodeConfig()}))
        urls = {}
        for name in NAMES:
            files = await asyncio.to_thread(_issue, authorities, "masterd", name)
            own = {"cert": files.cert, "key": files.key, "ca": files.ca}
            masters.start(name, arguments=[f"--tls-{option}={path}" for option, path in own.items()])
            urls[name] = masters.running[name].url.replace("http://", "https://")
            await masters.wait_candidate(name)
        async with Client(etcd_one.endpoints, cluster=keys.cluster) as bootstrap:
            made = await bootstrap.token_create("jo", "admin")
        async with (
            Client(urls["m1"], ca=anna.ca, token=made["token"]) as admin,
            Client(urls["m2"], ca=anna.ca) as stranger,
        ):
            await stranger.node_set("n1", {"x": 1}, timeout_s=60.0)
            await admin.access_control(True)
            with pytest.raises(Unauthenticated):
                await stranger.nodes(consistency="local")
            assert [await _send(url, anna) for url in urls.values()] == [403, 403]
            await admin.token_create("anna", "operator", certificate=True)
            for to in NAMES:
                if (await admin.leader()).id != to:
                    await admin.switchover(to, timeout_s=60.0)
                assert [await _send(url, anna) for url in urls.values()] == [200, 200]  # one of them forwards it
                entries = (await admin.history(limit=2, command="node.set"))["entries"]
                assert [entry["actor"] for entry in entries if "problem" not in entry] == ["operator:anna"] * 2
