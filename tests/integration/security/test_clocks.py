"""Certificates that have ended, and PCs whose clocks are wrong: what each program says, and the way back.

With the installed programs, and certificates that `nodectl pki` issues and renews. Certificates begin in 1970, so a PC
whose clock has no battery accepts them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest

from nodectl import Client
from nodestore.pki.authority import Authorities
from nodestore.pki.identity import Subject
from nodestore.schema.keys import Keys
from tests.faults.hosts.lan import clocks
from tests.support.cli import CommandOutput
from tests.support.etcd_cluster import EtcdCluster, Tls, free_ports
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[3]
YEAR_S = 365 * 86_400.0
PATIENCE_S = 60.0
ENDED = "correct the clock of this PC ("
INVENTORY = "nodes: {n1: {}}\ndefaults: {driver: {name: exec, settings: {argv: ['true']}}}\n"


class Plant:
    """One member of etcd, masters and nodes, each with the files that its identity has in the authorities' directory.

    clock: that of the PC with the authorities, when the certificates are issued.
    """

    def __init__(self, directory: Path, keys: Keys, clock: Callable[[], float] = time.time) -> None:
        self.directory, self._keys = directory, keys
        authorities = Authorities(directory / "pki", clock)
        authorities.init("wall")
        for subject in ("etcd:m1", "masterd:m1", "masterd:m2", "noded:n1", "operator:jo"):
            authorities.issue(Subject.parse(subject))
        member = self._issued("etcd:m1")
        tls = Tls(ca=member / "ca.crt", cert=member / "m1.crt", key=member / "m1.key", client_auth=True)
        self.cluster = EtcdCluster(1, tls=tls)
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def _issued(self, subject: str) -> Path:
        return self.directory / "pki" / "issued" / subject.replace(":", "-")

    def _options(self, subject: str, prefix: str = "") -> list[str]:
        own, name = self._issued(subject), subject.partition(":")[2]
        return [f"--{prefix}ca={own / 'ca.crt'}", f"--{prefix}cert={own / name}.crt", f"--{prefix}key={own / name}.key"]

    def _to_etcd(self, subject: str) -> list[str]:
        endpoints = f"--endpoints={','.join(self.cluster.endpoints)}"
        return [endpoints, f"--cluster={self._keys.cluster}", *self._options(subject)]

    def start_master(self, name: str, how: str = "") -> None:
        subject, port = f"masterd:{name}", free_ports(1)[0]
        self._start(
            name, how, "masterd", f"--id={name}", f"--listen=127.0.0.1:{port}", "--timing=slow",
            *self._to_etcd(subject), *self._options(subject, "tls-"),
        )  # fmt: skip

    def start_node(self, name: str, how: str = "") -> None:
        work = f"--work-dir={self.directory / name}"
        self._start(name, how, "noded", f"--node={name}", work, "--start-wait=1s", *self._to_etcd(f"noded:{name}"))

    def _start(self, name: str, how: str, program: str, *options: str) -> None:
        """how: the error of its clock, in the format of libfaketime."""
        with (self.directory / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-m", program, *options], cwd=ROOT, env={**os.environ, **_clock(how)},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def stop(self, name: str) -> None:
        process = self.running.pop(name)
        process.kill()
        process.wait()

    async def nodectl(self, *arguments: str, how: str = "") -> CommandOutput:
        argv = [sys.executable, "-m", "nodectl", *arguments]
        done = await asyncio.to_thread(
            subprocess.run, argv, cwd=ROOT, env={**os.environ, **_clock(how)}, capture_output=True, check=False,
            encoding="utf-8",
        )  # fmt: skip
        return CommandOutput(done.returncode, done.stdout, done.stderr)

    def by_etcd(self, *arguments: str) -> list[str]:
        return [*self._to_etcd("operator:jo"), *arguments]

    def client(self) -> Client:
        own = self._issued("operator:jo")
        return Client(
            self.cluster.endpoints, cluster=self._keys.cluster, ca=own / "ca.crt", cert=own / "jo.crt",
            key=own / "jo.key",
        )  # fmt: skip

    def log(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text("utf-8")

    async def wait_in_log(self, name: str, text: str) -> None:
        await eventually(lambda: text in self.log(name), f"{name} logs {text!r}", timeout_s=PATIENCE_S)

    async def configure(self) -> None:
        file = self.directory / "wall.yaml"
        file.write_text(INVENTORY, "utf-8")
        done = await self.nodectl(*self.by_etcd("config", "apply", str(file), "--yes"))
        assert done.code == 0, done.err

    async def is_ready(self, client: Client) -> bool:
        status = (await client.get("/v1/nodes/n1"))["status"] or {}
        return bool(status.get("phase") == "ready")


def _clock(how: str) -> Mapping[str, str]:
    if not how:
        return {}
    if (missing := clocks.missing()) is not None:
        pytest.skip(missing)
    return {"LD_PRELOAD": str(clocks.library()), "FAKETIME": how, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


@contextlib.asynccontextmanager
async def running(plant: Plant) -> AsyncIterator[Plant]:
    async with plant.cluster:
        try:
            yield plant
        finally:
            for name in tuple(plant.running):
                plant.stop(name)
                print(f"--- {name}\n{plant.log(name)}", file=sys.stderr)  # noqa: T201 - shown if the test fails


@pytest.mark.nightly
async def test_a_plant_that_was_off_for_a_year_needs_one_command(keys: Keys, tmp_path: Path) -> None:
    """Every certificate has ended. Each program names its own, and waits; `pki renew` is all that is needed."""
    plant = Plant(tmp_path, keys, lambda: time.time() - YEAR_S)
    async with running(plant):
        plant.start_master("m1")
        plant.start_node("n1")
        for name in ("m1", "n1"):
            await plant.wait_in_log(name, f"{name}.crt ended at ")
            assert ENDED in plant.log(name)
        refused = await plant.nodectl(*plant.by_etcd("node", "list"))
        assert refused.code == 5
        assert "jo.crt ended at" in refused.err.splitlines()[0]

        renewed = await plant.nodectl("pki", "renew", "--dir", str(tmp_path / "pki"))
        assert (renewed.code, renewed.err.count("renewed")) == (0, 5), renewed.err
        await plant.configure()
        async with plant.client() as client:
            await client.command("node.set", {"node": "n1", "values": {"a": 1}}, timeout_s=PATIENCE_S)
            await eventually(lambda: plant.is_ready(client), "the node is driven", timeout_s=PATIENCE_S)
        assert all(process.poll() is None for process in plant.running.values())


async def test_a_pc_at_1970_does_its_work(keys: Keys, tmp_path: Path) -> None:
    """A leader, a node and a person whose PCs have just woken there."""
    plant, how = Plant(tmp_path, keys), "@1970-01-01 00:01:00"
    async with running(plant):
        plant.start_master("m1", how)
        plant.start_node("n1", how)
        await plant.configure()
        async with plant.client() as client:
            await client.command("node.set", {"node": "n1", "values": {"a": 1}}, timeout_s=PATIENCE_S)
            await eventually(lambda: plant.is_ready(client), "the node is driven", timeout_s=PATIENCE_S)
        assert (await plant.nodectl(*plant.by_etcd("node", "list"), how=how)).code == 0
        assert "1970-01-01T" in plant.log("m1")


@pytest.mark.nightly
async def test_a_pc_a_year_ahead_says_that_its_clock_may_be_wrong(keys: Keys, tmp_path: Path) -> None:
    """It trusts no certificate, and the others go on. It does its work when its clock is right again."""
    plant, how = Plant(tmp_path, keys), "+400d"
    async with running(plant):
        plant.start_master("m1")
        await plant.configure()
        plant.start_master("m2", how)
        plant.start_node("n1", how)
        for name in ("m2", "n1"):
            await plant.wait_in_log(name, ENDED)
            await plant.wait_in_log(name, "its certificate has ended, or the clock of this PC is ahead")
        said = await plant.nodectl(*plant.by_etcd("node", "list"), how=how)
        assert said.code == 5
        assert ENDED in said.err.splitlines()[0]
        async with plant.client() as client:
            await client.command("node.set", {"node": "n1", "values": {"a": 1}}, timeout_s=PATIENCE_S)
            url = (await client.leader()).url
            said = await plant.nodectl(f"--endpoints={url}", *plant.by_etcd()[2:], "node", "list", how=how)
            assert (said.code, "the clock of this PC is ahead" in said.err) == (6, True), said.err
            plant.stop("n1")
            plant.start_node("n1")
            await eventually(lambda: plant.is_ready(client), "the node is driven", timeout_s=PATIENCE_S)
