"""Opens a cluster of `nodectl dev` for a command."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from nodectl.terminal.output import Output

if TYPE_CHECKING:
    from nodectl.dev.cluster import DevCluster

T = TypeVar("T")


def open_cluster(directory: Path) -> DevCluster:
    """Open the cluster in `directory`. Raises NotFound, with advice, if there is none."""
    from nodectl.dev.cluster import DevCluster

    cluster = DevCluster(directory, report=Output().note)
    _ = cluster.record  # reads it, so that NotFound is raised here
    return cluster


def with_lock(cluster: DevCluster, work: Callable[[], Awaitable[T]]) -> T:
    """Run `work` while no other command changes the cluster, and return its result."""
    from nodectl.dev.lock import locked

    async def run() -> T:
        return await work()

    with locked(cluster.directory):
        cluster.reload()  # it may have changed before the lock was taken
        return asyncio.run(run())
