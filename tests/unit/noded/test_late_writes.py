"""A noded's writes when another noded has written just before they arrive."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from noded.registration.claim import NodeClaim, NodedIdentity
from noded.registration.status_reporter import StatusReporter
from nodestore.schema.models import Alive, Status
from tests.support.fakes.first_term import KEYS, first_term
from tests.support.waiting import eventually

ALIVE, STATUS = KEYS.alive_of("n1"), KEYS.status_of("n1")
OTHER = Alive(host_id="another", nonce="theirs", host="pc2", pid=1, since=0.0).encode()


async def test_of_two_nodeds_that_claim_at_once_one_wins() -> None:
    """Both have read that the node is free. The claim that lands first stays, and the other noded waits."""
    async with first_term() as term:
        lease, _ = await term.etcd.grant(60)
        claim = NodeClaim(term.etcd, ALIVE, NodedIdentity("n1", "host", "ours"), 60, lambda: None)
        term.at(ALIVE, lambda: term.put(ALIVE, OTHER, lease))
        running = asyncio.create_task(claim.maintain_claim())
        await eventually(lambda: claim.other_holder is not None or claim.was_held, "the noded has decided")
        running.cancel()
        await asyncio.wait((running,))
        assert (term.value(ALIVE), claim.was_held) == (OTHER, False)


async def test_a_noded_whose_claim_was_replaced_reports_nothing() -> None:
    """Its status would hide that of the noded that drives the node now."""
    async with first_term() as term:
        term.put(ALIVE)
        claim: Any = SimpleNamespace(claim_revision=term.server.store.revision)
        reporter = StatusReporter(term.etcd, STATUS, ALIVE, cast(NodeClaim, claim))
        term.at(STATUS, lambda: term.put(ALIVE, OTHER))
        reporter.report(Status(node="n1", nonce="ours", host="pc1", phase="ready"))
        await reporter.flush()
        assert term.value(STATUS) is None
