"""PCs for tests of `nodectl host`: each has a root directory and an address of 127.0.0.0/8, and runs real programs."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from hostd.pc.definitions import ETCD, HOSTD, MASTERD, NODED
from hostd.pc.host_file import require_host_file
from hostd.pc.layout import Layout
from hostd.setup.waiting import read_report
from nodestore.etcd.session import EtcdSettings
from nodestore.schema.models import HostActual
from nodestore.services.processes import ProcessServices

_networks = itertools.count(random.Random(os.getpid()).randrange(20_000))
QUICK = {"NODECTL_HOSTD_OPTIONS": "--settle=100ms --tick=200ms"}
"""In tests the pauses of hostd are short."""
_TIMEOUT_S = 100.0


class LabPc:
    """One PC. It is no more than a directory until `nodectl host init` or `join` runs there."""

    def __init__(self, directory: Path, name: str, address: str, etcd: Path) -> None:
        self.name, self.address, self.etcd = name, address, etcd
        self.root = directory / name
        self.layout = Layout.of(self.root)
        self.services = ProcessServices(self.layout.services)

    def nodectl(
        self, *arguments: str, stdin: str | None = None, killed_after: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run nodectl on this PC to its end. killed_after: a step of `init` or `join`, after which it is killed."""
        module = ["nodectl"] if killed_after is None else ["tests.support.pcs.interrupted", killed_after]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("NODECTL_")}
        environment |= {"NODECTL_ALLOW_OLD_ETCD": "1", "NODECTL_ROOT": str(self.root), **QUICK, "COLUMNS": "200"}
        return subprocess.run(
            [sys.executable, "-m", *module, *arguments], env=environment, capture_output=True, text=True,
            timeout=_TIMEOUT_S, input=stdin, check=False,
        )  # fmt: skip

    def init(self, *options: str, killed_after: str | None = None) -> subprocess.CompletedProcess[str]:
        return self.nodectl(
            "host", "init", "--name", "wall", "--address", self.address, "--host", self.name, "--etcd", str(self.etcd),
            "--services", "processes", *options, killed_after=killed_after,
        )  # fmt: skip

    def join(
        self, signer: str, token: str, *options: str, killed_after: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        return self.nodectl(
            "host", "join", signer, "--token", token, "--address", self.address, "--host", self.name,
            "--etcd", str(self.etcd), "--services", "processes", *options, killed_after=killed_after,
        )  # fmt: skip

    def operate(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run nodectl as the operator of the cluster, on its first PC."""
        return self.nodectl("--config", str(self.layout.client_config), *arguments)

    def report(self) -> HostActual | None:
        """What this PC's hostd found at its last pass."""
        return read_report(self.layout)

    def runs(self) -> set[str]:
        """Which programs run, as hostd reported it last."""
        actual = self.report()
        return (
            set() if actual is None else {name for name, found in actual.services.items() if found.state == "running"}
        )

    def etcd_settings(self) -> EtcdSettings:
        """The settings of a session with this PC's member, with its maintenance certificate."""
        files = self.layout.tls_files("maintenance", self.name)
        own = require_host_file(self.layout.host_file).own_endpoint
        return EtcdSettings(endpoints=(own,), ca=files.ca, cert=files.cert, key=files.key)

    async def power_off(self) -> None:
        """Stop everything on this PC. What hangs is killed."""
        for service in (HOSTD, NODED, MASTERD, ETCD):
            await self.services.stop(service)

    async def start_hostd(self) -> None:
        await self.services.start(HOSTD)


@asynccontextmanager
async def lab(directory: Path, etcd: Path, count: int) -> AsyncIterator[list[LabPc]]:
    """PCs pc1, pc2, ... in a network of their own."""
    number = next(_networks)
    network = f"127.{20 + number // 250 % 200}.{number % 250}"
    pcs = [LabPc(directory, f"pc{index}", f"{network}.{index}", etcd) for index in range(1, count + 1)]
    try:
        yield pcs
    finally:
        await asyncio.gather(*(pc.power_off() for pc in pcs))


def token_of(done: subprocess.CompletedProcess[str]) -> str:
    """The token in the output of `host init` or `host token create`."""
    assert done.returncode == 0, done.stderr
    return next(word for word in done.stdout.split() if word.startswith("NCT1."))
