"""Access control: tokens are lost with a member's restart and with any change of users, without an error to callers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager

import pytest

from nodestore.errors import Denied, LeaseLost
from nodestore.etcd import maintenance
from nodestore.etcd.lease import Lease
from nodestore.etcd.pb import etcd_pb2 as pb
from nodestore.etcd.session import Etcd, EtcdSettings
from nodestore.etcd.watch import Changes, Listing, follow, mirror
from nodestore.schema.keys import Keys, prefix_end
from tests.support.access.etcd_auth import PASSWORD, enable_auth, user_session
from tests.support.connection_tap import ConnectionTap
from tests.support.etcd_cluster import EtcdCluster
from tests.support.sessions import lease_end
from tests.support.waiting import eventually
from tests.support.watching import observer


@pytest.fixture(scope="module")
def etcd_auth() -> Iterator[EtcdCluster]:
    """Three members with access control: `root` may all, `stranger` nothing."""
    with EtcdCluster(3) as cluster:
        asyncio.run(enable_auth(cluster))
        yield cluster


@pytest.fixture
def restartable(etcd_auth: EtcdCluster) -> Iterator[EtcdCluster]:
    """A cluster whose members may be killed."""
    yield etcd_auth
    etcd_auth.mend()
    asyncio.run(etcd_auth.wait_healthy())


@asynccontextmanager
async def tapped(cluster: EtcdCluster) -> AsyncIterator[tuple[Etcd, ConnectionTap]]:
    """A session of root, and the tap of its connections."""
    settings = EtcdSettings(endpoints=cluster.endpoints, user="root", password=PASSWORD)
    tap = ConnectionTap(settings)
    async with Etcd(settings, connect=tap.connect) as etcd:
        yield etcd, tap


async def test_one_login_serves_all(etcd_auth: EtcdCluster, keys: Keys) -> None:
    """Many callers at once wait for one token."""
    async with tapped(etcd_auth) as (etcd, tap):
        await asyncio.gather(*(etcd.put(f"{keys.state}{i}", b"x") for i in range(30)))
        assert len(tap.tokens) == 1
        etcd.discard_token("one that somebody has already replaced")
        await etcd.put(keys.head, b"x")
        assert len(tap.tokens) == 1


async def test_a_change_of_users_does_not_show(etcd_auth: EtcdCluster, keys: Keys) -> None:
    """Tokens of before are refused from then on: one new login for all callers, no error, nothing written twice."""
    async with user_session(etcd_auth) as admin, tapped(etcd_auth) as (etcd, tap):
        await etcd.put(keys.head, b"x")
        assert len(tap.tokens) == 1
        for i in range(3):
            await admin.call("Auth/UserAdd", pb.AuthUserAddRequest(name=f"{keys.cluster}-{i}", password=PASSWORD))
            await asyncio.gather(*(etcd.put(f"{keys.state}{n}", b"x") for n in range(20)))
        found = await etcd.range(keys.state)
        assert [kv.version for kv in found.kvs] == [3] * 20
        assert len(tap.tokens) <= 1 + 3


async def test_a_member_that_restarts_has_forgotten_the_token(restartable: EtcdCluster, keys: Keys) -> None:
    """Reads, writes, a watch and a lease continue across restarts of every member; each write lands once."""
    async with user_session(restartable) as etcd, observer(etcd, keys.state) as seen:
        lease = await Lease.grant(etcd, 5)
        keeping = asyncio.create_task(lease.keep_alive())
        count = 0
        for member in restartable.members:
            member.restart()
            await restartable.wait_healthy(member)
            for _ in range(5):
                await etcd.put(f"{keys.state}{count}", b"x", timeout_s=5.0)
                count += 1
        await eventually(lambda: len(seen.events) >= count)
        assert [event.key for event in seen.events] == [f"{keys.state}{i}" for i in range(count)]
        found = await etcd.range(keys.state)
        assert {kv.version for kv in found.kvs} == {1}
        assert not keeping.done()
        keeping.cancel()
        await asyncio.wait((keeping,))
        assert (await etcd.lease_keys(lease.id))[0] > 0


async def test_a_token_that_has_expired(etcd_auth: EtcdCluster, keys: Keys) -> None:
    """A token that no member knows: calls, watches and keepalives each get another, and it is the same one."""
    async with tapped(etcd_auth) as (etcd, tap):
        lease = await Lease.grant(etcd, 5)
        assert len(tap.tokens) == 1
        tap.expire_tokens()
        await etcd.put(keys.head, b"x")
        tap.expire_tokens()
        async with aclosing(mirror(etcd, keys.head)) as stream:
            assert isinstance(await anext(stream), Listing)
            tap.expire_tokens()
            await etcd.put(keys.head, b"y")
            changes = await anext(stream)
            assert isinstance(changes, Changes)
            assert [event.value for event in changes.events] == [b"y"]
        tap.expire_tokens()
        keeping = asyncio.create_task(lease.keep_alive())
        before = lease_end(lease)
        await eventually(lambda: lease_end(lease) > before + 0.1 or keeping.done(), "a beat")
        assert not keeping.done()
        keeping.cancel()
        await asyncio.wait((keeping,))
        tap.expire_tokens()
        await maintenance.status(etcd, etcd_auth.endpoints[0])
        assert len(tap.tokens) <= 1 + 5


async def test_a_watch_opened_with_an_expired_token(etcd_auth: EtcdCluster, keys: Keys) -> None:
    """etcd accepts the watch and then cancels it in an answer. The session logs in again and reopens it."""
    async with tapped(etcd_auth) as (etcd, tap):
        revision = await etcd.put(keys.head, b"x")
        tap.expire_tokens()
        async with aclosing(follow(etcd, keys.head, end=prefix_end(keys.head), revision=revision)) as stream:
            changes = await anext(stream)
            assert [event.value for event in changes.events] == [b"x"]
        assert len(tap.tokens) == 2


async def test_wrong_passwords_and_strangers_are_denied(etcd_auth: EtcdCluster, keys: Keys) -> None:
    """Calls, watches and transactions raise Denied at once; a watch does not retry."""
    for user, password in (("root", "wrong"), ("no one", PASSWORD), ("stranger", PASSWORD), (None, None)):
        async with user_session(etcd_auth, user, password) as etcd:
            with pytest.raises(Denied):
                await etcd.put(keys.head, b"x")
            with pytest.raises(Denied):
                await etcd.get(keys.head)
            with pytest.raises(Denied):
                await anext(mirror(etcd, keys.head))


async def test_a_watch_that_may_not_be_is_denied(etcd_auth: EtcdCluster, keys: Keys) -> None:
    """The watch is denied also if its listing was permitted, as when the permission was revoked in between."""
    for user, password in (("stranger", PASSWORD), (None, None)):
        async with user_session(etcd_auth, user, password) as etcd:
            with pytest.raises(Denied):
                await anext(follow(etcd, keys.head, end=prefix_end(keys.head), revision=2))


async def test_credentials_where_none_are_asked_for(keys: Keys) -> None:
    """A user may be configured before access control is turned on, and it may be turned on under a living session."""
    async with EtcdCluster(1) as cluster, user_session(cluster) as etcd, observer(etcd, keys.state) as seen:
        await etcd.put(keys.state + "1", b"x")
        await enable_auth(cluster)
        await etcd.put(keys.state + "2", b"x")
        await eventually(lambda: len(seen.events) == 2)


async def test_a_lease_whose_user_is_gone_is_lost_with_the_reason(keys: Keys) -> None:
    """LeaseLost is raised with the text of etcd."""
    async with EtcdCluster(1) as cluster:
        await enable_auth(cluster)
        async with user_session(cluster) as admin, user_session(cluster, "stranger") as etcd:
            lease = await Lease.grant(etcd, 4)
            await admin.put(keys.leader, b"x", lease=lease.id)
            with pytest.raises(LeaseLost, match="permission denied"):
                await lease.keep_alive()
