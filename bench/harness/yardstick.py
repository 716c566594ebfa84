"""The frozen put as a child process: trials of bare puts, with which commands are compared."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from bench.harness.load import Load
from nodectl.dev import launch
from nodestore.errors import NodectlError
from nodestore.processes import child_processes
from nodestore.support.jsonio import loads

PROGRAM = "bench.harness.frozen_put"
_GRACE_S = 60.0


class Yardstick:
    """A running `bench.harness.frozen_put`. It uses no CPU between its trials."""

    def __init__(self, child: child_processes.Child) -> None:
        self._child = child
        self.cpu_us: list[float] = []
        """Its own CPU time for a put, by trial."""

    async def puts(self, in_flight: int, seconds: float) -> Load:
        """Put for `seconds` with so many puts in flight. Raises NodectlError if the program fails."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(f"{in_flight} {seconds:g}\n".encode())
        async with asyncio.timeout(seconds + _GRACE_S):
            with suppress(ConnectionError):  # it has ended, which its output shows
                await self._child.stdin.drain()
            line = await self._child.stdout.readline()
        if not line:
            raise NodectlError(f"{PROGRAM} ended with code {await self._child.wait()}")
        found = loads(line)
        self.cpu_us.append(found["cpu_us"])
        return Load(in_flight, found["puts"], found["seconds"], tuple(found["latencies_ms"]))


@asynccontextmanager
async def open_yardstick(endpoint: str, tls_files: Sequence[str] = ()) -> AsyncIterator[Yardstick]:
    """Start the program for one etcd member. tls_files: authority, certificate and key, if etcd uses TLS."""
    child = await child_processes.spawn(
        [sys.executable, "-m", PROGRAM, endpoint, *tls_files], env=launch.inherited_environment(),
        stdin=child_processes.PIPE, stdout=child_processes.PIPE, die_with_parent=True,
    )  # fmt: skip
    try:
        yield Yardstick(child)
    finally:
        await child.stop(0.5)
