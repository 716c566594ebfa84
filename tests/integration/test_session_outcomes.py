"""Lost replies and late copies: what may have happened is told apart from what has not, and nothing lands twice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from nodestore.errors import OutcomeUnknown, Unavailable
from nodestore.etcd import Etcd, EtcdSettings, cmp_create, cmp_mod, op_get, op_put
from nodestore.keys import Keys
from tests.etcd_cluster import EtcdCluster
from tests.faults.proxy import Mode, Proxy
from tests.sessions import error_of, version
from tests.waiting import eventually


def session(*endpoints: str, call_timeout_s: float = 1.0, attempt_timeout_s: float = 0.3) -> Etcd:
    return Etcd(EtcdSettings(endpoints, call_timeout_s=call_timeout_s, attempt_timeout_s=attempt_timeout_s))


async def test_a_put_whose_reply_is_lost_is_unknown_and_not_repeated(etcd_one: EtcdCluster, keys: Keys) -> None:
    """It has landed, once; the session neither claims success nor tries again at the endpoint that would answer."""
    direct = etcd_one.endpoints[0]
    async with Proxy(direct) as proxy, session(direct) as witness, session(proxy.address, direct) as etcd:
        await etcd.get(keys.head)  # connected
        proxy.set(down=Mode.DROP)
        with pytest.raises(OutcomeUnknown):
            await etcd.put(keys.head, b"x")
        assert await version(witness, keys.head) == 1
        await etcd.put(keys.head, b"y")  # by the other endpoint, at once
        assert await version(witness, keys.head) == 2


@pytest.mark.parametrize("operation", ["put", "delete", "txn"])
async def test_every_plain_write_may_be_unknown(etcd_one: EtcdCluster, keys: Keys, operation: str) -> None:
    """A reply that comes after the deadline is as good as none."""
    async with Proxy(etcd_one.endpoints[0]) as proxy, session(proxy.address, call_timeout_s=0.3) as etcd:
        await etcd.put(keys.head, b"x")
        proxy.set(down=Mode.HOLD)
        calls: dict[str, Callable[[], Awaitable[Any]]] = {
            "put": lambda: etcd.put(keys.head, b"y"),
            "delete": lambda: etcd.delete(keys.head),
            "txn": lambda: etcd.txn([cmp_create(keys.paused, 0)], [op_put(keys.head, b"y")]),
        }
        assert isinstance(await error_of(calls[operation]()), OutcomeUnknown)


async def test_a_cut_in_the_middle_of_a_put_is_unknown(etcd_one: EtcdCluster, keys: Keys) -> None:
    """A connection that breaks says nothing about what was under way on it."""
    async with Proxy(etcd_one.endpoints[0]) as proxy, session(proxy.address) as etcd:
        await etcd.get(keys.head)
        proxy.set(down=Mode.HOLD)
        task = asyncio.create_task(error_of(etcd.put(keys.head, b"x")))
        await proxy.wait_held(down_bytes=1)
        await proxy.cut()
        assert isinstance(await task, OutcomeUnknown)

        async def surely_not_sent() -> bool:  # now nobody listens; the channel may need a moment to see it
            return isinstance(await error_of(etcd.put(keys.head, b"x")), Unavailable)

        await eventually(surely_not_sent, "nobody listens")


async def test_reads_are_never_unknown(etcd_one: EtcdCluster, keys: Keys) -> None:
    """A read, and a transaction that only reads, go on elsewhere; when nobody answers they are Unavailable."""
    direct = etcd_one.endpoints[0]
    async with Proxy(direct) as proxy, session(proxy.address, direct) as etcd:
        await etcd.get(keys.head)
        proxy.stall()
        assert await etcd.get(keys.head) is None
        assert etcd.endpoint == direct
    async with Proxy(direct) as proxy, session(proxy.address, call_timeout_s=0.3) as etcd:
        await etcd.get(keys.head)
        proxy.stall()
        with pytest.raises(Unavailable):
            await etcd.get(keys.head)
        with pytest.raises(Unavailable):
            await etcd.txn([cmp_mod(keys.head, 0)], [op_get(keys.head)], repeatable=True)
        with pytest.raises(Unavailable):
            await etcd.status(proxy.address, timeout_s=0.2)


async def test_a_call_to_one_member_may_be_unknown(etcd_one: EtcdCluster) -> None:
    """Moving the leader or defragmenting may have begun when nobody answers; when nobody listens it has not."""
    async with Proxy(etcd_one.endpoints[0]) as proxy, session(proxy.address) as etcd:
        await etcd.status(proxy.address)
        proxy.stall()
        with pytest.raises(OutcomeUnknown):
            await etcd.move_leader(proxy.address, 1, timeout_s=0.2)
    async with session(proxy.address) as etcd:
        with pytest.raises(Unavailable):
            await etcd.defragment(proxy.address)


async def test_a_guarded_txn_is_repeated_and_lands_once(etcd_one: EtcdCluster, keys: Keys) -> None:
    """The reply of the first copy is lost, the second copy's compares fail: once in the store, and the caller sees
    a transaction that did not succeed beside the value that it wrote."""
    direct = etcd_one.endpoints[0]
    async with Proxy(direct) as proxy, session(proxy.address, direct) as etcd:
        await etcd.get(keys.head)
        proxy.set(down=Mode.DROP)
        result = await etcd.txn(
            [cmp_mod(keys.head, 0)], [op_put(keys.head, b"nonce")], [op_get(keys.head)], repeatable=True
        )
        assert not result.succeeded
        found = result.range(0).first
        assert found is not None
        assert (found.value, found.version) == (b"nonce", 1)


async def test_a_guarded_txn_that_nobody_answers_is_unknown(etcd_one: EtcdCluster, keys: Keys) -> None:
    """Repeats do not turn "may have landed" into "has not"."""
    direct = etcd_one.endpoints[0]
    async with Proxy(direct) as proxy, session(direct) as witness, session(proxy.address) as etcd:
        await etcd.get(keys.head)
        proxy.set(down=Mode.DROP)
        with pytest.raises(OutcomeUnknown):
            await etcd.txn([cmp_mod(keys.head, 0)], [op_put(keys.head, b"x")], repeatable=True)
        assert await version(witness, keys.head) == 1


async def test_an_error_on_the_repeat_decides_nothing(etcd_one: EtcdCluster, keys: Keys) -> None:
    """The first copy landed unheard; that the second is refused for good must not read as "refused"."""
    direct = etcd_one.endpoints[0]
    async with Proxy(direct) as proxy, session(direct) as witness, session(proxy.address, direct) as etcd:
        lease, _ = await witness.grant(60)
        await etcd.get(keys.head)
        proxy.set(down=Mode.HOLD)
        task = asyncio.create_task(error_of(etcd.txn([], [op_put(keys.head, b"x", lease=lease)], repeatable=True)))
        await proxy.wait_held(down_bytes=1)
        await witness.revoke(lease)  # the second copy meets a lease that is gone
        assert isinstance(await task, OutcomeUnknown)


async def test_a_txn_held_back_lands_after_its_sender_has_given_up(etcd_one: EtcdCluster, keys: Keys) -> None:
    """OutcomeUnknown means "now or at any later time", even when the sender has closed its session."""
    direct = etcd_one.endpoints[0]
    async with Proxy(direct) as proxy, session(direct) as witness:
        async with session(proxy.address, call_timeout_s=0.3) as etcd:
            await etcd.get(keys.head)
            proxy.set(up=Mode.HOLD)
            with pytest.raises(OutcomeUnknown):
                await etcd.txn([cmp_mod(keys.head, 0)], [op_put(keys.head, b"late")])
        assert proxy.held_up_bytes > 0
        assert await version(witness, keys.head) == 0
        proxy.forward()
        await eventually(lambda: _is(witness, keys.head, b"late"))


async def test_a_late_copy_meets_its_compare(etcd_one: EtcdCluster, keys: Keys) -> None:
    """What makes a repeat harmless also makes a late copy harmless: the compare fails, and nothing changes."""
    direct = etcd_one.endpoints[0]
    async with (
        Proxy(direct) as proxy,
        session(direct) as witness,
        session(proxy.address, direct) as etcd,
    ):
        await etcd.get(keys.head)
        proxy.set(up=Mode.HOLD)
        guarded = [cmp_mod(keys.head, 0)], [op_put(keys.head, b"once")]
        assert (await etcd.txn(*guarded, repeatable=True)).succeeded  # its second copy, by the other endpoint
        before = await version(witness, keys.head)
        proxy.forward()
        await eventually(lambda: proxy.held_up_bytes == 0)
        marker = await witness.put(keys.paused, b"behind the late copy")
        found = await witness.get(keys.head, revision=marker)
        assert found is not None
        assert (before, found.version) == (1, 1)


async def _is(etcd: Etcd, key: str, value: bytes) -> bool:
    found = await etcd.get(key)
    return found is not None and found.value == value
