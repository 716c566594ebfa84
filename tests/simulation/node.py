"""A noded of a simulated cluster: all of its parts, its own link to the store, and a driver that does nothing.

The orders that it obeys are recorded at the driver. The statuses that it reports are in the store's history.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noded import node
from noded.drivers.contract import Actual, DriverFactory
from noded.reconcile.agent import AgentTiming
from noded.registration.claim import NodedIdentity
from noded.settings import Settings
from nodestore.errors import Compacted
from nodestore.etcd import maintenance
from nodestore.etcd.pb import etcd_pb2 as pb
from nodestore.etcd.session import Etcd, EtcdSettings
from nodestore.schema.models import Desired, Spec
from nodestore.support.tasks import run_until_first_ends
from tests.support.fakes.etcd import MEMBERS
from tests.support.fakes.link import FINE, Fate, Link

if TYPE_CHECKING:
    from tests.simulation.world import World

_LATENCY_S = 0.0005
_TTL_S = 2


class NotingDriver:
    """Applies every spec at once, without effect. begun: called when it begins."""

    settle_s = 0.0

    def __init__(self, begun: Callable[[], None]) -> None:
        self._begun = begun

    async def inspect(self) -> Actual:
        return Actual()

    async def apply(self, spec: Spec, previous: Spec | None) -> None:
        self._begun()

    async def stop(self) -> None:
        return None


class _NoDisk:
    """Keeps no desired state: these nodeds never start while etcd is away."""

    def load(self) -> Desired | None:
        return None

    def save(self, desired: Desired | None) -> None:
        return None


class Node:
    """One noded process. Starts at once."""

    def __init__(self, world: World, name: str, host: str | None = None) -> None:
        """host: the id of its host; None: the name of the node."""
        self._host = host or name
        self._world, self.name, self._desired = world, name, world.keys.desired_of(name)
        self.link = Link(world.server, latency_s=_LATENCY_S)
        self.link.fates = self._fate
        self._as_of = 0
        world.starts_of_nodes += 1
        self._nonce = f"{name}-{world.starts_of_nodes}"
        self._life = asyncio.get_running_loop().create_task(self._live(), name=f"noded {name}")

    async def _live(self) -> None:
        to_etcd = EtcdSettings(endpoints=MEMBERS, call_timeout_s=0.8, attempt_timeout_s=0.25)
        settings = Settings(
            node=self.name, cluster=self._world.keys.cluster, etcd=to_etcd, work_dir=Path("/nowhere"),
            host_id=self._host, lease_ttl_s=_TTL_S, timing=AgentTiming(), log_level="INFO",
        )  # fmt: skip
        me = NodedIdentity(self.name, self._host, self._nonce)
        async with Etcd(to_etcd, connect=self.link.connect) as etcd, asyncio.TaskGroup() as background:
            parts = node.Node(
                settings, me, etcd, background, load=self._load, last_applied=_NoDisk(), boot_record=self.name
            )
            self.orders = parts.orders
            loops = parts.loops()
            loops.pop("log").close()  # it connects to masters over the network, and no master of a simulation has one
            await run_until_first_ends(**loops)

    def _load(self, name: str) -> DriverFactory:
        return lambda context: NotingDriver(self._begun)

    def _begun(self) -> None:
        desired = self.orders.desired
        if desired is not None:
            epoch, term, generation = desired.order
            self._world.record_event(f"{self.name}'s driver", "obeyed", epoch=epoch, term=term, generation=generation)

    # --- faults ---

    def _fate(self, method: str, request: Any) -> Fate:
        if self._as_of and method == "KV/Range" and request.key == self._desired.encode():
            as_of, self._as_of = self._as_of, 0
            return Fate(as_of=as_of)
        return FINE

    def orders_written(self) -> list[int]:
        """The revisions of all puts of its desired state, oldest first."""
        key = self._desired.encode()
        return [
            revision
            for revision, events in self._world.server.store.log
            for event in events
            if event.kv.key == key and event.type == pb.Event.PUT
        ]

    async def lag_behind(self, versions_back: int, busy: Callable[[], Any]) -> None:
        """Cut the noded off, run `busy`, compact etcd, and reconnect the noded to a member that lags behind.

        The member returns the desired state that is `versions_back` versions older than the one before the cut. If the
        noded has obeyed no order since its start, the member does not lag: a new noded relies on a linearizable read.
        """
        self.link.cut()
        written = self.orders_written()
        await busy()
        if len(written) > versions_back and self.orders.desired is not None:
            self._as_of = written[-1 - versions_back]
        with suppress(Compacted):  # already
            await maintenance.compact(self._world.witness, self._world.server.store.revision)
        self.link.listen()

    async def end(self) -> None:
        """Kill the process."""
        self._life.cancel()
        self.link.down = True
        await asyncio.wait((self._life,))
        if not self._life.cancelled() and (error := self._life.exception()) is not None:
            self._world.program_errors.append(f"noded {self.name} ended unexpectedly: {error!r}")
