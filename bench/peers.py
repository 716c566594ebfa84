"""`make bench-peers`: other systems: the failover time if their leader's process is killed (SIGKILL), and rates.

- `etcdctl lock` at the shortest TTL that etcd grants, on an etcd with the settings of this project.
- kazoo's Election on three ZooKeeper servers, with its default session timeout of 10 s and with the shortest stable
  one. BENCH_ZOOKEEPER names the directory of ZooKeeper's jars (Debian's package `zookeeper`: /usr/share/java).
  BENCH_KAZOO names the Python that has kazoo, which is no dependency of this project (default: this Python). What is
  missing is skipped.
- PySyncObj, three processes, with its journal and without. BENCH_PYSYNCOBJ names the Python that has it;
  `make bench-peers` makes an environment of its own for it, from bench/peers-requirements.txt.

The first two are measured from the kill to the line that the next leader writes: a lower bound of what a client waits
for. PySyncObj is measured at its callers, as this project is.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from rich.console import Console

from bench.harness.figures import Figure, figure
from bench.measures import raft_library
from bench.report import page
from nodectl.dev import launch
from nodectl.dev.cluster import DevCluster
from nodectl.dev.ports import HOST, free_ports
from nodectl.etcd_binary.find import find_etcd
from nodestore.errors import NodectlError
from nodestore.processes import child_processes

TRIALS = 20
QUICK_TRIALS = 5
_LEADS_S = 60.0
_STEADY_S = 1.0

_KAZOO = """
import sys
from kazoo.client import KazooClient
client = KazooClient(sys.argv[1], timeout=float(sys.argv[2]))
client.start(timeout=30)
def lead():
    print("leads", flush=True)
    import time
    time.sleep(3600)
client.Election("/bench", sys.argv[3]).run(lead)
"""


class _Contender:
    """A process that writes a line when it becomes the leader."""

    def __init__(self, child: child_processes.Child) -> None:
        self.child = child
        self.leads = asyncio.create_task(self._first_line())

    async def _first_line(self) -> float:
        assert self.child.stdout is not None
        line = await self.child.stdout.readline()
        if not line:
            raise NodectlError(f"a contender ended with code {await self.child.wait()}")
        return time.perf_counter()

    async def end(self) -> None:
        self.leads.cancel()
        await asyncio.gather(self.leads, return_exceptions=True)
        await self.child.stop(0.0)


async def _contend(argv: Sequence[str]) -> _Contender:
    return _Contender(
        await child_processes.spawn(
            argv, env=launch.inherited_environment(), stdout=child_processes.PIPE, die_with_parent=True
        )
    )


async def _gaps(argv: Sequence[str], trials: int) -> list[float]:
    """Kill the leader of two contenders and let a new one join, repeatedly; return the failover times in seconds."""
    gaps: list[float] = []
    leader, other = await _contend(argv), None
    try:
        async with asyncio.timeout(_LEADS_S):
            await leader.leads
        for _ in range(trials):
            other = await _contend(argv)
            await asyncio.sleep(_STEADY_S)  # it must have joined the queue
            killed = time.perf_counter()
            leader.child.kill_tree()
            async with asyncio.timeout(_LEADS_S):
                gaps.append(await other.leads - killed)
            await leader.end()
            leader, other = other, None
    finally:
        for contender in (leader, other):
            if contender is not None:
                await contender.end()
    return gaps


async def etcdctl(folder: Path, trials: int) -> Figure:
    """Measure `etcdctl lock` on three members with this project's timing, with a TTL of 1 s, the shortest one."""
    found = find_etcd()
    program = Path(found.server).with_name("etcdctl" + (".exe" if os.name == "nt" else ""))
    if not program.exists():
        raise NodectlError(f"there is no etcdctl in the directory of {found.server}")
    cluster = DevCluster(folder / "cluster", die_with_parent=True)
    try:
        await cluster.up()
        for name in [*cluster.record.parts_of("noded"), *cluster.record.parts_of("masterd")]:
            await cluster.stop(name)
        lock = [str(program), "--endpoints", ",".join(cluster.endpoints), "lock", "--ttl", "1", "bench"]
        gaps = await _gaps(lock, trials)
    finally:
        await cluster.destroy()
    return figure("etcdctl lock --ttl 1", gaps, "s", how="The holder is killed (-9); the next waits in the queue.")


