"""Helpers for tests of the session with etcd, with the real etcd or the fake."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

from nodestore.errors import NodectlError
from nodestore.etcd.lease import Lease, boottime_s
from nodestore.etcd.session import Etcd

LIVES_S = 4
"""A TTL long enough that keepalives arrive in time on a busy machine, for leases that must not expire."""


async def version(etcd: Etcd, key: str) -> int:
    """Return how often the key has been written since it was created."""
    found = await etcd.get(key)
    return found.version if found else 0


async def error_of(call: Awaitable[Any]) -> NodectlError | None:
    """Return the error that `call` raises."""
    try:
        await call
    except NodectlError as error:
        return error
    return None


def lease_end(lease: Lease) -> float:
    """Return when the lease expires if no further keepalive is answered, on the clock of `boottime_s`."""
    return boottime_s() + lease.left_s


@asynccontextmanager
async def keep_lease_alive(lease: Lease) -> AsyncIterator[asyncio.Task[None]]:
    """Grant a lease and renew it in the background."""
    task: asyncio.Task[None] = asyncio.create_task(lease.keep_alive())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait((task,))
