"""Members that go without a word, as with their PC: what hung on them goes on elsewhere, long before it is missed."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing

from nodectl import Client
from nodestore.etcd.session import Etcd, EtcdSettings, cmp_create, op_get, op_put
from nodestore.etcd.watch import SILENCE_S, Listing, mirror
from nodestore.schema.keys import Keys
from nodestore.schema.models import Epoch, LeaderRecord
from tests.faults.network.proxy import Mode, Proxy
from tests.support.etcd_cluster import EtcdCluster
from tests.support.waiting import eventually

_LONG_S = 20.0


async def put_leader(etcd: Etcd, keys: Keys, name: str) -> None:
    record = LeaderRecord(id=name, host="pc", urls=("http://127.0.0.1:9",), nonce=name, since=0.0, cause="silent")
    await etcd.put(keys.leader, record.encode())


def known(client: Client) -> str | None:
    leader = client._leadership.leader
    return leader.id if leader else None


async def test_a_client_hears_of_a_new_leader_by_either_of_two_members(etcd_three: EtcdCluster, keys: Keys) -> None:
    """Whichever member goes without a word, the next leader is known long before that member's silence is noticed;
    and the member after it may go as well, once."""
    first, second, third = etcd_three.endpoints
    async with Etcd(EtcdSettings((third,))) as direct, Proxy(first) as one, Proxy(second) as two:
        await direct.put(keys.epoch, Epoch(epoch=1).encode())
        await put_leader(direct, keys, "m1")
        async with Client((one.address, two.address, third), cluster=keys.cluster) as client:
            await eventually(lambda: known(client) == "m1", "the first leader is known")
            for cable, name in ((one, "m2"), (two, "m3")):
                cable.set(up=Mode.HOLD, down=Mode.HOLD)
                begun = time.monotonic()
                await put_leader(direct, keys, name)
                await eventually(lambda name=name: known(client) == name, f"{name} is known", timeout_s=_LONG_S)
                assert time.monotonic() - begun < SILENCE_S
                cable.set(up=Mode.DROP, down=Mode.DROP)
                await moved_on(client, cable.address)


async def moved_on(client: Client, address: str) -> None:
    """Until nothing of the client's hangs on that member, and both of its watches hang on others."""
    assert client._etcd is not None
    etcd = client._etcd
    await eventually(
        lambda: len({stream.address for stream in etcd._streams} - {address}) == 2 == len(etcd._streams),
        "both watches hang on members that live", timeout_s=_LONG_S,
    )  # fmt: skip


async def test_a_client_that_doubts_its_leader_looks_for_another(etcd_three: EtcdCluster, keys: Keys) -> None:
    """Both members that its watches hang on are gone; a third knows the new leader."""
    first, second, third = etcd_three.endpoints
    async with Etcd(EtcdSettings((third,))) as direct, Proxy(first) as one, Proxy(second) as two:
        await direct.put(keys.epoch, Epoch(epoch=1).encode())
        await put_leader(direct, keys, "m1")
        async with Client((one.address, two.address, third), cluster=keys.cluster) as client:
            await eventually(lambda: known(client) == "m1", "the first leader is known")
            for cable in (one, two):
                cable.set(up=Mode.HOLD, down=Mode.HOLD)
            begun = time.monotonic()
            await put_leader(direct, keys, "m2")
            client._leadership.mark_doubtful()
            await eventually(lambda: known(client) == "m2", "the new leader is known", timeout_s=_LONG_S)
            assert time.monotonic() - begun < SILENCE_S
            for cable in (one, two):
                cable.set(up=Mode.DROP, down=Mode.DROP)


async def test_old_news_of_the_slower_watch_change_nothing(keys: Keys) -> None:
    """That nobody led is told late, after the new leader."""
    from nodectl.client.connection.discovery import EtcdDiscovery
    from nodectl.client.connection.leadership import Leadership
    from nodestore.etcd.watch import Event

    leadership = Leadership()
    async with Etcd(EtcdSettings(("127.0.0.1:1", "127.0.0.1:2"))) as etcd:
        discovery = EtcdDiscovery(etcd, keys, leadership)
        discovery._epoch = 1
        record = LeaderRecord(id="m2", host="pc", urls=("http://127.0.0.1:9",), nonce="x", since=0.0)
        discovery._publish_key(Event(keys.leader, record.encode(), 12, 12, 0), 12)
        discovery._publish_key(Event(keys.leader, None, 11, 0, 0), 11)
        assert leadership.leader is not None
        assert leadership.leader.id == "m2"
        discovery._publish_key(Event(keys.leader, None, 13, 0, 0), 13)
        assert leadership.leader is None


async def test_a_watch_leaves_a_member_that_another_call_found_dead(etcd_three: EtcdCluster, keys: Keys) -> None:
    """It is asked for a sign of life at once, and not only when its own silence has lasted."""
    first, second, _ = etcd_three.endpoints
    async with Proxy(first) as cable, Etcd(EtcdSettings((cable.address, second))) as etcd:
        stream = mirror(etcd, keys.state, progress_s=_LONG_S, silence_s=2 * _LONG_S)
        async with aclosing(stream):
            assert isinstance(await anext(stream), Listing)
            coming = asyncio.ensure_future(anext(stream))
            await eventually(lambda: len(etcd._streams) == 1, "the watch is open")
            await etcd.put(f"{keys.state}a", b"1")
            await coming
            cable.set(up=Mode.HOLD, down=Mode.HOLD)
            async with asyncio.timeout(_LONG_S):
                result = await etcd.txn_hedged([cmp_create(keys.head, 0)], [op_put(keys.head, b"1")], timeout_s=_LONG_S)
                assert result.succeeded
                await etcd.put(f"{keys.state}b", b"2")
                changes = await anext(stream)
                while not changes.events:  # type: ignore[union-attr]
                    changes = await anext(stream)
            assert changes.events[-1].key == f"{keys.state}b"  # type: ignore[union-attr]
            cable.set(up=Mode.DROP, down=Mode.DROP)


async def test_what_may_be_repeated_is_sent_to_another_member_in_time(etcd_three: EtcdCluster, keys: Keys) -> None:
    """A member that is gone costs a commit a fraction of its deadline; and the session goes on with who answered."""
    first, second, third = etcd_three.endpoints
    async with (
        Proxy(first) as one,
        Proxy(second) as two,
        Etcd(EtcdSettings((one.address, two.address, third), attempt_timeout_s=_LONG_S)) as etcd,
    ):
        await etcd.get(keys.head)
        for cable in (one, two):
            cable.set(up=Mode.HOLD, down=Mode.HOLD)
        begun = time.monotonic()
        put, get = op_put(keys.head, b"1"), op_get(keys.head)
        result = await etcd.txn([cmp_create(keys.head, 0)], [put], [get], timeout_s=_LONG_S, repeatable=True)
        assert result.succeeded
        assert time.monotonic() - begun < _LONG_S / 2
        assert etcd.endpoint == third
        for cable in (one, two):
            cable.set(up=Mode.DROP, down=Mode.DROP)


async def test_an_endpoint_that_failed_is_the_last_to_be_tried_again() -> None:
    """Of those not in use, first the one whose last fault is longest ago."""
    async with Etcd(EtcdSettings(("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"))) as etcd:
        etcd.switch_from_address("127.0.0.1:2")  # known to be gone, though not in use
        assert etcd.endpoint == "127.0.0.1:1"
        etcd.switch_from_address("127.0.0.1:1")
        assert etcd.endpoint == "127.0.0.1:3"
        etcd.switch_from_address("127.0.0.1:3")
        assert etcd.endpoint == "127.0.0.1:2"
