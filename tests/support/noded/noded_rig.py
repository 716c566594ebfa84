"""Starts noded processes with a real etcd. The tests play the leader: they write desired states and read statuses."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil

from nodestore.etcd.session import Etcd, EtcdSettings
from nodestore.processes import child_processes
from nodestore.schema.keys import Keys
from nodestore.schema.models import Alive, Desired, Spec, Status, decode
from tests.support.etcd_cluster import EtcdCluster
from tests.support.waiting import first_true

TIMEOUT_S = 30.0
NODE = "n1"

SHOW = """
import json, os, time
while True:
    try:
        text = open(os.environ["NODECTL_DOCUMENT"]).read()
        with open("shown.new", "w") as file:
            json.dump({"document": json.loads(text), "pid": os.getpid()}, file)
        os.replace("shown.new", "shown.json")
    except (OSError, ValueError):
        pass
    time.sleep(0.05)
"""


class Noded:
    """One noded process and its log."""

    def __init__(self, child: child_processes.Child, log: Path) -> None:
        self.child = child
        self._log = log

    @property
    def log_path(self) -> Path:
        return self._log

    @property
    def log(self) -> str:
        return self._log.read_text("utf-8") if self._log.exists() else ""

    async def kill(self) -> None:
        """Kill noded (SIGKILL), but not the program that it runs."""
        os.kill(self.child.pid, signal.SIGKILL if sys.platform != "win32" else signal.SIGTERM)
        await self.child.wait()

    async def ended(self) -> int:
        async with asyncio.timeout(TIMEOUT_S):
            return await self.child.wait()


class Rig:
    """One node: its keys in etcd, its work directory, and the noded processes that a test starts for it."""

    def __init__(self, etcd: Etcd, endpoints: tuple[str, ...], keys: Keys, directory: Path) -> None:
        self.etcd = etcd
        self.endpoints = endpoints
        self.keys = keys
        self.work = directory / "work"
        self._directory = directory
        self._started: list[Noded] = []

    async def start(
        self, *options: str, host_id: str = "host-a", work: Path | None = None, module: str = "noded"
    ) -> Noded:
        log = self._directory / f"noded{len(self._started)}.log"
        argv = [sys.executable, "-m", module, "--node", NODE, "--cluster", self.keys.cluster, "--host-id", host_id]
        argv += ["--endpoints", ",".join(self.endpoints), "--work-dir", str(work or self.work)]
        argv += ["--tick", "0.3", *options]
        noded = Noded(await child_processes.spawn(argv, stdout=log, die_with_parent=True), log)
        self._started.append(noded)
        return noded

    async def close(self) -> None:
        for noded in self._started:
            if noded.child.poll() is None:
                child_processes.resume(noded.child.identity)
            await noded.child.stop(0)

    async def order(self, scene: str, generation: int, *, term: int = 5, code: str = SHOW, **settings: Any) -> None:
        settings = {"argv": ["{python}", "-c", code], "grace_s": 1, "settle_s": 0.5, **settings}
        spec = Spec(driver="process", settings=settings, document={"scene": scene})
        await self.put(Desired(epoch=1, term=term, generation=generation, spec=spec))

    async def put(self, desired: Desired) -> None:
        await self.etcd.put(self.keys.desired_of(NODE), desired.encode())

    async def status(self) -> Status | None:
        found = await self.etcd.get(self.keys.status_of(NODE))
        return decode(Status, found.value, found.key) if found else None

    async def alive(self) -> Alive | None:
        found = await self.etcd.get(self.keys.alive_of(NODE))
        return decode(Alive, found.value, found.key) if found else None

    async def reached(self, wanted: Callable[[Status], object], what: str) -> Status:
        """Wait for a status for which `wanted` holds; return it."""

        async def look() -> Status | None:
            status = await self.status()
            return status if status is not None and wanted(status) else None

        return await self.until(look, what)  # type: ignore[no-any-return]

    async def ready(self, generation: int) -> Status:
        return await self.reached(
            lambda status: status.phase == "ready" and status.observed_generation == generation,
            f"generation {generation} to be ready",
        )

    def shown(self, work: Path | None = None) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(((work or self.work) / "shown.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return found

    async def shows(self, scene: str, work: Path | None = None, but_pid: int = 0) -> int:
        """Wait until a running program, other than `but_pid`, shows that scene; return its pid."""

        async def look() -> int:
            shown = self.shown(work)
            hit = shown.get("document") == {"scene": scene} and shown["pid"] != but_pid and runs(shown["pid"])
            return int(shown["pid"]) if hit else 0

        return int(await self.until(look, f"scene {scene}"))

    async def until(self, look: Callable[[], Awaitable[Any]], what: str) -> Any:
        try:
            return await first_true(look, what, timeout_s=TIMEOUT_S)
        except AssertionError as error:
            logs = "\n".join(noded.log for noded in self._started)
            raise AssertionError(f"{error}; status {await self.status()}\n{logs}") from None

    async def runs_another(self, pid: int, noded: Noded) -> dict[str, Any]:
        """Wait until a process other than `pid` shows something; return that. Needs no etcd."""

        def look() -> dict[str, Any] | None:
            shown = self.shown()
            return shown if shown.get("pid") not in (None, pid) else None

        what = f"another program than {pid}"
        return dict(await first_true(look, lambda: f"{what}\n{noded.log}", timeout_s=TIMEOUT_S))

    async def says(self, noded: Noded, words: str) -> None:
        async def look() -> bool:
            return words in noded.log

        await self.until(look, f"the log to say {words!r}")


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@asynccontextmanager
async def rig(cluster: EtcdCluster, keys: Keys, directory: Path) -> AsyncIterator[Rig]:
    async with Etcd(EtcdSettings(endpoints=cluster.endpoints)) as etcd:
        made = Rig(etcd, cluster.endpoints, keys, directory)
        try:
            yield made
        finally:
            await made.close()


async def gone(node: Rig, pid: int) -> None:
    async def look() -> bool:
        return not runs(pid)

    await node.until(look, f"process {pid} to end")