@asynccontextmanager
async def _zookeepers(jars: Path, folder: Path) -> AsyncIterator[str]:
    """Run three ZooKeeper servers; yield their addresses."""
    java = shutil.which("java")
    if java is None:
        raise NodectlError("java was not found on PATH")
    ports = free_ports(9)
    servers = "\n".join(f"server.{n + 1}={HOST}:{ports[3 + n]}:{ports[6 + n]}" for n in range(3))
    server = [java, "-Xmx128m", "-cp", str(jars / "*"), "org.apache.zookeeper.server.quorum.QuorumPeerMain"]
    async with AsyncExitStack() as stack:
        for number in range(3):
            data = folder / f"zookeeper{number + 1}"
            data.mkdir(parents=True)
            (data / "myid").write_text(f"{number + 1}\n", "utf-8")
            config = data / "zoo.cfg"
            config.write_text(
                f"tickTime=100\ninitLimit=50\nsyncLimit=20\ndataDir={data}\nclientPort={ports[number]}\n"
                f"clientPortAddress={HOST}\nadmin.enableServer=false\n"
                f"minSessionTimeout=200\nmaxSessionTimeout=20000\n{servers}\n",
                "utf-8",
            )
            child = await child_processes.spawn([*server, str(config)], stdout=data / "log", die_with_parent=True)
            stack.push_async_callback(child.stop, 1.0)
        yield ",".join(f"{HOST}:{port}" for port in ports[:3])


async def kazoo(folder: Path, trials: int) -> list[Figure]:
    """Measure kazoo with its default session timeout, and with the shortest one that is stable on an idle machine."""
    jars = os.environ.get("BENCH_ZOOKEEPER")
    if not jars:
        raise NodectlError("BENCH_ZOOKEEPER is not set: set it to the directory of ZooKeeper's jars")
    python = os.environ.get("BENCH_KAZOO", sys.executable)
    script = folder / "contend.py"
    script.write_text(_KAZOO, "utf-8")
    figures = []
    async with _zookeepers(Path(jars), folder) as hosts:
        for session_s, count in ((0.4, trials), (10.0, max(2, trials // 4))):
            gaps = await _gaps([python, str(script), hosts, str(session_s), "contender"], count)
            name = f"kazoo's Election, session {session_s:g} s"
            figures.append(figure(name, gaps, "s", how="Three ZooKeeper servers; the leader's process is killed (-9)."))
    return figures


async def pysyncobj(folder: Path, trials: int) -> list[Figure]:
    """Measure PySyncObj: what a Python user would take instead, a state machine replicated by Raft in the process."""
    python = os.environ.get("BENCH_PYSYNCOBJ")
    if not python:
        raise NodectlError(
            "BENCH_PYSYNCOBJ is not set: set it to a Python that has PySyncObj, as make bench-peers does"
        )
    return await raft_library.measure(python, folder / "pysyncobj", trials)


async def run(trials: int, console: Console) -> list[Figure]:
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="nodectl-peers-") as name:
        try:
            figures.append(await etcdctl(Path(name), trials))
        except (NodectlError, TimeoutError) as error:
            console.print(f"etcdctl: not measured: {error}", markup=False)
        try:
            figures += await kazoo(Path(name), trials)
        except (NodectlError, TimeoutError) as error:
            console.print(f"kazoo: not measured: {error}", markup=False)
        try:
            figures += await pysyncobj(Path(name), trials)
        except (NodectlError, TimeoutError) as error:
            console.print(f"PySyncObj: not measured: {error}", markup=False)
    return figures


def main() -> int:
    console = Console(width=None if sys.stdout.isatty() else 140)
    figures = asyncio.run(run(QUICK_TRIALS if os.environ.get("QUICK") else TRIALS, console))
    console.print(page.table(figures))
    return 0 if figures else 1


if __name__ == "__main__":
    sys.exit(main())
