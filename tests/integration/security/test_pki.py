"""A cluster whose certificates live for seconds: renewals on every link under load, and identities that are revoked.

The cluster is one of `nodectl dev`: etcd's members among themselves and with their clients, masters among themselves,
noded, the client and the command line all use certificates that `nodectl pki` issues and renews.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import aiohttp
import pytest

from nodectl.client import Client
from nodestore.errors import Denied
from nodestore.pki.identity import Subject
from tests.support.tls.plant import DAEMONS, PATIENCE_S, Load, plant, readable_log
from tests.support.waiting import eventually

LIFE_S = 20.0
RENEW_EVERY_S = 7.0
RENEWALS = 3


@pytest.mark.nightly
async def test_certificates_of_seconds_are_renewed_on_every_link(tmp_path: Path) -> None:
    """Three renewals under load, until every first certificate has ended. Then each link is made anew."""
    async with plant(tmp_path) as made, made.cluster.client() as client:
        load = Load(client)
        loading = asyncio.create_task(load.run())
        for name in ("etcd:e1", "etcd:e2", "etcd:e3", "masterd:m1", "masterd:m2", "noded:n1", "operator:dev"):
            made.authorities.issue(Subject.parse(name), life_s=LIFE_S)
        first_ends_at = time.monotonic() + LIFE_S
        for _ in range(RENEWALS):
            await asyncio.wait((loading,), timeout=RENEW_EVERY_S)
            await made.pki("renew", "--force")
        await asyncio.wait((loading,), timeout=max(0.0, first_ends_at - time.monotonic()))
        assert not loading.done(), loading.exception()
        assert load.done > 100
        for name in DAEMONS:
            assert made.log(name).count("uses renewed certificates") >= 2 * RENEWALS

        for name in ("masterd:m1", "masterd:m2", "noded:n1", "operator:dev"):  # the last renewal of these
            made.authorities.issue(Subject.parse(name), life_s=3_600.0)
        for member in ("e1", "e2", "e3"):  # among themselves, and with every client
            made.authorities.issue(Subject("etcd", member), life_s=3_600.0)
            await made.cluster.kill(member)
            await made.cluster.start(member)
            await made.nodectl("dev", "status", "--dir", str(made.cluster.directory))
            before = load.done
            await eventually(lambda before=before: load.done > before + 20, "commands go on", timeout_s=PATIENCE_S)
        leader = (await client.leader()).id  # the follow stream, the handover, and noded's connection
        await made.nodectl("master", "switchover", "m2" if leader == "m1" else "m1", "--wait")
        assert "n1" in await readable_log(made)
        load.is_over = True
        await loading
        standby = made.cluster.master_urls[leader]  # a forwarded request
        files = made.cluster.operator_tls
        assert files is not None
        async with Client(standby, ca=files.ca, cert=files.cert, key=files.key) as direct:
            assert (await direct.node("n1"))["document"] == {"number": load.done - 1}
        assert (await client.node("n1"))["document"] == {"number": load.done - 1}


async def test_a_revoked_identity_is_out_at_once(tmp_path: Path) -> None:
    """An operator, a node and a master, with the connections that they have."""
    async with plant(tmp_path) as made, made.cluster.client() as client:
        leader = (await client.leader()).id
        standby = "m2" if leader == "m1" else "m1"
        url = made.cluster.master_urls[leader]
        await readable_log(made)
        await made.nodectl("master", "pause", "--reason", "the test reads the log of one leader")

        made.authorities.issue(Subject("operator", "jo"))
        own = made.files(Subject("operator", "jo"))
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=own.context())) as session:
            async with session.get(f"{url}/v1/cluster/watch") as stream:
                assert stream.status == 200
                await made.pki("revoke", "operator:jo", "--yes")
                await _end_of(stream)
            await made.wait_in_log(leader, "the certificate of operator:jo is revoked")
        async with Client(url, ca=own.ca, cert=own.cert, key=own.key) as revoked:
            with pytest.raises(Denied, match="the certificate of operator:jo is revoked"):
                await revoked.get("/v1/nodes/n1", timeout_s=30.0)

        await made.pki("revoke", "noded:n1", "--yes")
        await made.wait_in_log(leader, "the certificate of noded:n1 is revoked")
        await made.nodectl("node", "logs", "n1", code=5)

        await made.pki("revoke", f"masterd:{standby}", "--yes")
        await made.wait_in_log(leader, f"the certificate of masterd:{standby} is revoked")
        await made.wait_in_log(standby, "other programs do not trust")  # and it lives on
        trusting, files = made.cluster.master_urls[standby], made.cluster.operator_tls
        assert files is not None
        async with Client(trusting, ca=files.ca, cert=files.cert, key=files.key, crl=files.crl) as wary:
            with pytest.raises(Denied, match="the certificate is revoked"):
                await wary.get("/v1/nodes/n1", timeout_s=30.0)
        assert (await client.command("node.set", {"node": "n1", "values": {"a": 1}}, timeout_s=20.0)).index
        assert made.cluster.processes[standby].running


async def _end_of(stream: aiohttp.ClientResponse) -> None:
    async with asyncio.timeout(PATIENCE_S):
        try:
            while await stream.content.readany():
                pass
        except aiohttp.ClientError:
            pass
