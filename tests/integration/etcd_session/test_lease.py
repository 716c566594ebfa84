"""A lease lives while it is kept, through faults of members, and is given up no later than etcd gives it up."""

from __future__ import annotations

import asyncio

import pytest

from nodestore.errors import LeaseLost, Unavailable
from nodestore.etcd.lease import Lease, boottime_s
from nodestore.etcd.session import Etcd, EtcdSettings
from nodestore.schema.keys import Keys
from tests.faults.network.proxy import Mode, Proxy
from tests.support.etcd_cluster import EtcdCluster
from tests.support.sessions import LIVES_S, keep_lease_alive, lease_end
from tests.support.waiting import eventually


def session(*endpoints: str, call_timeout_s: float = 2.0) -> Etcd:
    return Etcd(EtcdSettings(endpoints=endpoints, call_timeout_s=call_timeout_s))


async def outlives(task: asyncio.Task[None], lease: Lease, times: float) -> None:
    """The lease is still kept after `times` its TTL."""
    done, _ = await asyncio.wait((task,), timeout=times * lease.ttl_s)
    assert not done, f"lost: {task.exception()}"
    assert lease.left_s > 0


async def test_it_is_lost_at_its_ttl_when_nobody_answers(etcd_one: EtcdCluster) -> None:
    """Not a round of retries later."""
    async with Proxy(etcd_one.endpoints[0]) as proxy, session(proxy.address) as etcd:
        lease = await Lease.grant(etcd, LIVES_S)
        async with keep_lease_alive(lease) as task:
            await outlives(task, lease, 0.2)
            proxy.stall()
            with pytest.raises(LeaseLost, match="no keepalive was answered"):
                await task
            assert -1.0 < lease.left_s <= 0


async def test_it_is_lost_at_its_ttl_when_all_refuse(etcd_one: EtcdCluster) -> None:
    """Refused connections are tried again until then."""
    async with Proxy(etcd_one.endpoints[0]) as proxy, session(proxy.address) as etcd:
        lease = await Lease.grant(etcd, LIVES_S)
        async with keep_lease_alive(lease) as task:
            await proxy.cut()
            with pytest.raises(LeaseLost, match="no keepalive was answered"):
                await task
            assert -1.0 < lease.left_s <= 0


async def test_the_ttl_counts_from_when_the_keepalive_was_sent(etcd_one: EtcdCluster) -> None:
    """An answer that was long under way gives no more time than etcd gave."""
    async with Proxy(etcd_one.endpoints[0]) as proxy, session(proxy.address) as etcd:
        lease = await Lease.grant(etcd, 8)  # long, so that a late answer is not given up for another beat
        granted = lease_end(lease)
        async with keep_lease_alive(lease):
            await eventually(lambda: lease_end(lease) > granted + 0.1, "a beat")
            proxy.set(down=Mode.HOLD)
            before = lease_end(lease)
            await proxy.wait_held(down_bytes=1)  # the answer to the next
            answered = boottime_s()  # etcd has extended it no later than this
            await eventually(lambda: boottime_s() > answered + 0.25, "the answer is late")
            proxy.forward()
            await eventually(lambda: lease_end(lease) > before + 0.1, "the answer came")
            assert lease_end(lease) <= answered + lease.ttl_s + 0.01


async def test_a_grant_that_nobody_answers(etcd_one: EtcdCluster) -> None:
    """There is no lease then, whatever etcd may have made."""
    async with Proxy(etcd_one.endpoints[0]) as proxy, session(proxy.address, call_timeout_s=0.3) as etcd:
        proxy.stall()
        with pytest.raises(Unavailable):
            await Lease.grant(etcd, 1)


@pytest.mark.parametrize("fault", ["kill", "pause"])
@pytest.mark.parametrize("victim", ["leader", "follower"])
async def test_it_survives_the_member_in_use(broken_three: EtcdCluster, keys: Keys, fault: str, victim: str) -> None:
    """Whether the member is killed or hung, leading or not, the lease is renewed through another member within its
    TTL."""
    leader = await broken_three.leader()
    member = leader if victim == "leader" else next(m for m in broken_three.members if m is not leader)
    rest = [other.endpoint for other in broken_three.members if other is not member]
    async with session(member.endpoint, *rest) as etcd, session(*rest) as witness:
        lease = await Lease.grant(etcd, LIVES_S)
        await etcd.put(keys.leader, b"me", lease=lease.id)
        async with keep_lease_alive(lease) as task:
            await outlives(task, lease, 0.1)
            member.kill() if fault == "kill" else member.pause()
            await outlives(task, lease, 1.2)
            assert await witness.get(keys.leader) is not None
