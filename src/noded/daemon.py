"""Builds the parts of a noded, connects them and runs their tasks. Contains no decisions."""

from __future__ import annotations

import asyncio
import logging
import secrets
from contextlib import aclosing
from typing import NoReturn

from noded.actions import boot
from noded.actions.actor import Actor
from noded.actions.decide import Writer
from noded.actions.performer import Performer
from noded.drivers import contract
from noded.drivers.contract import Context
from noded.reconcile.agent import Agent
from noded.reconcile.orders import Orders
from noded.registration.claim import NodeClaim, NodedIdentity
from noded.registration.follow_key import follow_key
from noded.registration.status_reporter import StatusReporter
from noded.settings import Settings
from nodestore.daemon.program import first_error
from nodestore.daemon.signals import stop_event
from nodestore.etcd.session import Etcd
from nodestore.schema.keys import Keys

log = logging.getLogger(__name__)


class _StopRequested(Exception):
    """The process received a stop signal."""


async def run(settings: Settings) -> None:
    """Drive the node until a stop signal. Any error stops the driver first and is then raised."""
    stop = stop_event()
    keys = Keys(settings.cluster)
    me = NodedIdentity(settings.node, settings.host_id, secrets.token_hex(8))
    log.info("starts; cluster %s, host id %s, work directory %s", settings.cluster, me.host_id, settings.work_dir)
    async with Etcd(settings.etcd) as etcd, asyncio.TaskGroup() as background:
        wiring = _Wiring(settings, keys, me, etcd, background)
        try:
            async with asyncio.TaskGroup() as eternal:
                eternal.create_task(wiring.claim.maintain_claim())
                eternal.create_task(wiring.follow_desired())
                eternal.create_task(wiring.reporter.write_statuses())
                eternal.create_task(wiring.agent.reconcile_forever())
                eternal.create_task(wiring.actor.follow_view())
                eternal.create_task(wiring.actor.perform_actions())
                eternal.create_task(_raise_at_stop(stop))
        except* _StopRequested:
            await wiring.shut_down("noded was asked to stop")
        except* Exception as reasons:
            await wiring.shut_down(f"noded ends: {first_error(reasons)}")
            raise


class _Wiring:
    """The parts of one noded."""

    def __init__(
        self, settings: Settings, keys: Keys, me: NodedIdentity, etcd: Etcd, background: asyncio.TaskGroup
    ) -> None:
        self._etcd = etcd
        self._desired_key = keys.desired_of(me.node)
        alive_key = keys.alive_of(me.node)
        self.orders = Orders(self._desired_key)
        self.claim = NodeClaim(etcd, alive_key, me, settings.lease_ttl_s, self._on_claim_changed)
        self.reporter = StatusReporter(etcd, keys.status_of(me.node), alive_key, self.claim)
        context = Context(me.node, keys.cluster, settings.work_dir, me.nonce, self._wake, background)
        self.agent = Agent(context, self.orders, self.claim, self.reporter.report, contract.load, settings.timing)
        start = boot.boot_record(me.host_id)
        writer = Writer(me.node, me.nonce, start, lambda was: boot.has_rebooted(was, start))
        performer = Performer(self.agent, context, settings.reboot_command)
        self.actor = Actor(etcd, keys, writer, self.claim, performer)
        self.agent.on_reconciled = self.actor.wake

    def _wake(self) -> None:
        self.agent.wake()

    def _on_claim_changed(self) -> None:
        self.reporter.on_claim_changed()
        self.agent.wake()
        self.actor.wake()

    async def follow_desired(self) -> None:
        """Pass each value of `desired/<node>` to the orders and wake the agent."""
        async with aclosing(follow_key(self._etcd, self._desired_key)) as values:
            async for value in values:
                self.orders.observe(value)
                self.agent.wake()

    async def shut_down(self, reason: str) -> None:
        """Stop the driver, write the last status and release the claim."""
        await self.actor.flush()
        await self.agent.shut_down(reason)
        await self.reporter.flush()
        await self.claim.release_claim()


async def _raise_at_stop(stop: asyncio.Event) -> NoReturn:
    await stop.wait()
    raise _StopRequested
