"""The installed programs over TLS with client certificates, also while these are renewed every few seconds.

The authority is made with openssl, as in a plant that has one already; in one test with keys of RSA.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from nodectl import Client
from nodestore.errors import Denied, NodectlError, NotFound, Unavailable
from nodestore.schema.keys import Keys
from tests.support.certificates import Authority
from tests.support.etcd_cluster import EtcdCluster, Tls, free_ports
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[3]
LIFE_S = 8
RENEW_EVERY_S = 2.5
PATIENCE_S = 60.0
INVENTORY = """
nodes: {n1: {}}
defaults: {driver: {name: exec, settings: {argv: ["true"]}}}
"""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def etcd_tls(authority: Authority) -> Iterator[EtcdCluster]:
    with _etcd(authority) as cluster:
        yield cluster


def _etcd(authority: Authority) -> EtcdCluster:
    cert, key = authority.issue("member")
    return EtcdCluster(1, tls=Tls(ca=authority.ca, cert=cert, key=key, client_auth=True))


class Programs:
    """A masterd and a noded that reach etcd over TLS, each with a certificate of its own."""

    def __init__(self, etcd: EtcdCluster, authority: Authority, keys: Keys, directory: Path) -> None:
        self.authority, self.keys, self.directory = authority, keys, directory
        self.endpoints = ",".join(etcd.endpoints)
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.url = ""
        """Of masterd's API."""

    def tls(self, name: str, seconds: int) -> list[str]:
        self.renew(name, seconds)
        return [
            f"--ca={self.authority.ca}",
            f"--cert={self.directory / name}.pem",
            f"--key={self.directory / name}.key",
        ]

    def renew(self, name: str, seconds: int) -> None:
        """Replace the certificate and the key one after the other, as renewing programs do."""
        for made, suffix in zip(self.authority.issue(name, seconds=seconds), ("pem", "key"), strict=True):
            made.replace(self.directory / f"{name}.{suffix}")

    def start(self, seconds: int) -> None:
        common = [f"--cluster={self.keys.cluster}", f"--endpoints={self.endpoints}"]
        own = self.tls("masterd", seconds)
        api = [option.replace("--", "--tls-", 1) for option in own]
        self.url = f"https://127.0.0.1:{free_ports(1)[0]}"
        self._start("masterd", "--id=m1", f"--listen={self.url.removeprefix('https://')}", "--timing=slow", *common,
                    *own, *api)  # fmt: skip
        self._start("noded", "--node=n1", f"--work-dir={self.directory / 'work'}", "--tick=500ms", *common,
                    *self.tls("noded", seconds))  # fmt: skip

    def _start(self, program: str, *arguments: str) -> None:
        with (self.directory / f"{program}.log").open("ab") as log:
            self.running[program] = subprocess.Popen(
                [sys.executable, "-m", program, *arguments], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def log(self, program: str) -> str:
        return (self.directory / f"{program}.log").read_text("utf-8")

    async def nodectl(self, *arguments: str) -> str:
        """What `nodectl` prints. It connects to etcd with a certificate of its own."""
        argv = [
            sys.executable, "-m", "nodectl", "--endpoints", self.endpoints, "--cluster", self.keys.cluster,
            "--request-timeout", "20s", *self.tls("nodectl", 3_600), *arguments,
        ]  # fmt: skip
        environ = {name: value for name, value in os.environ.items() if not name.startswith("NODECTL_")}
        done = await asyncio.to_thread(subprocess.run, argv, cwd=ROOT, env=environ, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def client(self) -> Client:
        self.renew("client", LIFE_S)
        own = self.directory / "client"
        return Client(
            self.endpoints, cluster=self.keys.cluster, ca=self.authority.ca, cert=own.with_suffix(".pem"),
            key=own.with_suffix(".key"),
        )  # fmt: skip

    async def wait_log_link(self, client: Client) -> None:
        """Wait until noded answers a request for the log, over its connection to the leader: its driver keeps none."""

        async def answered() -> bool:
            try:
                await client.get("/v1/nodes/n1/log", timeout_s=5.0)
            except NotFound as error:
                return "driver exec keeps no log here" in str(error)
            except Unavailable:
                pass
            return False

        await eventually(answered, "noded is connected to the leader", timeout_s=PATIENCE_S)

    async def observed_generation(self) -> int:
        found = json.loads(await self.nodectl("node", "show", "n1", "--output", "json"))
        status = found["status"] or {}
        return int(status.get("observed_generation", 0))

    def stop(self) -> None:
        for process in self.running.values():
            process.kill()
            process.wait()


@pytest.fixture
def programs(etcd_tls: EtcdCluster, authority: Authority, keys: Keys, tmp_path: Path) -> Iterator[Programs]:
    with _stopped_afterwards(Programs(etcd_tls, authority, keys, tmp_path)) as started:
        yield started


@pytest.fixture
def rsa_programs(keys: Keys, tmp_path: Path) -> Iterator[Programs]:
    authority = Authority(tmp_path / "ca", rsa=True)
    with _etcd(authority) as etcd, _stopped_afterwards(Programs(etcd, authority, keys, tmp_path)) as started:
        yield started


@contextmanager
def _stopped_afterwards(started: Programs) -> Iterator[Programs]:
    try:
        yield started
    finally:
        started.stop()
        for program in started.running:
            print(f"--- {program}\n{started.log(program)}", file=sys.stderr)  # noqa: T201 - shown if the test fails


async def configure(programs: Programs) -> None:
    file = programs.directory / "cluster.yaml"
    file.write_text(INVENTORY, "utf-8")
    await programs.nodectl("config", "apply", str(file), "--wait")


async def test_every_program_reaches_etcd_with_a_client_certificate(rsa_programs: Programs) -> None:
    """The command line, the client, masterd and noded; and the API, with no access to etcd, the node's log included."""
    programs = rsa_programs
    programs.start(3_600)
    await configure(programs)
    index = json.loads(await programs.nodectl("node", "set", "n1", "a=1", "--output", "json"))["index"]
    async with programs.client() as client:
        assert (await client.get("/v1/nodes/n1"))["name"] == "n1"

    async def applied() -> bool:
        return bool(await programs.observed_generation() >= index)

    await eventually(applied, "noded has applied the document", timeout_s=PATIENCE_S)
    async with Client(programs.url, ca=programs.authority.ca) as client:
        assert (await client.leader()).url == programs.url
        await programs.wait_log_link(client)
    async with Client(programs.url) as client:
        with pytest.raises(Denied, match="its certificate is not trusted"):
            await client.get("/v1/nodes/n1", timeout_s=5.0)
    async with programs.client() as client:
        problems = "\n".join((await client.get("/v1/status"))["problems"])
    assert f"master m1: certificate {programs.directory / 'masterd'}.pem ends at " in problems
    assert f"node n1: certificate {programs.directory / 'noded'}.pem ends at " in problems
    assert f"etcd member at {programs.endpoints}: its certificate ends at " in problems


@pytest.mark.nightly
async def test_certificates_of_seconds_are_renewed_under_load(programs: Programs, etcd_tls: EtcdCluster) -> None:
    """Two lives of a certificate long: no command fails. Then every connection must be made anew, and can be."""
    programs.start(3_600)  # a busy machine takes longer than LIFE_S to start them
    await configure(programs)
    done, ends_at = 0, time.monotonic() + 2 * LIFE_S
    async with programs.client() as client:

        async def load() -> None:
            nonlocal done
            while time.monotonic() < ends_at:
                await client.command("node.set", {"node": "n1", "values": {"number": done}}, timeout_s=20.0)
                done += 1
                await asyncio.sleep(0.02)

        loading = asyncio.create_task(load())
        while not loading.done():
            for name in ("masterd", "noded", "client"):
                await asyncio.to_thread(programs.renew, name, LIFE_S)
            await asyncio.wait((loading,), timeout=RENEW_EVERY_S)
        await loading
        assert done > 100
        etcd_tls.members[0].restart()
        await etcd_tls.wait_healthy()
        for name in ("masterd", "noded", "client"):
            programs.renew(name, 3_600)
        last = (await client.command("node.set", {"node": "n1", "values": {"number": -1}}, timeout_s=30.0)).index

    async def applied() -> bool:
        try:
            return await programs.observed_generation() >= last
        except NodectlError:
            return False

    await eventually(applied, "noded has applied the last document", timeout_s=PATIENCE_S)
    for program, user in (("masterd", "the HTTP API"), ("noded", "the connection to the master")):
        assert programs.running[program].poll() is None
        of_api = programs.log(program).count(f"{user} uses renewed certificates: certificate ")
        assert of_api >= 3
        assert programs.log(program).count("uses renewed certificates: certificate ") - of_api >= 3


@pytest.mark.nightly
async def test_a_certificate_that_is_not_renewed_is_named(programs: Programs, etcd_tls: EtcdCluster) -> None:
    """The log names the file and its end, before the end and after it."""
    programs.start(3_600)  # a busy machine takes longer than LIFE_S to start them
    await configure(programs)
    for name in programs.running:
        programs.renew(name, LIFE_S)
    await asyncio.sleep(LIFE_S)
    etcd_tls.members[0].restart()
    await etcd_tls.wait_healthy()

    def named(program: str) -> bool:
        file = programs.directory / f"{program}.pem"
        text = programs.log(program)
        return f"WARN  {program}" in text and f"certificate {file} ends at" in text and f"{file} ended at" in text

    for program in ("masterd", "noded"):
        await eventually(partial(named, program), f"{program} names it", timeout_s=PATIENCE_S)
