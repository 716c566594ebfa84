"""Carries out the placement: one hostd of a signer at a time holds `hosts-placement/placer` and changes the members.

docs/hosts.md says why a holder that lost its lease without noticing can do no harm. Times are of the monotonic clock of
the holder: a new holder begins them anew, so a change can only come later.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

from hostd.agent.link import listed_members, session_settings
from hostd.agent.plan import ListedMember
from hostd.pc.host_file import HostFile
from hostd.pc.layout import Layout
from hostd.placement.decide import AddLearner, Change, HostView, MemberView, Promote, placement
from hostd.placement.leaving import finish_leaving
from nodestore.errors import LeaseLost, NodectlError
from nodestore.etcd import maintenance, membership
from nodestore.etcd.lease import Lease
from nodestore.etcd.session import Etcd, cmp_mod, op_put
from nodestore.schema.keys import Keys
from nodestore.schema.models import HostActual, HostRecord, decode_or_none
from nodestore.support.tasks import run_until_first_ends

log = logging.getLogger(__name__)

_TTL_S = 15
_RETRY_S = 1.0
_STATUS_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementTiming:
    """settle_s: after a change, all members are healthy for so long before the next one. learner_s: a PC has so long
    to start its new member."""

    settle_s: float = 10.0
    learner_s: float = 600.0
    tick_s: float = 1.0


@dataclass(frozen=True, slots=True)
class PlacementView:
    """All that placement is decided from."""

    hosts: Mapping[str, HostRecord]
    actuals: Mapping[str, HostActual]
    members: Sequence[ListedMember]
    healthy: frozenset[int]


def host_views(view: PlacementView) -> list[HostView]:
    """The hosts as `placement` needs them. A PC that replaces another one, and one that joined earlier, come first."""
    return [
        HostView(
            name=name,
            peer_url=record.peer_url,
            eligible=record.kind == "host" and record.state != "leaving",
            shows=name in view.actuals,
            lost_member=_lost_member(view.actuals.get(name)),
            rank=(float("-inf") if record.replaces else record.time, name),
        )
        for name, record in view.hosts.items()
    ]


def _lost_member(actual: HostActual | None) -> int:
    """The id of the member whose data are lost; 0 if there is none. Each hostd writes its report: it is not trusted."""
    try:
        return int(actual.lost_member, 16) if actual is not None and actual.lost_member else 0
    except ValueError:
        return 0


def member_views(view: PlacementView) -> list[MemberView]:
    return [
        MemberView(item.id, item.peer_url, item.learner, bool(item.name), item.id in view.healthy)
        for item in view.members
    ]


class Settling:
    """Decides when the next change may come. `clock`: monotonic."""

    def __init__(self, timing: PlacementTiming, clock: Callable[[], float]) -> None:
        self._timing, self._clock = timing, clock
        self._members: frozenset[tuple[int, bool]] | None = None
        self._quiet_since = clock()
        self._learner_since: dict[int, float] = {}
        self._late: set[str] = set()

    def observe(self, members: Sequence[MemberView]) -> None:
        """Note the members of this moment."""
        now, listed = self._clock(), frozenset((item.id, item.learner) for item in members)
        if listed != self._members or not all(item.healthy for item in members if not item.learner):
            self._members, self._quiet_since = listed, now
        waiting = [item.id for item in members if item.learner and not item.started]
        self._learner_since = {item: self._learner_since.get(item, now) for item in waiting}
        self._late |= {item.peer_url for item in members if item.id in self.overdue()}
        self._late -= {item.peer_url for item in members if item.started}

    def ordered(self, hosts: Sequence[HostView]) -> list[HostView]:
        """The hosts, of which those that did not start their last member in time come last. Otherwise the same PC would
        be next again and again, and no other PC would get a member."""
        return [
            replace(item, rank=(float("inf"), item.name)) if item.peer_url in self._late else item for item in hosts
        ]

    def overdue(self) -> set[int]:
        """The learners whose PC had enough time to start them."""
        now = self._clock()
        return {item for item, since in self._learner_since.items() if now - since > self._timing.learner_s}

    def may_make(self, change: Change, members: Sequence[MemberView]) -> bool:
        """Whether the change may come now. What makes the members healthier waits for nothing."""
        if isinstance(change, Promote):
            return True
        if not isinstance(change, AddLearner):
            found = next((item for item in members if item.id == change.member), None)
            if found is None or not found.healthy or found.learner:
                return True
        return self._clock() - self._quiet_since >= self._timing.settle_s or len(members) == 1


class Placer:
    """Runs on a signer. endpoints: returns the members of etcd that vote, as they are known now."""

    def __init__(
        self,
        layout: Layout,
        host: HostFile,
        endpoints: Callable[[], tuple[str, ...]],
        timing: PlacementTiming,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._layout, self._host, self._endpoints, self._timing, self._clock = layout, host, endpoints, timing, clock
        self._keys = Keys(host.cluster)
        self._last = ""

    async def run(self) -> NoReturn:
        while True:
            try:
                settings = session_settings(self._layout, self._host, self._endpoints(), "maintenance")
                async with Etcd(settings) as etcd:
                    await self._compete(etcd)
            except (NodectlError, LeaseLost) as error:
                self._note(f"placement waits: {error}")
            await asyncio.sleep(_RETRY_S)

    async def _compete(self, etcd: Etcd) -> None:
        """Become the placer, and be it until the lease is lost or a call fails."""
        lease = await Lease.grant(etcd, _TTL_S)
        try:
            await run_until_first_ends(keep=lease.keep_alive(), place=self._hold(etcd, lease))
        finally:
            await lease.revoke()

    async def _hold(self, etcd: Etcd, lease: Lease) -> NoReturn:
        key, value = self._keys.host_placer, self._host.host.encode()
        while not (await etcd.txn([cmp_mod(key, 0)], [op_put(key, value, lease=lease.id)])).succeeded:
            await asyncio.sleep(self._timing.tick_s)
        log.info("this hostd places the members of etcd")
        settling = Settling(self._timing, self._clock)
        while True:
            await self._step(etcd, lease, settling)
            await asyncio.sleep(self._timing.tick_s)

    async def _step(self, etcd: Etcd, lease: Lease, settling: Settling) -> None:
        view = await self._read(etcd)
        members = member_views(view)
        await finish_leaving(self._layout, etcd, self._keys, view.hosts, view.members)
        settling.observe(members)
        hosts = settling.ordered(host_views(view))
        change = placement(hosts, members, self._host.members_wanted, settling.overdue())
        if change is None or not settling.may_make(change, members) or lease.left_s < membership.CALL_S + 1:
            return
        try:
            await self._make(etcd, change)
        except membership.NotYet as error:
            self._note(f"{change}: not yet ({error})")
        else:
            self._note(f"members: {change}")

    async def _make(self, etcd: Etcd, change: Change) -> None:
        if isinstance(change, AddLearner):
            await membership.add_learner(etcd, change.peer_url)
        elif isinstance(change, Promote):
            await membership.promote(etcd, change.member)
        else:
            await membership.remove(etcd, change.member)

    async def _read(self, etcd: Etcd) -> PlacementView:
        hosts = {
            kv.key.removeprefix(self._keys.hosts): decode_or_none(HostRecord, kv)
            for kv in (await etcd.range(self._keys.hosts)).kvs
        }
        actuals = {
            kv.key.removeprefix(self._keys.hosts_actual): decode_or_none(HostActual, kv)
            for kv in (await etcd.range(self._keys.hosts_actual)).kvs
        }
        members = await listed_members(etcd)
        return PlacementView(
            {name: record for name, record in hosts.items() if record is not None},
            {name: actual for name, actual in actuals.items() if actual is not None},
            members,
            await self._healthy(members),
        )

    async def _healthy(self, members: Sequence[ListedMember]) -> frozenset[int]:
        """The members that serve: a voter with a quorum, a learner at all."""
        started = [item for item in members if item.client_urls]
        if not started:
            return frozenset()
        endpoints = tuple(item.client_urls[0] for item in started)
        settings = replace(session_settings(self._layout, self._host, endpoints, "maintenance"), endpoints_file=None)
        async with Etcd(settings) as probe:
            answers = await asyncio.gather(*(self._serves(probe, item) for item in started))
        return frozenset(item.id for item, serves in zip(started, answers, strict=True) if serves)

    async def _serves(self, probe: Etcd, member: ListedMember) -> bool:
        try:
            if member.learner:
                status = await maintenance.status(probe, member.client_urls[0], timeout_s=_STATUS_S)
                return not status.errors
            await maintenance.check_serving(probe, member.client_urls[0], timeout_s=_STATUS_S)
        except NodectlError:
            return False
        return True

    def _note(self, text: str) -> None:
        if text != self._last:
            log.info("%s", text)
        self._last = text
