"""A cluster of `nodectl dev` with TLS on every link, its authorities, and commands one after another."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from nodectl.client import Client
from nodectl.dev.cluster import DevCluster
from nodestore.pki.authority import Authorities
from nodestore.pki.identity import Subject
from nodestore.support.tls_files import TlsFiles
from tests.support.waiting import eventually

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


async def readable_log(made: Plant) -> str:
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
