"""Builds the parts of one noded and connects them. No other module connects parts, and this one decides nothing.

desired/<node> -> StoreGate -> Orders      wakes Agent
StoreIdentity                              StoreGate keeps what another store holds from Orders; Actor waits
NodeClaim <-> alive/<node>                 a change wakes StatusReporter, Agent and Actor
driver                                     its `Context.wake` wakes Agent
Agent -> StatusReporter -> status/<node>   `on_reconciled` of Agent wakes Actor
actions/<node> -> Actor -> acted/<node>    Performer runs the action and holds Agent's driver lock meanwhile
leader -> MasterLink -> the leader         LogReader reads the log of Agent's driver when the leader asks for it
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from typing import Any

from noded.actions import boot
from noded.actions.actor import Actor
from noded.actions.decide import Writer
from noded.actions.performer import Performer
from noded.drivers.contract import Context, DriverFactory
from noded.program_log.log_reader import LogReader
from noded.program_log.master_link import MasterLink
from noded.reconcile.agent import Agent
from noded.reconcile.last_applied import LastAppliedStore
from noded.reconcile.orders import Orders
from noded.reconcile.store_gate import StoreGate
from noded.registration.claim import NodeClaim, NodedIdentity
from noded.registration.follow_key import follow_key
from noded.registration.status_reporter import StatusReporter
from noded.registration.waiting_notice import WaitingNotice
from noded.settings import Settings
from nodestore.cluster.store_identity import MarkMemory, StoreIdentity
from nodestore.etcd.session import Etcd
from nodestore.schema.keys import Keys
from nodestore.schema.models import Status


class Node:
    """One noded. The caller runs the coroutines that `loops` returns, ends them, and then calls `shut_down`.

    me: identity of this process. load: returns the driver class with the given name. boot_record: see
    `noded.actions.boot.boot_record`. background: runs the background tasks of drivers. tls: see `MasterLink`.
    """

    def __init__(
        self,
        settings: Settings,
        me: NodedIdentity,
        etcd: Etcd,
        background: asyncio.TaskGroup,
        *,
        load: Callable[[str], DriverFactory],
        last_applied: LastAppliedStore,
        boot_record: str,
        store_memory: MarkMemory | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        keys = Keys(settings.cluster)
        alive_key = keys.alive_of(me.node)
        self._etcd = etcd
        self._desired_key = keys.desired_of(me.node)
        context = Context(me.node, keys.cluster, settings.work_dir, me.nonce, self._wake_agent, background)
        writer = Writer(me.node, me.nonce, boot_record, lambda before: boot.has_rebooted(before, boot_record))

        self.summary = ""
        """One line about the last status, for the service manager."""
        self._store = StoreIdentity(etcd, keys, store_memory)
        self.orders = Orders(self._desired_key)
        self._gate = StoreGate(etcd, self._desired_key, self._store, self.orders)
        self._claim = NodeClaim(
            etcd, alive_key, me, settings.lease_ttl_s, self._on_claim_changed,
            WaitingNotice(etcd, keys.waiting_of(me.node, me.nonce), me.host_id, me.nonce),
        )  # fmt: skip
        self._reporter = StatusReporter(
            etcd, keys.status_of(me.node), alive_key, self._claim, lambda: self._store.mark
        )  # fmt: skip
        self._agent = Agent(
            context,
            self.orders,
            self._claim,
            self._report,
            load,
            settings.timing,
            last_applied,
            lambda: self._actor.on_reconciled(),
        )
        performer = Performer(self._agent, context, settings.reboot_command)
        self._actor = Actor(
            etcd, keys, writer, self._claim, performer, is_blocked=lambda: self._store.problem is not None
        )  # fmt: skip
        self._master_link = MasterLink(
            me.node,
            me.nonce,
            leader_values=lambda: follow_key(etcd, keys.leader),
            claim=self._claim,
            reader=LogReader(lambda: self._agent.driver),
            tls=tls,
        )

    def loops(self) -> dict[str, Coroutine[Any, Any, Any]]:
        """Return the coroutines to run, by name. None of them returns. If one raises, the caller must end all."""
        return {
            "store": self._store.run(),
            "claim": self._claim.maintain_claim(),
            "desired": self._follow_desired(),
            "reporter": self._reporter.write_statuses(),
            "agent": self._agent.reconcile_forever(),
            "actions": self._actor.follow_view(),
            "actor": self._actor.perform_actions(),
            "log": self._master_link.run(),
        }

    async def shut_down(self, reason: str) -> None:
        """Stop the driver, write the last status and release the claim. The loops must have ended."""
        await self._actor.flush()
        await self._agent.shut_down(reason)
        await self._reporter.flush()
        await self._claim.release_claim()

    def _report(self, status: Status) -> None:
        """Report `status`, with a certificate that ends soon unless the agent itself warns of something."""
        self.summary = _summary(status)
        warning = status.warning or self._etcd.certificate_warning
        self._reporter.report(status.model_copy(update={"warning": warning}))

    # --- what wakes what ---

    async def _follow_desired(self) -> None:
        async with aclosing(follow_key(self._etcd, self._desired_key)) as values:
            async for value in values:
                await self._gate.pass_on(value)
                self._agent.wake()

    def _wake_agent(self) -> None:
        self._agent.wake()

    def _on_claim_changed(self) -> None:
        self._reporter.on_claim_changed()
        self._agent.wake()
        self._actor.wake()
        self._master_link.on_claim_changed()


def _summary(status: Status) -> str:
    parts = [f"{status.phase}, generation {status.observed_generation}", status.error or status.reason]
    return ": ".join(filter(None, parts))
