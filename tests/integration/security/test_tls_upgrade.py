"""A cluster without TLS is moved to TLS while it works, in the steps of docs/upgrading.md. No command is lost."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from nodectl.client import Client
from nodestore.etcd.member_defaults import MemberConfig
from nodestore.pki.authority import Authorities
from nodestore.pki.identity import Subject
from nodestore.schema.keys import Keys
from nodestore.support.tls_files import TlsFiles
from tests.support.etcd_cluster import EtcdCluster, Member, find_etcd, free_ports
from tests.support.waiting import eventually

MEMBERS, MASTERS = ("m1", "m2", "m3"), ("pc1", "pc2")
PATIENCE_S = 60.0
INVENTORY = {"nodes": {"n1": {}}, "defaults": {"driver": {"name": "exec", "settings": {"argv": ["true"]}}}}


class Moving:
    """The cluster, its certificates, and the load that goes on all the time."""

    def __init__(self, etcd: EtcdCluster, keys: Keys, directory: Path) -> None:
        self.etcd, self.keys, self.directory = etcd, keys, directory
        self.authorities = Authorities(directory / "pki")
        self.tls_ports = dict(zip(MEMBERS, free_ports(3), strict=True))
        self.tls_peer_ports = dict(zip(MEMBERS, free_ports(3), strict=True))
        self.plain = {name: f"127.0.0.1:{port}" for name, port in zip(MASTERS, free_ports(2), strict=True)}
        self.tls = {name: f"127.0.0.1:{port}" for name, port in zip(MASTERS, free_ports(2), strict=True)}
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.indexes: list[int] = []
        """Of the commands that were acknowledged."""

    # --- addresses and files ---

    @property
    def plain_endpoints(self) -> str:
        return ",".join(self.etcd.endpoints)

    @property
    def tls_endpoints(self) -> str:
        return ",".join(f"127.0.0.1:{port}" for port in self.tls_ports.values())

    def files(self, kind: str, name: str) -> TlsFiles:
        own = self.authorities.issue(Subject(kind, name)).directory
        return TlsFiles(ca=own / "ca.crt", cert=own / f"{name}.crt", key=own / f"{name}.key", crl=own / "ca.crl")

    def options(self, prefix: str, kind: str, name: str) -> list[str]:
        files = self.files(kind, name)
        return [f"--{prefix}{part}={getattr(files, part)}" for part in ("ca", "cert", "key")]

    # --- etcd ---

    def restart_member(self, name: str, *, plain: bool) -> None:
        """Restart it with a client URL and a peer URL with TLS; `plain`: beside those without TLS."""
        at = MEMBERS.index(name)
        old, own = self.etcd.members[at], self.authorities.issue(Subject("etcd", name)).directory
        settings = {
            "cert-file": str(own / f"{name}.crt"), "key-file": str(own / f"{name}.key"),
            "trusted-ca-file": str(own / "ca.crt"), "client-cert-auth": "true",
            "peer-cert-file": str(own / f"{name}-peer.crt"), "peer-key-file": str(own / f"{name}-peer.key"),
            "peer-trusted-ca-file": str(own / "peer-ca.crt"), "peer-client-cert-auth": "true",
            "listen-metrics-urls": old.metrics, "unsafe-no-fsync": "true",
        }  # fmt: skip
        client, peer = f"https://127.0.0.1:{self.tls_ports[name]}", f"https://127.0.0.1:{self.tls_peer_ports[name]}"
        plain_client, plain_peer = f"http://{old.endpoint}", f"http://127.0.0.1:{self.etcd.peer_ports[at]}"
        config = MemberConfig(
            name=name, data_dir=self.etcd.directory / name, cluster_token=self.etcd.directory.name,
            client_url=f"{plain_client},{client}" if plain else client,
            peer_url=f"{plain_peer},{peer}" if plain else peer,
            advertised_client_url=plain_client if plain else client,
            advertised_peer_url=plain_peer,
            initial_cluster={other: f"http://127.0.0.1:{port}" for other, port in
                             zip(MEMBERS, self.etcd.peer_ports, strict=True)},
            settings=settings,
        )  # fmt: skip
        old.terminate()
        self.etcd.members[at] = Member(
            name, self.etcd.directory, config.command(find_etcd()), old.endpoint, old.metrics
        )
        self.etcd.members[at].start()

    async def move_peers(self) -> None:
        """Tell etcd the peer URLs with TLS, member by member."""
        for line in (await self._etcdctl("member", "list")).splitlines():
            member_id, _, name, *_ = (part.strip() for part in line.split(","))
            await self._etcdctl(
                "member", "update", member_id, f"--peer-urls=https://127.0.0.1:{self.tls_peer_ports[name]}"
            )
            await self.etcd.wait_healthy()

    async def _etcdctl(self, *arguments: str) -> str:
        argv = [str(find_etcd().with_name("etcdctl")), f"--endpoints={self.plain_endpoints}", *arguments]
        done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, check=False, encoding="utf-8")
        assert done.returncode == 0, done.stderr
        return done.stdout

    # --- masters and nodes ---

    async def run(self, name: str, *arguments: str) -> None:
        """Start masterd or noded; first stop the one that runs under that name."""
        if name in self.running:
            self.running[name].terminate()
            await asyncio.to_thread(self.running[name].wait, PATIENCE_S)
        self.running[name] = self._start(name, *arguments)

    def _start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        program = "noded" if name == "n1" else "masterd"
        with (self.directory / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", program, f"--cluster={self.keys.cluster}", *arguments],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    async def run_masters(self, client: Client, arguments: Mapping[str, list[str]]) -> None:
        """Restart the masters one at a time, the leader last."""
        leader = (await client.leader()).id if self.running else ""
        for name in sorted(MASTERS, key=lambda name: name == leader):
            ready = self.candidacies(name)
            await self.run(name, f"--id={name}", f"--host={name}", "--timing=slow", *arguments[name])
            await eventually(lambda ready=ready, name=name: self.candidacies(name) > ready, f"{name} is a standby",
                             timeout_s=PATIENCE_S)  # fmt: skip
            await client.leader(timeout_s=PATIENCE_S)

    def candidacies(self, name: str) -> int:
        """How often a masterd of that name has become a standby."""
        log = self.directory / f"{name}.log"
        return log.read_text("utf-8").count("standby at index") if log.exists() else 0

    def plain_client(self) -> Client:
        return Client(self.plain_endpoints, cluster=self.keys.cluster)

    def tls_client(self) -> Client:
        files = self.files("operator", "jo")
        return Client(self.tls_endpoints, cluster=self.keys.cluster, ca=files.ca, cert=files.cert, key=files.key)

    @asynccontextmanager
    async def load(self, client: Client) -> AsyncIterator[None]:
        """Send commands one after another. One that fails, fails the test."""
        over = asyncio.Event()

        async def send() -> None:
            while not over.is_set():
                values = {"number": len(self.indexes)}
                done = await client.command("node.set", {"node": "n1", "values": values}, timeout_s=60.0)
                self.indexes.append(done.index)
                await asyncio.sleep(0.02)

        sending = asyncio.create_task(send())
        try:
            yield
        finally:
            over.set()
            await sending

    def stop(self) -> None:
        for name, process in self.running.items():
            process.kill()
            process.wait()
            log = (self.directory / f"{name}.log").read_text("utf-8")
            print(f"--- {name}\n{log[-4_000:]}", file=sys.stderr)  # noqa: T201 - shown if the test fails


@asynccontextmanager
async def moving(keys: Keys, directory: Path) -> AsyncIterator[Moving]:
    async with EtcdCluster(3) as etcd:
        made = Moving(etcd, keys, directory)
        try:
            yield made
        finally:
            made.stop()


@pytest.mark.nightly
async def test_a_cluster_moves_to_tls_while_it_works(keys: Keys, tmp_path: Path) -> None:
    async with moving(keys, tmp_path) as made:
        plain = {name: [f"--endpoints={made.plain_endpoints}", f"--listen={made.plain[name]}"] for name in MASTERS}
        async with made.plain_client() as client:
            await made.run_masters(client, plain)
            await made.run("n1", "--node=n1", f"--work-dir={tmp_path / 'n1'}", f"--endpoints={made.plain_endpoints}")
            await client.config_apply(INVENTORY)
            async with made.load(client):
                # 1: certificates. 2: etcd listens with TLS too, and its members reach one another with TLS.
                made.authorities.init("plant")
                for member in MEMBERS:
                    made.restart_member(member, plain=True)
                    await made.etcd.wait_healthy()
                await made.move_peers()
                # 3: masters listen with TLS too, and have the certificates with which they reach each other.
                own = {name: [*made.options("", "masterd", name), *made.options("tls-", "masterd", name)]
                       for name in MASTERS}  # fmt: skip
                both = {name: [f"--endpoints={made.tls_endpoints}", f"--listen={made.tls[name]}",
                               f"--plain-listen={made.plain[name]}", *own[name]] for name in MASTERS}  # fmt: skip
                still_plain = {name: [*both[name], f"--advertise=http://{made.plain[name]}"] for name in MASTERS}
                await made.run_masters(client, still_plain)
                # 4: nodes.
                await made.run("n1", "--node=n1", f"--work-dir={tmp_path / 'n1'}",
                               f"--endpoints={made.tls_endpoints}", *made.options("", "noded", "n1"))  # fmt: skip
        # 5: clients.
        async with made.tls_client() as client, made.load(client):
            # 6: masters advertise their URLs with TLS. 7: the ports without TLS are closed.
            await made.run_masters(client, both)
            only = {name: [f"--endpoints={made.tls_endpoints}", f"--listen={made.tls[name]}", *own[name]]
                    for name in MASTERS}  # fmt: skip
            await made.run_masters(client, only)
            for member in MEMBERS:
                made.restart_member(member, plain=False)
                await made.etcd.wait_healthy()
        async with made.tls_client() as client:
            assert len(made.indexes) > 100
            assert (await client.node("n1"))["document"] == {"number": len(made.indexes) - 1}
            assert await _indexes_in_history(client) == made.indexes
            status = await client.get("/v1/status")
            assert not [line for line in status["problems"] if "without TLS" in line]
            assert all(master["url"] == f"https://{made.tls[master['id']]}" for master in await client.masters())


async def _indexes_in_history(client: Client) -> list[int]:
    """The indexes of all commands that changed the node's document, oldest first."""
    found: list[int] = []
    after, ended = 0, False
    while not ended:
        page = await client.history(after=after, limit=500, command="node.set")
        found += [entry["index"] for entry in page["entries"] if "name" in entry and entry["index"] is not None]
        after, ended = int(page["searched"] or 0), page["ended"]
    return found
