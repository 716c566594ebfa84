"""Lost replies and late copies: what may have happened is told apart from what has not, and nothing lands twice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from nodestore.errors import OutcomeUnknown, Unavailable
from nodestore.etcd import maintenance
from nodestore.etcd.session import Etcd, cmp_create, cmp_mod, op_get, op_put
from nodestore.schema.keys import Keys
from tests.conformance.ground import LATE_HEDGES_S, PATIENT_S, Ground
from tests.faults.network.proxy import Mode
from tests.support.sessions import error_of, version
from tests.support.waiting import eventually


async def landed(witness: Etcd, key: str) -> None:
    """Until the one write to it is there: that its sender gives up does not mean that it has arrived."""

    async def so() -> bool:
        return await version(witness, key) == 1

    await eventually(so, f"the write to {key} has landed")


async def test_a_put_whose_reply_is_lost_is_unknown_and_not_repeated(ground: Ground, keys: Keys) -> None:
    """It has landed, once; the session neither claims success nor tries again where it would be answered."""
    async with ground.way(repeats_arrive=True) as way, ground.session() as witness:
        way.set(down=Mode.DROP)
        with pytest.raises(OutcomeUnknown):
            await way.etcd.put(keys.head, b"x")
        await landed(witness, keys.head)
        await way.etcd.put(keys.head, b"y", timeout_s=PATIENT_S)
        assert await version(witness, keys.head) == 2


@pytest.mark.parametrize("operation", ["put", "delete", "txn"])
async def test_every_plain_write_may_be_unknown(ground: Ground, keys: Keys, operation: str) -> None:
    """A reply that comes after the deadline is as good as none."""
    async with ground.way() as way:
        await way.etcd.put(keys.head, b"x", timeout_s=PATIENT_S)
        way.set(down=Mode.HOLD)
        calls: dict[str, Callable[[], Awaitable[Any]]] = {
            "put": lambda: way.etcd.put(keys.head, b"y", timeout_s=0.3),
            "delete": lambda: way.etcd.delete(keys.head, timeout_s=0.3),
            "txn": lambda: way.etcd.txn([cmp_create(keys.paused, 0)], [op_put(keys.head, b"y")], timeout_s=0.3),
        }
        assert isinstance(await error_of(calls[operation]()), OutcomeUnknown)


async def test_a_cut_in_the_middle_of_a_put_is_unknown_and_one_before_it_is_not(ground: Ground, keys: Keys) -> None:
    """A connection that breaks says nothing about what was under way; one that cannot be had says that nothing was."""
    async with ground.way(call_timeout_s=PATIENT_S) as way, ground.session() as witness:
        way.set(down=Mode.HOLD)
        task = asyncio.create_task(error_of(way.etcd.put(keys.head, b"x")))
        await way.wait_held(down=True)
        await landed(witness, keys.head)  # what is held may be a sign of life only
        await way.cut()
        assert isinstance(await task, OutcomeUnknown)

        async def surely_not_sent() -> bool:  # a channel may need a moment to see that nobody listens
            return isinstance(await error_of(way.etcd.put(keys.paused, b"x", timeout_s=0.5)), Unavailable)

        await eventually(surely_not_sent)
        assert await version(witness, keys.paused) == 0


async def test_reads_go_on_elsewhere_and_are_never_unknown(ground: Ground, keys: Keys) -> None:
    """Also a transaction that only reads; when nobody answers they are Unavailable."""
    async with ground.way(repeats_arrive=True, call_timeout_s=3.0) as way:
        way.set(up=Mode.HOLD, down=Mode.HOLD)
        assert await way.etcd.get(keys.head) is None
        assert way.etcd.endpoint == way.etcd.settings.endpoints[1]
    async with ground.way() as way:
        way.set(up=Mode.HOLD, down=Mode.HOLD)
        with pytest.raises(Unavailable):
            await way.etcd.get(keys.head, timeout_s=0.3)
        with pytest.raises(Unavailable):
            await way.etcd.txn([cmp_mod(keys.head, 0)], [op_get(keys.head)], repeatable=True, timeout_s=0.3)
        with pytest.raises(Unavailable):
            await maintenance.status(way.etcd, way.etcd.endpoint, timeout_s=0.2)


async def test_a_call_to_one_member_may_be_unknown(ground: Ground) -> None:
    """Moving the leader or defragmenting may have begun when nobody answers; when nobody listens it has not."""
    async with ground.way() as way:
        member = way.etcd.endpoint
        way.set(up=Mode.HOLD, down=Mode.HOLD)
        with pytest.raises(OutcomeUnknown):
            await maintenance.move_leader(way.etcd, member, 1, timeout_s=0.2)
        await way.cut()

        async def surely_not_sent() -> bool:  # a channel may need a moment to see that nobody listens
            return isinstance(await error_of(maintenance.defragment(way.etcd, member, timeout_s=0.5)), Unavailable)

        await eventually(surely_not_sent)


async def test_a_guarded_txn_is_repeated_and_lands_once(ground: Ground, keys: Keys) -> None:
    """The reply of the first copy is lost, the second copy's compares fail: the caller sees a transaction that did
    not succeed beside the value that it wrote."""
    async with ground.way(repeats_arrive=True, call_timeout_s=PATIENT_S, hedge_delays_s=LATE_HEDGES_S) as way:
        way.set(down=Mode.DROP)
        result = await way.etcd.txn(
            [cmp_mod(keys.head, 0)], [op_put(keys.head, b"nonce")], [op_get(keys.head)], repeatable=True
        )
        assert not result.succeeded
        found = result.range(0).first
        assert found is not None
        assert (found.value, found.version) == (b"nonce", 1)


async def test_a_guarded_txn_that_nobody_answers_is_unknown(ground: Ground, keys: Keys) -> None:
    """Repeats do not turn "may have landed" into "has not"."""
    async with ground.way() as way, ground.session() as witness:
        way.set(down=Mode.DROP)
        with pytest.raises(OutcomeUnknown):
            await way.etcd.txn([cmp_mod(keys.head, 0)], [op_put(keys.head, b"x")], repeatable=True)
        await landed(witness, keys.head)


async def test_an_error_on_the_repeat_decides_nothing(ground: Ground, keys: Keys) -> None:
    """The first copy landed unheard; that the second is refused for good must not read as "refused"."""
    async with (
        ground.way(repeats_arrive=True, call_timeout_s=PATIENT_S, hedge_delays_s=LATE_HEDGES_S) as way,
        ground.session() as witness,
    ):
        lease, _ = await witness.grant(60)
        way.set(down=Mode.HOLD)
        put = [op_put(keys.head, b"x", lease=lease)]
        task = asyncio.create_task(error_of(way.etcd.txn([], put, repeatable=True)))
        await way.wait_held(down=True)
        await landed(witness, keys.head)
        await witness.revoke(lease)  # the second copy meets a lease that is gone
        assert isinstance(await task, OutcomeUnknown)


async def test_a_txn_held_back_lands_after_its_sender_has_given_up(ground: Ground, keys: Keys) -> None:
    """OutcomeUnknown means "now or at any later time", even when the sender has closed its session."""
    async with ground.way() as way, ground.session() as witness:
        way.set(up=Mode.HOLD)
        with pytest.raises(OutcomeUnknown):
            await way.etcd.txn([cmp_mod(keys.head, 0)], [op_put(keys.head, b"late")], timeout_s=0.3)
        await way.etcd.close()
        await way.wait_held(up=True)
        assert await version(witness, keys.head) == 0
        way.forward()
        await landed(witness, keys.head)


async def test_a_late_copy_meets_its_compare(ground: Ground, keys: Keys) -> None:
    """What makes a repeat harmless also makes a late copy harmless."""
    async with ground.way(repeats_arrive=True, call_timeout_s=PATIENT_S) as way, ground.session() as witness:
        way.set(up=Mode.HOLD)
        guarded = [cmp_mod(keys.head, 0)], [op_put(keys.head, b"once")]
        assert (await way.etcd.txn(*guarded, repeatable=True)).succeeded  # its second copy
        await way.wait_held(up=True)
        assert await version(witness, keys.head) == 1
        way.forward()
        await maintenance.status(way.etcd, way.etcd.settings.endpoints[0], timeout_s=PATIENT_S)  # arrives behind it
        for number in range(3):  # what is sent after it is decided after it
            await way.etcd.put(keys.paused, str(number).encode())
        assert await version(witness, keys.head) == 1
