"""Parts of a masterd whose state a test sets, without a store behind them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import cast

from aiohttp import web

from masterd.api.access.credentials import PeerIdentityOf, no_certificate
from masterd.api.admission import AdmissionLimits
from masterd.api.connections.guarded_server import GuardedRunner
from masterd.application.scenes import BuiltinApp
from masterd.assembly import MasterdParts, build_api, build_guard, build_parts
from masterd.election.campaign import MasterIdentity
from masterd.election.suspicion import LAN, ElectionTiming
from masterd.replication.cluster_view import ClusterView
from masterd.replication.replica import Replica
from masterd.settings import MasterSettings
from masterd.term.leader import Leader
from nodestore.cluster.election import Fence
from nodestore.errors import NodectlError, TimedOut
from nodestore.etcd.session import Etcd, EtcdSettings
from nodestore.etcd.watch import Event
from nodestore.schema.keys import Keys
from nodestore.schema.models import Paused, Term

M1 = MasterIdentity("m1", "m1", ("http://m1:1",), 0, "n1")
KEYS = Keys("c")


class SettableView(ClusterView):
    """A cluster view that shows the pause and the epoch that a test sets."""

    def __init__(self, etcd: Etcd) -> None:
        super().__init__(etcd, KEYS)
        self.shown_pause: Paused | None = None
        self.shown_epoch: int | None = 1
        self.is_access_control_shown = True

    @property
    def paused(self) -> Paused | None:
        return self.shown_pause

    def show_access_control(self, event: Event) -> None:
        """As if etcd's watch showed this change of `access/control`."""
        self._access_control.apply_event(event)

    @property
    def epoch(self) -> int | None:
        return self.shown_epoch

    @property
    def revision(self) -> int:
        return 1

    @property
    def is_access_control_known(self) -> bool:
        return self.is_access_control_shown


class SettableReplica(Replica):
    """A replica at an index and in an epoch that a test sets. No entry ever arrives."""

    def __init__(self, etcd: Etcd) -> None:
        super().__init__(etcd, KEYS)
        self.problem = None
        self.up_to_date_at = 1.0
        self.state.index = 7
        self.shown_epoch = 1
        self.wait_error: Exception = TimedOut("no entry arrives")

    @property
    def epoch(self) -> int | None:
        return self.shown_epoch

    async def wait_for(self, index: int, timeout_s: float) -> None:
        await asyncio.sleep(0.01)
        raise self.wait_error


class FakeLeader:
    """A leader role that serves in a term and commits nothing."""

    def __init__(self, revision: int = 10) -> None:
        self.fence = Fence(Term(1, revision), 1, "nonce")
        self.has_ended = False
        self.serving = asyncio.Event()
        self.confirmations = 0
        self.stuck_s = 0.0
        self.config_rejection: tuple[int, str] | None = None
        self.spec_failures: dict[str, str] = {}
        self.view_problem: str | None = None
        self.time_problem: str | None = None
        self.confirm_error: Exception | None = None
        self.overload: NodectlError | None = None

    @property
    def role(self) -> Leader:
        """This object, typed as `Leader`: the code under test uses only what is defined here."""
        return cast(Leader, self)

    async def verify_leader(self) -> None:
        self.confirmations += 1

    async def confirm_read(self, *, include_view: bool = False) -> None:
        if self.confirm_error is not None:
            raise self.confirm_error


def offline_parts(timing: ElectionTiming = LAN, etcd: Etcd | None = None) -> MasterdParts:
    """The parts of m1, with a session to an address at which nothing listens. Close `read_sources.etcd` afterwards.

    etcd: another session.
    """
    etcd = etcd or Etcd(EtcdSettings(endpoints=("127.0.0.1:1",)))
    return build_parts(etcd, KEYS, M1, BuiltinApp(), MasterSettings(timing=timing))


class FakeMasterd:
    """The parts of m1 with a settable cluster view and replica. It is a standby until `lead` is called.

    etcd: its session; by default one to an address at which nothing listens.
    """

    def __init__(self, *, timing: ElectionTiming = LAN, etcd: Etcd | None = None) -> None:
        parts = offline_parts(timing, etcd)
        etcd = parts.read_sources.etcd
        self.view, self.replica = SettableView(etcd), SettableReplica(etcd)
        self.sources = replace(parts.read_sources, cluster_view=self.view, replica=self.replica)
        self.parts: MasterdParts = replace(
            parts, cluster_view=self.view, replica=self.replica, read_sources=self.sources
        )
        self.leadership = parts.leadership
        self.replica_of_health = parts.replica
        """The replica whose problems `health` shows. It has read nothing."""

    def lead(self) -> FakeLeader:
        leader = FakeLeader()
        self.leadership.leader = leader.role
        return leader

    async def close(self) -> None:
        await self.sources.etcd.close()


@asynccontextmanager
async def serving(
    masterd: FakeMasterd, limits: AdmissionLimits | None = None, peer_identity: PeerIdentityOf = no_certificate
) -> AsyncIterator[str]:
    """The URL of this masterd's API, which is closed afterwards with its session.

    peer_identity: whom the client certificate of a request's connection names.
    """
    api = build_api(masterd.parts, limits, peer_identity=peer_identity)
    runner = GuardedRunner(api.app, build_guard(masterd.parts, api), shutdown_timeout=0.05)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{site.port}"
    finally:
        await runner.cleanup()
        await masterd.close()
