"""Simulated nodes: `python -m bench.measures.watchers ENDPOINTS CLUSTER NODE...`.

Each watches its own `desired/<node>`, writes `status/<node>` at each change, and prints on stdout which
generation it saw, and when.
"""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import aclosing

from nodestore.etcd.session import Etcd, EtcdSettings
from nodestore.etcd.watch import Listing, mirror
from nodestore.schema.keys import Keys
from nodestore.schema.models import Desired, Status, decode
from nodestore.support.jsonio import Json, dumps

_LISTING_AT_ONCE = 16


async def _node(etcd: Etcd, keys: Keys, node: str, gate: asyncio.Semaphore) -> None:
    await gate.acquire()
    listed = False
    async with aclosing(mirror(etcd, keys.desired_of(node), prefix=False)) as items:
        async for item in items:
            at = time.perf_counter()
            if not listed:
                listed = True
                gate.release()
            found = item.kvs if isinstance(item, Listing) else item.events
            if found and found[-1].value is not None:
                desired = decode(Desired, found[-1].value, node)
                _print_seen(node, desired.generation, at)
                await _report(etcd, keys, node, desired)
                _print_line({"node": node, "reported": desired.generation})
            elif isinstance(item, Listing):
                _print_seen(node, 0, at)


async def _report(etcd: Etcd, keys: Keys, node: str, desired: Desired) -> None:
    status = Status(
        node=node, nonce="bench", host="bench", epoch=desired.epoch, term=desired.term,
        observed_generation=desired.generation, phase="ready", driver=desired.spec.driver, time=time.time(),
    )  # fmt: skip
    await etcd.put(keys.status_of(node), status.encode(), timeout_s=30.0)


def _print_seen(node: str, generation: int, at: float) -> None:
    _print_line({"node": node, "generation": generation, "at": at})


def _print_line(what: Json) -> None:
    sys.stdout.buffer.write(dumps(what) + b"\n")
    sys.stdout.buffer.flush()


async def _main(endpoints: str, cluster: str, nodes: list[str]) -> None:
    async with Etcd(EtcdSettings(endpoints=tuple(endpoints.split(",")))) as etcd, asyncio.TaskGroup() as tasks:
        gate = asyncio.Semaphore(_LISTING_AT_ONCE)
        for node in nodes:
            tasks.create_task(_node(etcd, Keys(cluster), node, gate))


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], sys.argv[2], sys.argv[3:]))
