"""A late copy of a takeover whose record in `terms/` has been pruned can do no harm."""

from __future__ import annotations

from nodestore.cluster.election import LeaderSeen, TakeoverWon, ensure_epoch, new_leader_record, resign, takeover
from nodestore.etcd.lease import Lease
from nodestore.etcd.session import Etcd, op_put
from nodestore.schema.keys import Keys
from tests.support.fakes.clock import VirtualTime
from tests.support.fakes.etcd import SETTINGS, FakeEtcd

_KEYS = Keys("test")


def test_a_late_copy_after_the_record_was_pruned_begins_a_term_of_its_own() -> None:
    """The copy lands only if `leader` is absent again and the lease still lives. Its revision is new, so no fence of
    an earlier term holds, and the masterd that finds its own name in `leader` claims the term or takes over anew."""

    async def life() -> None:
        async with Etcd(SETTINGS, connect=FakeEtcd().connect) as etcd:
            epoch, lease = await ensure_epoch(etcd, _KEYS), await Lease.grant(etcd, 60)
            record = new_leader_record(master="m1", host="pc1", urls=(), nonce="n", cause="first", why="test")

            async def copy() -> TakeoverWon:
                won = await takeover(
                    etcd, _KEYS, me=record, lease=lease.id, seen=LeaderSeen(), epoch=epoch, next_index=1
                )
                assert isinstance(won, TakeoverWon), won
                return won

            first = await copy()
            assert await resign(etcd, _KEYS, first.fence, "test")
            await etcd.delete(_KEYS.term("n"))  # 500 later terms have pruned it
            second = await copy()
            assert second.fence.term > first.fence.term
            stale = await etcd.txn(first.fence.compares(_KEYS), [op_put(_KEYS.head, b"stale")])
            assert not stale.succeeded

    with VirtualTime() as time:
        time.run(life())
