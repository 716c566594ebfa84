"""Runs noded's agent with a fake driver and without etcd."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

from noded.drivers.contract import Actual, Context, Driver, DriverError
from noded.reconcile.agent import Agent, AgentTiming
from noded.reconcile.last_applied import LastApplied
from noded.reconcile.orders import Orders
from noded.reconcile.planner import RetryDelays
from noded.registration.claim import NodeClaim, NodedIdentity
from nodestore.etcd.session import Etcd
from nodestore.schema.models import Desired, Spec, Status
from tests.support.waiting import first_true

TIMEOUT_S = 20.0
QUICK_RETRIES = RetryDelays(0.01, 0.05)


class FakeDriver:
    """Records the calls. trouble: the errors of the next calls. hold: an event that each apply waits for."""

    settle_s = 0.0

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.found: Actual = Actual({"on": True})
        self.trouble: list[BaseException] = []
        self.hold: asyncio.Event | None = None

    async def inspect(self) -> Actual:
        return self.found

    async def apply(self, spec: Spec, previous: Spec | None) -> None:
        self.calls.append(f"apply {spec.document.get('scene')}")
        if self.hold is not None:
            await self.hold.wait()
        if self.trouble:
            raise self.trouble.pop(0)

    async def stop(self) -> None:
        self.calls.append("stop")
        if self.trouble:
            raise self.trouble.pop(0)


class Rig:
    """An agent with a fake driver, and with orders and a claim that the test sets."""

    def __init__(self, work_dir: Path, tasks: asyncio.TaskGroup, start_wait_s: float, backoff: RetryDelays) -> None:
        self.driver = FakeDriver()
        self.orders = Orders("desired/n1")
        self.presence = NodeClaim(cast(Etcd, None), "alive/n1", NodedIdentity("n1", "host", "nonce"), 2, lambda: None)
        self.told: list[Status] = []
        self.reconciled: list[bytes | None] = []
        """The value of `desired/<node>` at each call of `on_reconciled`."""
        context = Context("n1", "test", work_dir, "nonce", lambda: None, tasks)
        timing = AgentTiming(tick_s=0.02, start_wait_s=start_wait_s, backoff=backoff)
        self.agent = Agent(
            context,
            self.orders,
            self.presence,
            self.told.append,
            self._load,
            timing,
            LastApplied(work_dir),
            lambda: self.reconciled.append(self.orders.raw),
        )

    def _load(self, name: str) -> Callable[[Context], Driver]:
        if name != "fake":
            raise DriverError(f"no driver named {name} is installed", retryable=False)
        return lambda context: self.driver

    def order(self, scene: str, generation: int = 1, driver: str = "fake") -> None:
        self.orders.observe(desired(scene, generation, driver).encode())
        self.agent.wake()

    async def until(self, look: Callable[[], object], what: str) -> None:
        await first_true(look, lambda: f"{what}: {self.driver.calls}, {self.told[-3:]}", timeout_s=TIMEOUT_S)

    async def ready(self, generation: int) -> Status:
        await self.until(
            lambda: self.told and self.told[-1].phase == "ready" and self.told[-1].observed_generation == generation,
            f"generation {generation} to be ready",
        )
        return self.told[-1]


def desired(scene: str, generation: int = 1, driver: str = "fake") -> Desired:
    return Desired(epoch=1, term=1, generation=generation, spec=Spec(driver=driver, document={"scene": scene}))


@asynccontextmanager
async def running(
    work_dir: Path, *, held: bool = True, start_wait_s: float = 600.0, backoff: RetryDelays = QUICK_RETRIES
) -> AsyncIterator[Rig]:
    async with asyncio.TaskGroup() as tasks:
        rig = Rig(work_dir, tasks, start_wait_s, backoff)
        rig.presence.was_held = held
        loop = tasks.create_task(rig.agent.reconcile_forever())
        try:
            yield rig
        finally:
            loop.cancel()
