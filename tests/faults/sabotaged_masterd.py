"""masterd without one of its guarantees, to test that the demo detects it: `sabotaged_masterd.py WHAT ARG...`.

WHAT is `deduplication` (a repeated id counts as new) or `fence`: the leader's writes have no compares. The leader then
also ignores what would end its term (a newer leader, a lost lease or candidacy), so that it certainly writes before one
of those stops it. Run through NODECTL_DEV_MASTERD; for tests only. It replaces private methods on purpose: a guarantee
has no switch.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from masterd import __main__
from masterd.roles import candidacy
from masterd.state_machine import batch
from masterd.term import journal, leader
from nodestore.cluster import election
from nodestore.errors import NodectlError
from nodestore.etcd import lease
from nodestore.etcd.session import op_put


def take_out_deduplication() -> None:
    batch.Batch._earlier_outcome = lambda self, request: None  # type: ignore[method-assign]


def take_out_fence() -> None:
    election.Fence.compares = lambda self, keys: []  # type: ignore[method-assign]
    leader.Leader._on_cluster_change = lambda self: self._wake.set()  # type: ignore[method-assign]

    async def send(self: journal.Journal, commit: journal.Commit, *, given_up: Any = None) -> Any:
        then = [op_put(self._keys.head, commit.head.encode()), *commit.ops]
        return await self._etcd.txn([], then, [], repeatable=True)

    async def keep(self: lease.Lease, *, patience_s: float = 0.0) -> None:
        """Renew the lease; ignore its loss."""
        while True:
            try:
                await type(self)._kept(self, patience_s=patience_s)  # type: ignore[attr-defined]
            except NodectlError:
                await asyncio.sleep(0.2)

    async def keep_fresh(self: candidacy.Candidacy, held: lease.Lease, revision: int) -> None:
        await asyncio.Event().wait()

    candidacy.Candidacy.keep_fresh = keep_fresh  # type: ignore[assignment, method-assign]
    journal.Journal._send = send  # type: ignore[method-assign]
    lease.Lease._kept = lease.Lease.keep_alive  # type: ignore[attr-defined]
    lease.Lease.keep_alive = keep  # type: ignore[assignment, method-assign]


SABOTAGE = {"deduplication": take_out_deduplication, "fence": take_out_fence}


if __name__ == "__main__":
    SABOTAGE[sys.argv.pop(1)]()
    sys.exit(__main__.main())
