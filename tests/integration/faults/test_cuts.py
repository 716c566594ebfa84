"""Every operation of several steps, cut by kill -9 before and after each of its transactions, carried on by another
process, and judged: nothing acknowledged is lost or doubled, and everything that was half done is finished.

`m1` leads first and stays; the victim `m2` takes over from it, works, and dies at the cut; `m1` carries on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import pytest

from nodestore.errors import NodectlError
from nodestore.schema.keys import Keys
from nodestore.schema.models import Inventory
from tests.support.etcd_cluster import EtcdCluster
from tests.support.masters import UNTIL_IT_DIES, Masterd, Masters
from tests.support.waiting import eventually

NODES = 20
ARGUMENTS = ("--max-txn-ops=16", "--snapshot-every=10", *UNTIL_IT_DIES)
_SETTLED_S = 20.0

Work = Callable[[Masters], Coroutine[Any, Any, None]]


@pytest.fixture(scope="module", autouse=True)
def _no_process_stays() -> Iterator[None]:
    yield
    Masterd.discard_warm()


def inventory(colour: str = "red") -> Inventory:
    return Inventory.model_validate(
        {
            "nodes": {f"n{number:02}": {} for number in range(NODES)},
            "defaults": {"driver": {"name": "process"}, "document": {"colour": colour}},
        }
    )


async def commands(masters: Masters, count: int = 3) -> None:
    for number in range(count):
        await masters.command("node.set", node=f"n{number:02}", values={"text": f"{number}"})


async def scene(masters: Masters) -> None:
    """One command that changes more views than fit into its commit."""
    await masters.command("scene.save", name="s", nodes={name: {"show": "scene"} for name in inventory().nodes})
    await masters.command("scene.apply", name="s")
    await commands(masters, 1)


async def snapshots(masters: Masters, count: int = 4) -> None:
    """Commands for several snapshots, each of several chunks, so that the oldest are superfluous."""
    for _ in range(count):
        await masters.commands(
            *(("node.set", {"node": f"n{number:02}", "values": {"text": "t" * 60}}) for number in range(11))
        )
        await masters.wait_for_snapshot(within=9)


async def restore(masters: Masters) -> None:
    """Back to an index of which there is no snapshot yet: its image is written first."""
    index = (await masters.command("node.set", node="n01", values={"text": "then"}))["index"]
    await commands(masters, 2)
    await masters.command("snapshot.restore", index=index)
    await commands(masters, 1)


async def another_configuration(masters: Masters) -> None:
    """Write a configuration as nodectl does; the leader adopts it."""
    await masters.configure(inventory("blue"), version=2)
    await commands(masters, 1)


async def configuration_by_http(masters: Masters) -> None:
    """Apply a configuration through the leader."""
    with contextlib.suppress(NodectlError):
        body = {"inventory": inventory("green").model_dump(mode="json"), "source": "", "actor": "test"}
        await masters.ask("m2", "PUT", "/v1/config", body)


async def pause(masters: Masters) -> None:
    with contextlib.suppress(NodectlError):
        await masters.ask("m2", "PUT", "/v1/paused", {"actor": "test", "reason": "work on the racks"})


async def resume(masters: Masters) -> None:
    await pause(masters)
    with contextlib.suppress(NodectlError):
        await masters.ask("m2", "DELETE", "/v1/paused")


async def stop(masters: Masters) -> None:
    """Stop the leader. It resigns, because no standby may take over while takeovers are paused."""
    await masters.wait_serving("m2")
    await masters.ask("m2", "PUT", "/v1/paused", {"actor": "test", "reason": "work on the racks"})

    async def known() -> bool:
        return bool(await masters.ask("m2", "GET", "/v1/paused"))

    await eventually(known, "m2 knows of the pause")
    masters.running["m2"].terminate()
    await eventually(lambda: masters.running["m2"].exit_code is not None, "m2 has ended", timeout_s=20.0)
    await masters.etcd.delete(masters.keys.paused)


async def nothing(_: Masters) -> None:
    """The takeover itself is the work."""


OPERATIONS: list[tuple[Work, list[str]]] = [
    (nothing, ["takeover:1:before", "takeover:1:after"]),
    (commands, ["commit:2:before", "commit:2:after"]),
    (scene, ["chunk:1:before", "chunk:1:after", "chunk:2:after", "chunk:4:before", "chunk:4:after"]),
    (restore, ["manifest:1:before", "manifest:1:after", "commit:4:before", "commit:4:after"]),
    (another_configuration, ["adopt:1:before", "adopt:1:after", "chunk:1:before", "chunk:1:after", "chunk:2:after"]),
    (
        snapshots,
        [
            "snapshot-chunk:1:before", "snapshot-chunk:1:after", "snapshot-chunk:2:after",
            "manifest:1:before", "manifest:1:after", "manifest:2:after",
            "truncate:1:before", "truncate:1:after",
            "snapshot-delete:1:before", "snapshot-delete:1:after",
        ],
    ),
    (configuration_by_http, ["config:1:before", "config:1:after"]),
    (pause, ["pause:1:before", "pause:1:after"]),
    (resume, ["resume:1:before", "resume:1:after"]),
    (stop, ["resign:1:before", "resign:1:after"]),
]  # fmt: skip

CASES = [
    pytest.param(work, cut, id=f"{work.__name__}-{cut.replace(':', '-')}") for work, cuts in OPERATIONS for cut in cuts
]


@contextlib.asynccontextmanager
async def pair(cluster: EtcdCluster, keys: Keys, cut: str | None) -> AsyncIterator[Masters]:
    """`m1` leads and has done something; `m2` stands by."""
    async with Masters(cluster, keys, arguments=ARGUMENTS, small=True) as masters:
        await masters.configure(inventory())
        masters.start("m1")
        await masters.wait_serving("m1")
        masters.start("m2", cut=cut)
        await masters.command("node.set", node="n00", values={"first": True})
        await masters.wait_candidate("m2")
        yield masters


@pytest.mark.parametrize(("work", "cut"), CASES)
async def test_cut(etcd_one: EtcdCluster, keys: Keys, work: Work, cut: str) -> None:
    """The victim dies exactly there, and all that is checked in `Masters.problems` holds in the end."""
    async with pair(etcd_one, keys, cut) as masters:
        await masters.switchover("m2")
        working = asyncio.create_task(work(masters))
        try:
            await masters.wait_killed("m2")
            if await masters.etcd.get(keys.paused) is not None:
                await masters.ask("m1", "DELETE", "/v1/paused")
            await masters.expire("m2")
            await working
            await masters.wait_serving("m1")
            await snapshots(masters, 2)
            await settled(masters)
        finally:
            working.cancel()
            await asyncio.wait([working])


async def settled(masters: Masters) -> None:
    """Until nothing is wrong any more; what is wrong otherwise."""
    wrong: list[str] = []

    async def right() -> bool:
        wrong[:] = await masters.problems()
        return not wrong

    try:
        await eventually(right, timeout_s=_SETTLED_S)
    except AssertionError:
        raise AssertionError("\n".join(["the store does not come right:", *wrong])) from None
