"""A node's parts wake one another: with a tick of an hour, each step below happens within a second of virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from noded.node import Node
from noded.reconcile.agent import AgentTiming
from noded.reconcile.last_applied import LastApplied
from noded.registration.claim import NodedIdentity, Superseded
from noded.settings import Settings
from nodestore.daemon.program import first_error
from nodestore.etcd.session import Etcd
from nodestore.schema.keys import Keys
from nodestore.schema.models import Acted, Action, Actions, Alive, Epoch, Status, Stored, decode_or_none
from nodestore.support.tasks import run_until_first_ends
from tests.support.fakes.clock import VirtualTime
from tests.support.fakes.etcd import SETTINGS, FakeEtcd
from tests.support.noded.agent_rig import FakeDriver, desired

KEYS = Keys("test")
ME = NodedIdentity("n1", "host-a", "nonce")
HOUR_S = 3_600.0
SOON_S = 1.0


class Running:
    """A node, the store that it works on, and its driver."""

    def __init__(self, work_dir: Path, etcd: Etcd, background: asyncio.TaskGroup) -> None:
        self.etcd = etcd
        self.driver = FakeDriver()
        settings = Settings(
            node="n1", cluster=KEYS.cluster, etcd=SETTINGS, work_dir=work_dir, host_id="host-a", lease_ttl_s=60,
            timing=AgentTiming(tick_s=HOUR_S, start_wait_s=HOUR_S), log_level="INFO",
        )  # fmt: skip
        self.node = Node(
            settings, ME, etcd, background,
            load=lambda name: lambda context: self.driver, last_applied=LastApplied(work_dir), boot_record="host-a:1",
        )  # fmt: skip

    async def put(self, key: str, value: Stored) -> None:
        await self.etcd.put(key, value.encode())

    async def status(self) -> Status | None:
        return decode_or_none(Status, await self.etcd.get(KEYS.status_of("n1")))

    async def is_ready(self, generation: int) -> bool:
        status = await self.status()
        return status is not None and (status.phase, status.observed_generation) == ("ready", generation)


async def soon(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """Wait for `condition`, for less than a tick of the node."""
    for _ in range(20):
        if await condition():
            return
        await asyncio.sleep(SOON_S / 20)
    raise AssertionError(f"not within {SOON_S} s: {what}")


def live(work_dir: Path, life: Callable[[Running], Awaitable[None]]) -> None:
    """Run a node in virtual time while `life` lasts; then shut it down. Raises what ended the node before."""

    async def run() -> None:
        async with Etcd(SETTINGS, connect=FakeEtcd().connect) as etcd, asyncio.TaskGroup() as background:
            running = Running(work_dir, etcd, background)
            try:
                await run_until_first_ends(life=_as_coroutine(life, running), **running.node.loops())
            finally:
                await running.node.shut_down("the test ends")
                assert running.driver.calls[-1:] in ([], ["stop"])

    with VirtualTime(0) as time:
        time.run(run())


async def _as_coroutine(life: Callable[[Running], Awaitable[None]], running: Running) -> None:
    await life(running)


def test_a_desired_state_wakes_the_agent_and_its_status_is_written(tmp_path: Path) -> None:
    """The claim and the first desired state too."""

    async def life(running: Running) -> None:
        for generation, scene in enumerate(("one", "two"), 1):
            await running.put(KEYS.desired_of("n1"), desired(scene, generation))
            await soon(lambda now=generation: running.is_ready(now), scene)  # type: ignore[misc]
        assert running.driver.calls == ["apply one", "apply two"]

    live(tmp_path, life)


def test_an_action_starts_when_the_agent_has_reconciled(tmp_path: Path) -> None:
    """It is requested while an apply is running, and then waits for its end."""

    async def life(running: Running) -> None:
        running.driver.hold = asyncio.Event()
        await running.put(KEYS.epoch, Epoch(epoch=1))
        await running.put(KEYS.desired_of("n1"), desired("one"))
        await soon(lambda: _value(running.driver.calls == ["apply one"]), "the apply to begin")
        pending = (Action(index=1, name="restart"),)
        await running.put(KEYS.actions_of("n1"), Actions(epoch=1, term=1, pending=pending))
        await asyncio.sleep(SOON_S)  # time in which it must not start
        assert running.driver.calls == ["apply one"]
        running.driver.hold.set()

        async def is_done() -> bool:
            acted = decode_or_none(Acted, await running.etcd.get(KEYS.acted_of("n1")))
            return acted is not None and [result.state for result in acted.results] == ["done"]

        await soon(is_done, "the action")
        assert running.driver.calls == ["apply one", "stop", "apply one"]

    live(tmp_path, life)


def test_a_restored_store_gets_the_status_again(tmp_path: Path) -> None:
    """A claim that is deleted is put again, and with it the status that may be missing."""

    async def life(running: Running) -> None:
        await running.put(KEYS.desired_of("n1"), desired("one"))
        await soon(lambda: running.is_ready(1), "ready")
        await running.etcd.delete(KEYS.status_of("n1"))
        await running.etcd.delete(KEYS.alive_of("n1"))
        await soon(lambda: running.is_ready(1), "the status")

    live(tmp_path, life)


def test_another_claim_ends_the_node(tmp_path: Path) -> None:
    """The error names the host that has the node now."""

    async def life(running: Running) -> None:
        await running.put(KEYS.desired_of("n1"), desired("one"))
        await soon(lambda: running.is_ready(1), "ready")
        await running.put(KEYS.alive_of("n1"), Alive(host_id="host-b", nonce="other", host="pc2", pid=7, since=0.0))
        await asyncio.sleep(HOUR_S)

    with pytest.raises(ExceptionGroup) as ended:
        live(tmp_path, life)
    error = first_error(ended.value)
    assert isinstance(error, Superseded)
    assert error.message == "another noded has taken over node n1: pc2 (host id host-b, pid 7)"


async def _value(value: bool) -> bool:
    return value
