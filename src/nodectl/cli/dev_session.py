"""Opens a cluster of `nodectl dev` for a command."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

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
    """Run `work` while no other command changes the cluster, and return its result.

    A signal cancels `work`, which then cleans up: Ctrl-C, SIGTERM, or SIGHUP because the terminal was closed. The exit
    code is then 128 + the signal's number.
    """
    from nodectl.demo.interrupts import Signals
    from nodectl.dev.lock import locked

    signals = Signals()

    async def run() -> T:
        with signals.handle_signals():
            return await work()

    with locked(cluster.directory):
        cluster.reload()  # it may have changed before the lock was taken
        try:
            return asyncio.run(run())
        except asyncio.CancelledError:
            raise typer.Exit(128 + (signals.first or 0)) from None
