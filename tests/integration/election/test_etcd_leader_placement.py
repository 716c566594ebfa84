"""Master and etcd's leader part, on a real etcd."""

from __future__ import annotations

from nodestore.etcd import maintenance
from nodestore.schema.keys import Keys
from tests.support.etcd_cluster import EtcdCluster
from tests.support.masters import Masters
from tests.support.waiting import eventually


async def test_the_leader_moves_etcds_leadership_to_another_member(etcd_three: EtcdCluster, keys: Keys) -> None:
    """Its endpoint is given as a URL. Afterwards masterd reports no problem."""
    async with Masters(etcd_three, keys) as masters:

        async def leading() -> str | None:
            for endpoint in etcd_three.endpoints:
                status = await maintenance.status(masters.etcd, endpoint, timeout_s=10.0)
                if status.leader == status.member:
                    return endpoint
            return None

        beside = await leading()
        assert beside is not None
        masters.start("m1", arguments=[f"--local-member=http://{beside}"])
        await masters.wait_serving("m1")

        async def moved() -> bool:
            return await leading() not in (None, beside)

        await eventually(moved, "another member leads etcd", timeout_s=20.0)

        async def silent() -> bool:
            status = await masters.ask("m1", "GET", "/v1/status")
            return not [problem for problem in status["problems"] if "leads both" in problem]

        await eventually(silent, "m1 says nothing of it")  # if etcd's answer was lost: after the next check
