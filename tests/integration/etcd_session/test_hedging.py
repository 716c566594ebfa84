"""Hedged transactions, sent to two members: a dead member adds little delay, and the second copy has no effect."""

from __future__ import annotations

import time

import pytest

from nodestore.errors import NodectlError, OutcomeUnknown, Unavailable
from nodestore.etcd.session import Etcd, EtcdSettings, cmp_create, op_get, op_put
from nodestore.schema.keys import Keys
from tests.faults.network.proxy import Mode, Proxy
from tests.support.etcd_cluster import EtcdCluster


async def test_a_member_that_is_gone_costs_no_timeout(etcd_three: EtcdCluster, keys: Keys) -> None:
    """The second member answers long before the timeout of the first, and the session continues with it."""
    first, second, _ = etcd_three.endpoints
    async with (
        Proxy(first) as cable,
        Etcd(EtcdSettings(endpoints=(cable.address, second), attempt_timeout_s=20.0)) as etcd,
    ):
        await etcd.get(keys.head)
        cable.set(up=Mode.HOLD, down=Mode.HOLD)
        begun = time.monotonic()
        result = await etcd.txn_hedged([cmp_create(keys.head, 0)], [op_put(keys.head, b"1")], timeout_s=20.0)
        assert result.succeeded
        assert time.monotonic() - begun < 10.0  # not one whole attempt
        assert etcd.endpoint == second
        assert (await etcd.get(keys.head)) is not None


async def test_the_second_copy_says_what_the_first_has_done(etcd_three: EtcdCluster, keys: Keys) -> None:
    """The first copy lands and its reply is lost.

    The compares of the second copy fail, and its reads show the first one's effect.
    """
    first, second, _ = etcd_three.endpoints
    async with (
        Proxy(first) as cable,
        Etcd(EtcdSettings(endpoints=(cable.address, second), attempt_timeout_s=20.0)) as etcd,
    ):
        await etcd.get(keys.head)
        cable.set(down=Mode.HOLD)
        put, get = op_put(keys.head, b"mine"), op_get(keys.head)
        result = await etcd.txn_hedged([cmp_create(keys.head, 0)], [put], [get], timeout_s=20.0, hedge_s=2.0)
        assert not result.succeeded
        found = result.range(0).first
        assert found is not None
        assert (found.value, found.version) == (b"mine", 1)


async def test_no_member_answers(etcd_three: EtcdCluster, keys: Keys) -> None:
    """The transaction may have landed, so the outcome is unknown."""
    first, second, _ = etcd_three.endpoints
    async with (
        Proxy(first) as one,
        Proxy(second) as two,
        Etcd(EtcdSettings(endpoints=(one.address, two.address), attempt_timeout_s=0.2)) as etcd,
    ):
        await etcd.get(keys.head)
        for cable in (one, two):
            cable.set(up=Mode.HOLD, down=Mode.HOLD)
        with pytest.raises((OutcomeUnknown, Unavailable)) as caught:
            await etcd.txn_hedged([cmp_create(keys.head, 0)], [op_put(keys.head, b"1")], timeout_s=0.6)
        assert isinstance(caught.value, OutcomeUnknown), caught.value
        for cable in (one, two):
            cable.set(up=Mode.DROP, down=Mode.DROP)


async def test_a_refusal_is_a_refusal(etcd_one: EtcdCluster, keys: Keys) -> None:
    """With one member there is one copy, and its error is the error."""
    async with Etcd(EtcdSettings(endpoints=etcd_one.endpoints)) as etcd:
        with pytest.raises(NodectlError, match="lease"):
            await etcd.txn_hedged([], [op_put(keys.head, b"1", lease=12345)], timeout_s=5.0)
