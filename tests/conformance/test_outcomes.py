"""Lost replies and late copies: an unknown outcome differs from a failure, and no write takes effect twice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from nodestore.errors import OutcomeUnknown, Unavailable
from nodestore.etcd import maintenance
from nodestore.etcd.session import Etcd, cmp_create, cmp_mod, op_get, op_put
from nodestore.schema.keys import Keys
from tests.conformance.stores import LATE_HEDGES_S, PATIENT_S, StoreUnderTest
from tests.faults.network.proxy import Mode
from tests.support.sessions import error_of, version
from tests.support.waiting import eventually


async def wait_until_landed(witness: Etcd, key: str) -> None:
    """Wait until the only write to `key` has taken effect: it may arrive after its sender has given up."""

    async def written() -> bool:
        return await version(witness, key) == 1

    await eventually(written, f"the write to {key} has landed")


async def test_a_put_whose_reply_is_lost_is_unknown_and_not_repeated(store: StoreUnderTest, keys: Keys) -> None:
    """A put whose reply is lost raises OutcomeUnknown, takes effect once, and is not sent again."""
    async with store.link(repeats_arrive=True) as link, store.session() as witness:
        link.set(down=Mode.DROP)
        with pytest.raises(OutcomeUnknown):
            await link.etcd.put(keys.head, b"x")
        await wait_until_landed(witness, keys.head)
        await link.etcd.put(keys.head, b"y", timeout_s=PATIENT_S)
        assert await version(witness, keys.head) == 2


@pytest.mark.parametrize("operation", ["put", "delete", "txn"])
async def test_every_plain_write_may_be_unknown(store: StoreUnderTest, keys: Keys, operation: str) -> None:
    """A write whose reply comes after the deadline raises OutcomeUnknown."""
    async with store.link() as link:
        await link.etcd.put(keys.head, b"x", timeout_s=PATIENT_S)
        link.set(down=Mode.HOLD)
        calls: dict[str, Callable[[], Awaitable[Any]]] = {
            "put": lambda: link.etcd.put(keys.head, b"y", timeout_s=0.3),
            "delete": lambda: link.etcd.delete(keys.head, timeout_s=0.3),
            "txn": lambda: link.etcd.txn([cmp_create(keys.paused, 0)], [op_put(keys.head, b"y")], timeout_s=0.3),
        }
        assert isinstance(await error_of(calls[operation]()), OutcomeUnknown)


async def test_a_cut_in_the_middle_of_a_put_is_unknown_and_one_before_it_is_not(
    store: StoreUnderTest, keys: Keys
) -> None:
    """A connection that breaks during a put makes it unknown; one that cannot be opened makes it Unavailable."""
    async with store.link(call_timeout_s=PATIENT_S) as link, store.session() as witness:
        link.set(down=Mode.HOLD)
        task = asyncio.create_task(error_of(link.etcd.put(keys.head, b"x")))
        await link.wait_held(down=True)
        await wait_until_landed(witness, keys.head)  # the held bytes may be a keepalive only
        await link.cut()
        assert isinstance(await task, OutcomeUnknown)

        async def surely_not_sent() -> bool:  # a channel may need a moment to notice that the port is closed
            return isinstance(await error_of(link.etcd.put(keys.paused, b"x", timeout_s=0.5)), Unavailable)

        await eventually(surely_not_sent)
        assert await version(witness, keys.paused) == 0


async def test_reads_go_on_elsewhere_and_are_never_unknown(store: StoreUnderTest, keys: Keys) -> None:
    """A read is repeated at another endpoint, and raises Unavailable if none answers."""
    async with store.link(repeats_arrive=True, call_timeout_s=3.0) as link:
        link.set(up=Mode.HOLD, down=Mode.HOLD)
        assert await link.etcd.get(keys.head) is None
        assert link.etcd.endpoint == link.etcd.settings.endpoints[1]
    async with store.link() as link:
        link.set(up=Mode.HOLD, down=Mode.HOLD)
        with pytest.raises(Unavailable):
            await link.etcd.get(keys.head, timeout_s=0.3)
        with pytest.raises(Unavailable):
            await link.etcd.txn([cmp_mod(keys.head, 0)], [op_get(keys.head)], repeatable=True, timeout_s=0.3)
        with pytest.raises(Unavailable):
            await maintenance.status(link.etcd, link.etcd.endpoint, timeout_s=0.2)


async def test_a_call_to_one_member_may_be_unknown(store: StoreUnderTest) -> None:
    """A call to one member raises OutcomeUnknown if it is not answered, and Unavailable if it cannot be sent."""
    async with store.link() as link:
        member = link.etcd.endpoint
        link.set(up=Mode.HOLD, down=Mode.HOLD)
        with pytest.raises(OutcomeUnknown):
            await maintenance.move_leader(link.etcd, member, 1, timeout_s=0.2)
        await link.cut()

        async def surely_not_sent() -> bool:  # a channel may need a moment to notice that the port is closed
            return isinstance(await error_of(maintenance.defragment(link.etcd, member, timeout_s=0.5)), Unavailable)

        await eventually(surely_not_sent)


async def test_a_guarded_txn_is_repeated_and_lands_once(store: StoreUnderTest, keys: Keys) -> None:
    """If the reply of the first copy is lost, the caller gets the failed second copy and the value of the first."""
    async with store.link(repeats_arrive=True, call_timeout_s=PATIENT_S, hedge_delays_s=LATE_HEDGES_S) as link:
        link.set(down=Mode.DROP)
        result = await link.etcd.txn(
            [cmp_mod(keys.head, 0)], [op_put(keys.head, b"nonce")], [op_get(keys.head)], repeatable=True
        )
        assert not result.succeeded
        kv = result.range(0).first
        assert kv is not None
        assert (kv.value, kv.version) == (b"nonce", 1)


async def test_a_guarded_txn_that_nobody_answers_is_unknown(store: StoreUnderTest, keys: Keys) -> None:
    """A guarded transaction that is never answered raises OutcomeUnknown, however often it is repeated."""
    async with store.link() as link, store.session() as witness:
        link.set(down=Mode.DROP)
        with pytest.raises(OutcomeUnknown):
            await link.etcd.txn([cmp_mod(keys.head, 0)], [op_put(keys.head, b"x")], repeatable=True)
        await wait_until_landed(witness, keys.head)


async def test_an_error_on_the_repeat_decides_nothing(store: StoreUnderTest, keys: Keys) -> None:
    """An error of the second copy raises OutcomeUnknown, as the first copy may have taken effect."""
    async with (
        store.link(repeats_arrive=True, call_timeout_s=PATIENT_S, hedge_delays_s=LATE_HEDGES_S) as link,
        store.session() as witness,
    ):
        lease, _ = await witness.grant(60)
        link.set(down=Mode.HOLD)
        put = [op_put(keys.head, b"x", lease=lease)]
        task = asyncio.create_task(error_of(link.etcd.txn([], put, repeatable=True)))
        await link.wait_held(down=True)
        await wait_until_landed(witness, keys.head)
        await witness.revoke(lease)  # the second copy fails, as its lease is revoked
        assert isinstance(await task, OutcomeUnknown)


async def test_a_txn_held_back_lands_after_its_sender_has_given_up(store: StoreUnderTest, keys: Keys) -> None:
    """A held transaction takes effect when it is delivered, even after its sender has closed the session."""
    async with store.link() as link, store.session() as witness:
        link.set(up=Mode.HOLD)
        with pytest.raises(OutcomeUnknown):
            await link.etcd.txn([cmp_mod(keys.head, 0)], [op_put(keys.head, b"late")], timeout_s=0.3)
        await link.etcd.close()
        await link.wait_held(up=True)
        assert await version(witness, keys.head) == 0
        link.forward()
        await wait_until_landed(witness, keys.head)


async def test_a_late_copy_meets_its_compare(store: StoreUnderTest, keys: Keys) -> None:
    """A late copy of a guarded transaction has no effect, because its compare fails."""
    async with store.link(repeats_arrive=True, call_timeout_s=PATIENT_S) as link, store.session() as witness:
        link.set(up=Mode.HOLD)
        guarded = [cmp_mod(keys.head, 0)], [op_put(keys.head, b"once")]
        assert (await link.etcd.txn(*guarded, repeatable=True)).succeeded  # its second copy
        await link.wait_held(up=True)
        assert await version(witness, keys.head) == 1
        link.forward()
        await maintenance.status(link.etcd, link.etcd.settings.endpoints[0], timeout_s=PATIENT_S)  # arrives behind it
        for number in range(3):  # what is sent after it is decided after it
            await link.etcd.put(keys.paused, str(number).encode())
        assert await version(witness, keys.head) == 1
