"""A cluster whose certificates live for seconds: renewals on every link under load, and identities that are revoked.

The cluster is one of `nodectl dev`: etcd's members among themselves and with their clients, masters among themselves,
noded, the client and the command line all use certificates that `nodectl pki` issues and renews.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from nodectl.client import Client
from nodectl.dev.cluster import DevCluster
from nodestore.errors import Denied
from nodestore.pki.authority import Authorities
from nodestore.pki.identity import Subject
from nodestore.support.tls_files import TlsFiles
from tests.support.waiting import eventually

LIFE_S = 20.0
RENEW_EVERY_S = 7.0
RENEWALS = 3
PATIENCE_S = 60.0
DAEMONS = ("m1", "m2", "n1")
INVENTORY = """
masters: {m1: {priority: 5}, m2: {}}
nodes: {n1: {}}
defaults:
  driver: { name: process, settings: { argv: ["{python}", -m, nodectl.dev.tile], settle_s: 0.1 } }
"""


class Plant:
    """The cluster, its authorities, and `nodectl` as a user calls it."""

    def __init__(self, directory: Path) -> None:
        inventory = directory / "plant.yaml"
        inventory.write_text(INVENTORY, "utf-8")
        self.cluster = DevCluster(
            directory / "dev", inventory=inventory, members=3, tls=True, die_with_parent=True, unsafe_no_fsync=True
        )
        self.authorities = Authorities(directory / "dev" / "pki")

    async def nodectl(self, *arguments: str, code: int = 0) -> str:
        """Run `nodectl`, and return what it prints. It must end with this exit code."""
        argv = [sys.executable, "-m", "nodectl", "--config", str(self.cluster.paths.client_config), *arguments]
        done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, check=False, encoding="utf-8")
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    async def pki(self, *arguments: str) -> None:
        await self.nodectl("pki", *arguments, "--dir", str(self.authorities.directory))

    def log(self, name: str) -> str:
        return self.cluster.paths.log(name).read_text("utf-8")

    def files(self, subject: Subject) -> TlsFiles:
        return self.cluster.paths.certificates.of(subject.kind, subject.name)

    async def wait_in_log(self, name: str, text: str) -> None:
        await eventually(lambda: text in self.log(name), f"{name} logs {text!r}", timeout_s=PATIENCE_S)


@asynccontextmanager
async def plant(directory: Path) -> AsyncIterator[Plant]:
    made = Plant(directory)
    try:
        await made.cluster.up()
        yield made
    finally:
        for name in made.cluster.processes:
            print(f"--- {name}\n{made.log(name)[-3_000:]}", file=sys.stderr)  # noqa: T201 - shown if the test fails
        await made.cluster.destroy()


class Load:
    """Commands one after another. A command that fails ends it."""

    def __init__(self, client: Client) -> None:
        self._client, self.done, self.is_over = client, 0, False

    async def run(self) -> None:
        while not self.is_over:
            await self._client.command("node.set", {"node": "n1", "values": {"number": self.done}}, timeout_s=30.0)
            self.done += 1
            await asyncio.sleep(0.01)


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
        assert "n1" in await _readable_log(made)
        load.is_over = True
        await loading
        standby = made.cluster.master_urls[leader]  # a forwarded request
        files = made.cluster.operator_tls
        assert files is not None
        async with Client(standby, ca=files.ca, cert=files.cert, key=files.key) as direct:
            assert (await direct.node("n1"))["document"] == {"number": load.done - 1}
        assert (await client.node("n1"))["document"] == {"number": load.done - 1}


async def _readable_log(made: Plant) -> str:
    """The log of the node's program, once the new leader can read it."""
    found = ""

    async def readable() -> bool:
        nonlocal found
        try:
            found = await made.nodectl("node", "logs", "n1")
        except AssertionError:
            return False
        return bool(found)

    await eventually(readable, "the leader can read the log of n1", timeout_s=PATIENCE_S)
    return found


async def test_a_revoked_identity_is_out_at_once(tmp_path: Path) -> None:
    """An operator, a node and a master, with the connections that they have."""
    async with plant(tmp_path) as made, made.cluster.client() as client:
        leader = (await client.leader()).id
        standby = "m2" if leader == "m1" else "m1"
        url = made.cluster.master_urls[leader]
        await _readable_log(made)
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
