"""A masterd that was started without the cluster's application, as operators see it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nodectl.cli.exit_codes import ExitCode
from nodestore.etcd.session import Etcd
from nodestore.schema.keys import Keys
from nodestore.schema.models import Candidate, Inventory, decode
from tests.support.cli import InProcessNodectl, Nodectl
from tests.support.etcd_cluster import EtcdCluster
from tests.support.masters import Masterd, Masters
from tests.support.waiting import eventually

_OTHER = ("--app=tests.support.toy_app:ToyApp",)
_INVENTORY = Inventory.model_validate({"nodes": {"n1": {}, "n2": {}}, "defaults": {"driver": {"name": "process"}}})


@pytest.fixture(scope="module", autouse=True)
def _no_process_stays() -> Iterator[None]:
    yield
    Masterd.discard_warm()


async def _desired(etcd: Etcd, keys: Keys) -> dict[str, bytes]:
    return {kv.key: kv.value for kv in (await etcd.range(keys.desired)).kvs}


async def test_another_application_is_reported_refused_and_adopted(etcd_one: EtcdCluster, keys: Keys) -> None:
    """It is listed as unfit, gets no switchover, does not lead as the only one, and leads once it is adopted."""
    async with Masters(etcd_one, keys) as masters:
        await masters.configure(_INVENTORY)
        masters.start("m1")
        await masters.wait_serving("m1")
        await masters.command("node.set", node="n1", values={"x": 1})
        masters.start("m2", arguments=_OTHER)

        async def is_unfit() -> bool:
            found = await masters.etcd.get(keys.candidate("m2"))
            return found is not None and decode(Candidate, found.value, found.key).unfit is not None

        await eventually(is_unfit, "m2 has published that it is unfit")
        nodectl = InProcessNodectl([master.url for master in masters.running.values()])
        listed = {item["id"]: item for item in (await nodectl("master", "list", "-o", "json")).json}
        assert (listed["m1"]["application"], listed["m2"]["application"]) == ("scenes", "toy")
        assert "standby, unfit" in (await nodectl("master", "list")).out
        problems = "\n".join((await nodectl("status", "-o", "json")).json["problems"])
        assert "master m2 is not fit to lead: it runs application 'toy', but the cluster's is 'scenes'" in problems
        assert "no standby is fit to lead" in problems
        check = await nodectl("app", "check")
        assert check.code == 1
        assert "toy" in check.out
        refused = await nodectl("master", "switchover", "m2")
        assert refused.code == ExitCode.CONFLICT
        assert "standby m2 is not fit to lead: it runs application 'toy'" in refused.err
        typo = await nodectl("app", "adopt", "toi")
        assert typo.code == ExitCode.CONFLICT
        assert "there are: scenes, toy" in typo.err

        before = await _desired(masters.etcd, keys)
        masters.running.pop("m1").kill()
        await eventually(lambda: _is_leaderless(masters), "the lease of m1 has expired")
        by_etcd = Nodectl(etcd_one.endpoints, keys.cluster, timeout_s=3.0)
        lost = await by_etcd("node", "list")
        assert lost.code == ExitCode.UNAVAILABLE
        assert "`nodectl app adopt toy`" in lost.err
        assert "check that a masterd is running" not in lost.err
        only_m2 = InProcessNodectl([masters.running["m2"].url], timeout_s=3.0)
        shown = (await only_m2("status", "--local", "-o", "json")).json["problems"]
        assert any("nodectl app adopt toy" in problem for problem in shown)
        assert await _desired(masters.etcd, keys) == before

        assert (await only_m2("app", "adopt", "toy")).code == 0
        await masters.wait_serving("m2")

        async def has_new_orders() -> bool:
            return await _desired(masters.etcd, keys) != before

        await eventually(has_new_orders, "m2 orders what its application derives")
        assert (await only_m2("app", "check", "-o", "json")).json["recorded"] == "toy"
        history = (await only_m2("history", "-o", "json")).json
        assert "config.application" in str(history)


async def _is_leaderless(masters: Masters) -> bool:
    return (await masters.leader()).record is None


async def test_a_pause_is_named_as_the_reason_for_there_being_no_leader(etcd_one: EtcdCluster, keys: Keys) -> None:
    """Through etcd and through a masterd; and not that a masterd may not be running."""
    async with Masters(etcd_one, keys) as masters:
        masters.start("m1")
        await masters.wait_serving("m1")
        masters.start("m2")
        await masters.wait_candidate("m2")
        by_etcd = Nodectl(etcd_one.endpoints, keys.cluster, timeout_s=3.0)
        assert (await by_etcd("master", "pause", "--reason", "cables")).code == 0
        masters.running.pop("m1").kill()
        await eventually(lambda: _is_leaderless(masters), "the lease of m1 has expired")
        for nodectl in (by_etcd, InProcessNodectl([masters.running["m2"].url], timeout_s=3.0)):
            lost = await nodectl("node", "list")
            assert lost.code == ExitCode.UNAVAILABLE
            assert "takeovers are paused by" in lost.err
            assert "(cables)" in lost.err
            assert "nodectl master resume" in lost.err
            assert "check that a masterd is running" not in lost.err
