"""Deletions of snapshots that arrive late. Also run with a rule of the leader disabled."""

from __future__ import annotations

import pytest

from masterd.replication.replica import Replica
from masterd.replication.snapshots import Snapshots
from masterd.state_machine.batch import SNAPSHOT_RESTORE, CommandRequest
from nodestore.errors import OutcomeUnknown
from nodestore.schema.keys import Keys
from tests.faults.late.transactions import run_leader, stage
from tests.support.etcd_cluster import EtcdCluster
from tests.support.toy_app import same


def restore_request(name: str) -> CommandRequest:
    return CommandRequest(f"restore-{name}", SNAPSHOT_RESTORE, {"snapshot": name}, "t", 0)


async def deletion_that_lands_after_the_restore(cluster: EtcdCluster, keys: Keys) -> None:
    """The late deletion of a snapshot that an entry has restored since has no effect, and a new replica can replay it.

    The deletion was sent in the same term, and its sender has given up.
    """
    async with stage(cluster, keys, repeats_arrive=False) as s, run_leader(s.witness, s.witness, keys) as seat:
        await seat.add("x1")
        await seat.leader.archive.save("good")
        await seat.add("x2")
        name, _ = await seat.replica.snapshots.find("good")
        s.late.hold_next()
        with pytest.raises(OutcomeUnknown):
            await Snapshots(s.late, keys).delete(seat.won.fence, name, lambda _: False)
        outcome = (await seat.submit(restore_request("good")))[0]
        assert outcome.error is None
        await s.deliver()
        fresh = Replica(s.witness, keys)
        await fresh.catch_up()
        assert same(fresh.state, seat.replica.state)
        assert fresh.state.documents["sum"].value == {"sum": 1}
        assert (await seat.add("x3")).result == 2
