"""Leases: the keys attached to them, when they expire, and how their holder learns of it."""

from __future__ import annotations

import asyncio

import pytest

from nodestore.errors import LeaseLost, NodectlError
from nodestore.etcd.lease import Lease
from nodestore.etcd.pb import etcd_pb2 as pb
from nodestore.etcd.session import cmp_mod, op_put
from nodestore.schema.keys import Keys
from tests.conformance.stores import TTL_MIN_S, StoreUnderTest
from tests.faults.network.proxy import Mode
from tests.support.sessions import LIVES_S, keep_lease_alive
from tests.support.waiting import eventually


async def test_a_revoked_lease_takes_its_keys_along(store: StoreUnderTest, keys: Keys) -> None:
    """Revoking a lease deletes the keys attached to it now in one revision, and not those put without it since."""
    async with store.session() as etcd:
        old, _ = await etcd.grant(60)
        new, _ = await etcd.grant(60)
        for name in ("mine", "moved", "freed", "again"):
            await etcd.put(keys.state + name, b"x", lease=old)
        await etcd.put(keys.state + "moved", b"x", lease=new)
        await etcd.put(keys.state + "freed", b"x")
        await etcd.delete(keys.state + "again")
        await etcd.put(keys.state + "again", b"x")
        before = await etcd.put(keys.state + "other", b"x", lease=new)
        assert (await etcd.lease_keys(old))[1] == (keys.state + "mine",)
        assert set((await etcd.lease_keys(new))[1]) == {keys.state + "moved", keys.state + "other"}
        await etcd.revoke(old)
        result = await etcd.range(keys.state)
        assert result.revision == before + 1
        assert [(kv.key.removeprefix(keys.state), kv.lease) for kv in result.kvs] == [
            ("again", 0), ("freed", 0), ("moved", new), ("other", new),
        ]  # fmt: skip
        await etcd.revoke(new)
        assert len((await etcd.range(keys.state)).kvs) == 2


async def test_a_put_over_a_living_key_moves_it_to_the_new_lease(store: StoreUnderTest, keys: Keys) -> None:
    """After a key was put with a new lease, the end of the old lease deletes nothing and the old compare fails."""
    async with store.session() as etcd:
        old, _ = await etcd.grant(2)
        new, _ = await etcd.grant(60)
        first = await etcd.put(keys.leader, b"old", lease=old)
        moved = await etcd.txn([cmp_mod(keys.leader, first)], [op_put(keys.leader, b"new", lease=new)])
        assert moved.succeeded
        assert not (await etcd.txn([cmp_mod(keys.leader, first)], [op_put(keys.head, b"x")])).succeeded

        async def expired() -> bool:
            return (await etcd.lease_keys(old))[0] == -1

        await eventually(expired, "the old lease expires")
        result = await etcd.get(keys.leader)
        assert result is not None
        assert (result.value, result.lease, result.mod_revision) == (b"new", new, moved.revision)
        await etcd.revoke(new)


async def test_what_nobody_keeps_expires(store: StoreUnderTest, keys: Keys) -> None:
    """A lease without keepalives expires first by our clock and then in etcd; keys without a lease stay."""
    async with store.session() as etcd:
        lease = await Lease.grant(etcd, 2)
        await etcd.put(keys.leader, b"me", lease=lease.id)
        await etcd.put(keys.head, b"stays")

        async def gone() -> bool:
            return await etcd.get(keys.leader) is None

        await eventually(gone)
        assert lease.left_s <= 0
        assert await etcd.get(keys.head) is not None
        assert await etcd.lease_keys(lease.id) == (-1, ())
        await etcd.revoke(lease.id)  # revoking an expired lease is not an error


async def test_what_is_kept_stays(store: StoreUnderTest, keys: Keys) -> None:
    """A lease with keepalives outlives its TTL, and its keys are deleted at once when it is revoked."""
    async with store.session() as etcd:
        lease = await Lease.grant(etcd, LIVES_S)
        await etcd.put(keys.leader, b"me", lease=lease.id)
        async with keep_lease_alive(lease) as task:
            done, _ = await asyncio.wait((task,), timeout=1.5 * lease.ttl_s)
            assert not done
            assert lease.left_s > 0
            assert await etcd.get(keys.leader) is not None
        await lease.revoke()
        assert await etcd.get(keys.leader) is None


async def test_a_lease_revoked_by_others_is_lost_at_the_next_beat(store: StoreUnderTest) -> None:
    """If a lease was revoked by another client, the next keepalive raises LeaseLost before the TTL is over."""
    async with store.session() as etcd:
        lease = await Lease.grant(etcd, LIVES_S)
        async with keep_lease_alive(lease) as task:
            await etcd.revoke(lease.id)
            with pytest.raises(LeaseLost, match="expired"):
                await task
            assert lease.left_s > 0


async def test_a_lease_is_lost_when_nobody_answers(store: StoreUnderTest) -> None:
    """Without answers a lease is lost at its TTL, counted from when the last successful keepalive was sent."""
    async with store.link() as link:
        lease = await Lease.grant(link.etcd, TTL_MIN_S)
        async with keep_lease_alive(lease) as task:
            link.set(up=Mode.HOLD, down=Mode.HOLD)
            with pytest.raises(LeaseLost, match="no keepalive was answered"):
                await task
            assert lease.left_s <= 0


async def test_a_lease_goes_on_after_a_broken_stream(store: StoreUnderTest, keys: Keys) -> None:
    """After the stream has broken, the next stream keeps the same lease alive."""
    async with store.link() as link, store.session() as witness:
        lease = await Lease.grant(link.etcd, LIVES_S)
        await witness.put(keys.leader, b"me", lease=lease.id)
        async with keep_lease_alive(lease) as task:
            before = lease.left_s
            await link.cut()
            await link.listen()
            await asyncio.wait((task,), timeout=1.5)
            assert not task.done()
            assert lease.left_s > before - 1.5
            assert await witness.get(keys.leader) is not None
        await lease.revoke()


async def test_times_to_live(store: StoreUnderTest) -> None:
    """A lease has the TTL that was asked for or the minimum, its id is unique, and -1 means that it expired."""
    async with store.session() as etcd:
        assert (await etcd.grant(0))[1] == TTL_MIN_S
        lease, ttl_s = await etcd.grant(60)
        assert ttl_s == 60
        assert 55 <= (await etcd.lease_keys(lease))[0] <= 60
        with pytest.raises(NodectlError, match="lease already exists"):
            await etcd.call("Lease/LeaseGrant", pb.LeaseGrantRequest(TTL=60, ID=lease))
        with pytest.raises(NodectlError, match="too large lease TTL"):
            await etcd.grant(9_000_000_001)
        await etcd.revoke(lease)
        assert await etcd.lease_keys(lease) == (-1, ())
