"""What tests of the session with etcd share, whichever store answers them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

from nodestore.errors import NodectlError
from nodestore.etcd.lease import Lease, boottime_s
from nodestore.etcd.session import Etcd

LIVES_S = 4
"""A TTL within which a busy machine gets a beat to etcd, where the lease is to live."""


async def version(etcd: Etcd, key: str) -> int:
    """How often the key has been written."""
    found = await etcd.get(key)
    return found.version if found else 0


async def error_of(call: Awaitable[Any]) -> NodectlError | None:
    """The error that `call` ends with."""
    try:
        await call
    except NodectlError as error:
        return error
    return None


def lease_end(lease: Lease) -> float:
    """When the lease expires if no further keepalive is answered, on the clock of `boottime_s`."""
    return boottime_s() + lease.left_s


@asynccontextmanager
async def keep_lease_alive(lease: Lease) -> AsyncIterator[asyncio.Task[None]]:
    """The lease, kept in the background."""
    task: asyncio.Task[None] = asyncio.create_task(lease.keep_alive())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait((task,))
