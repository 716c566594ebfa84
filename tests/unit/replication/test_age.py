"""The age of a replica's state, which local reads report."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from masterd.replication.replica import Replica
from nodestore.etcd.session import Etcd
from nodestore.schema.entry_codec import encode_entry, encode_record
from nodestore.schema.keys import Keys
from nodestore.schema.models import Epoch, Head
from nodestore.schema.records import RecordStruct
from tests.support.fakes.clock import VirtualTime
from tests.support.fakes.etcd import SETTINGS, FakeEtcd

_KEYS = Keys("test")


async def _commit(etcd: Etcd, index: int) -> None:
    record = RecordStruct(index=index, id=f"c{index}", actor="a", time=1.0, name="x", args={}, result=None)
    await etcd.put(_KEYS.entry(index), encode_entry(1, 7, f"n{index}", [encode_record(record)]))
    await etcd.put(_KEYS.head, Head(index=index, nonce=f"n{index}").encode())


def test_a_member_that_lags_does_not_make_the_state_look_current() -> None:
    """It reports progress in time. Only the leader's heartbeats show that there is a later index."""

    async def life() -> None:
        async with Etcd(SETTINGS, connect=FakeEtcd().connect) as etcd:
            await etcd.put(_KEYS.epoch, Epoch(epoch=1).encode())
            await _commit(etcd, 1)
            replica = Replica(etcd, _KEYS)
            following = asyncio.create_task(replica.follow())
            await asyncio.sleep(10.0)
            replica.note_leader_index(7, 1)
            await asyncio.sleep(10.0)
            assert replica.age_s < 2.0
            replica.note_leader_index(7, 2)  # the member has not shown index 2 yet
            await asyncio.sleep(10.0)
            assert replica.age_s > 9.0
            replica.note_leader_index(6, 1)  # a late heartbeat of an earlier term
            await asyncio.sleep(10.0)
            assert replica.age_s > 19.0
            await _commit(etcd, 2)
            await asyncio.sleep(3.0)
            assert replica.age_s < 2.0
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following

    with VirtualTime() as time:
        time.run(life())
