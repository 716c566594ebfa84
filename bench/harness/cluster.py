"""The cluster under test, additional masterds in its etcd, and helpers for timing and waiting."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp

from nodectl import Client
from nodectl.dev import launch
from nodectl.dev.cluster import DevCluster
from nodectl.dev.ports import HOST, free_ports
from nodestore.errors import NodectlError
from nodestore.etcd.member_defaults import DEFAULT_SETTINGS
from nodestore.etcd.session import Etcd, EtcdSettings
from nodestore.processes import child_processes
from nodestore.support.backoff import Backoff
from nodestore.support.waiting import wait_until

WAIT_TIMEOUT_S = 60.0
Action = Callable[[], Awaitable[object]]
VALUE = b'{"node":"n1","values":{"text":"bench"}}'


@dataclass(frozen=True)
class BenchCluster:
    """A running cluster, a client of it, and a session with its etcd for preparations.

    Bare operations use a session of their own: bench/harness/baseline.py.
    """

    cluster: DevCluster
    client: Client
    etcd: Etcd
    folder: Path
    report: Callable[[str], None]

    def etcd_settings(self, endpoints: Sequence[str]) -> EtcdSettings:
        """Return the settings of a session with the cluster's etcd by these endpoints."""
        return replace(self.cluster.etcd_settings(), endpoints=tuple(endpoints))

    def http_session(self) -> aiohttp.ClientSession:
        """Return a session for requests to the masters themselves."""
        return self.cluster.http_session()

    @asynccontextmanager
    async def without_nodes(self) -> AsyncIterator[None]:
        """Stop all nodeds until the block ends, so that only the path of a command is measured."""
        names = list(self.cluster.record.parts_of("noded"))
        await asyncio.gather(*(self.cluster.stop(name) for name in names))
        try:
            yield
        finally:
            if not _is_cancelled():  # else the bench ends, and its cluster with it
                for name in names:
                    await self.cluster.start(name)
                await poll_until(self._nodes_converged, "the nodes are back")

    async def _nodes_converged(self) -> bool:
        return all(view["converged"] for view in await self.client.nodes())

    @asynccontextmanager
    async def masterd(
        self, cluster: str, *, module: str = "masterd", env: Mapping[str, str] | None = None
    ) -> AsyncIterator[str]:
        """Run a masterd of another cluster in the same etcd; yield its URL. Its log is `<cluster>.log`."""
        log = self.folder / f"{cluster}.log"
        port = free_ports(1, self.cluster.record.ports)[0]
        argv = [
            sys.executable, "-m", module, "--id", "b1", "--listen", f"{HOST}:{port}", "--cluster", cluster,
            "--endpoints", ",".join(self.cluster.endpoints), "--max-txn-ops", DEFAULT_SETTINGS["max-txn-ops"],
            "--max-request-bytes", DEFAULT_SETTINGS["max-request-bytes"],
        ]  # fmt: skip
        child = await child_processes.spawn(
            argv, env={**launch.inherited_environment(), **(env or {})}, stdout=log, die_with_parent=True
        )
        try:
            yield f"http://{HOST}:{port}"
        finally:
            await child.stop(10.0)


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def poll_until(
    check: Callable[[], Awaitable[bool]], what: str, pause_s: float = 0.05, *, within_s: float = WAIT_TIMEOUT_S
) -> None:
    """Wait until `check()` is true; an error of etcd or of a master counts as false. Raises TimedOut."""

    async def missing() -> str | None:
        try:
            return None if await check() else "not yet"
        except NodectlError as error:
            return str(error)

    await wait_until(missing, what, within_s, Backoff(pause_s, pause_s))


async def has_adopted(client: Client) -> bool:
    """Return whether the client's cluster has adopted a configuration."""
    return (await client.config())["adopted"] is not None


async def timed_ms(action: Action) -> float:
    begun = time.perf_counter()
    await action()
    return (time.perf_counter() - begun) * 1e3


async def in_turns(actions: Mapping[str, Action], trials: int, block: int) -> dict[str, list[float]]:
    """Time the actions in alternating blocks; return the durations in milliseconds, by name.

    All run equally often, at least one block each; the first block of each is a warm-up and not counted.
    """
    # Alternating, so that noise of the machine affects all of them.
    durations: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(1 + max(1, trials // block)):
        for name, action in actions.items():
            times = [await timed_ms(action) for _ in range(block)]
            durations[name] += times if turn else []
    return durations


def failure_reason(error: BaseException) -> str:
    """Return the reason of a failure in words; of a group, that of its first exception."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) or type(error).__name__
