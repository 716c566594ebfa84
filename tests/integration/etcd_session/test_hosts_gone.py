"""Members that vanish without closing connections, as with a dead PC: calls, watches and leases move to other members
in time."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, aclosing
from typing import Self

from nodectl.client.connection.discovery import EtcdDiscovery
from nodectl.client.connection.leadership import Leadership
from nodestore.etcd.rpc import Connect, connect_by_grpc
from nodestore.etcd.session import Etcd, EtcdSettings, cmp_create, op_get, op_put
from nodestore.etcd.watch import SILENCE_S, Listing, mirror
from nodestore.schema.keys import Keys
from nodestore.schema.models import Epoch, LeaderRecord
from tests.faults.network.proxy import Mode, Proxy
from tests.support.connection_tap import ConnectionTap
from tests.support.etcd_cluster import EtcdCluster
from tests.support.fakes.etcd import MEMBERS, SETTINGS, FakeEtcd
from tests.support.fakes.link import Link
from tests.support.waiting import eventually

_LONG_S = 20.0


async def put_leader(etcd: Etcd, keys: Keys, name: str) -> None:
    record = LeaderRecord(id=name, host="pc", urls=("http://127.0.0.1:9",), nonce=name, since=0.0, cause="silent")
    await etcd.put(keys.leader, record.encode())


class Discovering:
    """A client's discovery of the leader by etcd, with the leaders that it reported."""

    def __init__(self, keys: Keys, settings: EtcdSettings, connect: Connect) -> None:
        self.leadership = Leadership()
        self.leadership.subscribe(lambda: self.reported.append(self.leader))
        self.reported: list[str | None] = []
        self._keys, self._settings, self._connect = keys, settings, connect

    @property
    def leader(self) -> str | None:
        return self.leadership.leader.id if self.leadership.leader else None

    async def __aenter__(self) -> Self:
        self._etcd = await Etcd(self._settings, connect=self._connect).__aenter__()
        self._task = asyncio.create_task(EtcdDiscovery(self._etcd, self._keys, self.leadership).run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait((self._task,))
        await self._etcd.close()

    async def knows(self, name: str | None) -> None:
        await eventually(lambda: self.leader == name, f"{name} is known", timeout_s=_LONG_S)


async def test_a_client_hears_of_a_new_leader_by_either_of_two_members(etcd_three: EtcdCluster, keys: Keys) -> None:
    """Whichever member goes without a word, the next leader is known long before that member's silence is noticed;
    and the member after it may go as well, once."""
    first, second, third = etcd_three.endpoints
    async with Etcd(EtcdSettings(endpoints=(third,))) as direct, Proxy(first) as one, Proxy(second) as two:
        await direct.put(keys.epoch, Epoch(epoch=1).encode())
        await put_leader(direct, keys, "m1")
        settings = EtcdSettings(endpoints=(one.address, two.address, third))
        tap = ConnectionTap(settings)
        async with Discovering(keys, settings, tap.connect) as client:
            await client.knows("m1")
            for cable, name in ((one, "m2"), (two, "m3")):
                cable.set(up=Mode.HOLD, down=Mode.HOLD)
                begun = time.monotonic()
                await put_leader(direct, keys, name)
                await client.knows(name)
                assert time.monotonic() - begun < SILENCE_S
                cable.set(up=Mode.DROP, down=Mode.DROP)
                await moved_on(tap, cable.address)


async def moved_on(tap: ConnectionTap, address: str) -> None:
    """Wait until no stream is open to that member, and both watches are open to two other ones."""
    await eventually(
        lambda: len(set(tap.open_streams) - {address}) == 2 == len(tap.open_streams),
        "both watches are open to members that live", timeout_s=_LONG_S,
    )  # fmt: skip


async def test_a_client_that_doubts_its_leader_looks_for_another(etcd_three: EtcdCluster, keys: Keys) -> None:
    """Both members used by the client's watches are dead; a third one has the new leader."""
    first, second, third = etcd_three.endpoints
    async with Etcd(EtcdSettings(endpoints=(third,))) as direct, Proxy(first) as one, Proxy(second) as two:
        await direct.put(keys.epoch, Epoch(epoch=1).encode())
        await put_leader(direct, keys, "m1")
        settings = EtcdSettings(endpoints=(one.address, two.address, third))
        async with Discovering(keys, settings, connect_by_grpc(settings)) as client:
            await client.knows("m1")
            for cable in (one, two):
                cable.set(up=Mode.HOLD, down=Mode.HOLD)
            begun = time.monotonic()
            await put_leader(direct, keys, "m2")
            client.leadership.mark_doubtful()
            await client.knows("m2")
            assert time.monotonic() - begun < SILENCE_S
            for cable in (one, two):
                cable.set(up=Mode.DROP, down=Mode.DROP)


async def test_old_news_of_the_slower_watch_change_nothing(keys: Keys) -> None:
    """The slower watch reports that there was no leader, after the faster one has reported the next leader."""
    server = FakeEtcd()
    fast, slow = Link(server), Link(server)
    settings = EtcdSettings(endpoints=MEMBERS[:2])
    ways = dict(zip(MEMBERS, (fast, slow), strict=False))
    async with (
        Etcd(SETTINGS, connect=server.connect) as direct,
        Discovering(keys, settings, lambda address: ways[address].connect(address)) as client,
    ):
        await direct.put(keys.epoch, Epoch(epoch=1).encode())
        await put_leader(direct, keys, "m0")
        await client.knows("m0")
        fast.set(down=Mode.HOLD)
        await put_leader(direct, keys, "m1")
        await client.knows("m1")  # by the slow watch, so it is open
        fast.set(down=Mode.FORWARD)
        slow.set(down=Mode.HOLD)
        await direct.delete(keys.leader)
        await client.knows(None)
        await put_leader(direct, keys, "m2")
        await client.knows("m2")
        reported = list(client.reported)
        fast.set(down=Mode.HOLD)
        slow.set(down=Mode.FORWARD)
        await direct.delete(keys.leader)
        await client.knows(None)  # by the slow watch, which has reported all that it was late with
        assert client.reported == [*reported, None]


async def test_a_watch_leaves_a_member_that_another_call_found_dead(etcd_three: EtcdCluster, keys: Keys) -> None:
    """The watch probes its member at once, and does not wait for its own idle timeout."""
    first, second, _ = etcd_three.endpoints
    async with AsyncExitStack() as stack:
        cable = await stack.enter_async_context(Proxy(first))
        settings = EtcdSettings(endpoints=(cable.address, second))
        tap = ConnectionTap(settings)
        etcd = await stack.enter_async_context(Etcd(settings, connect=tap.connect))
        stream = mirror(etcd, keys.state, progress_s=_LONG_S, silence_s=2 * _LONG_S)
        async with aclosing(stream):
            assert isinstance(await anext(stream), Listing)
            coming = asyncio.ensure_future(anext(stream))
            await eventually(lambda: len(tap.open_streams) == 1, "the watch is open")
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
    """A dead member costs a commit only a fraction of its deadline, and the session continues with the member that
    answered."""
    first, second, third = etcd_three.endpoints
    async with (
        Proxy(first) as one,
        Proxy(second) as two,
        Etcd(EtcdSettings(endpoints=(one.address, two.address, third), attempt_timeout_s=_LONG_S)) as etcd,
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
    async with Etcd(EtcdSettings(endpoints=("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"))) as etcd:
        etcd.switch_from_address("127.0.0.1:2")  # known to be dead, though not in use
        assert etcd.endpoint == "127.0.0.1:1"
        etcd.switch_from_address("127.0.0.1:1")
        assert etcd.endpoint == "127.0.0.1:3"
        etcd.switch_from_address("127.0.0.1:3")
        assert etcd.endpoint == "127.0.0.1:2"
