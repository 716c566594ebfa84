"""`nodectl drill` on real masters, and the report of `nodectl why`: each kind of end is timed and recorded."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import pytest

from masterd.api.fault_injection import EXIT_CODE
from nodestore.errors import Denied
from nodestore.etcd.session import op_delete
from nodestore.schema.keys import Keys
from tests.faults.late.transactions import configure
from tests.support.cli import Nodectl
from tests.support.etcd_cluster import EtcdCluster
from tests.support.masters import UNTIL_IT_DIES, Masters
from tests.support.waiting import eventually

_QUIET = ("--lease-ttl=60",)
"""The lease decides nothing within these tests."""
_FREEZES = ("--missed=3.5", "--silence=5")
"""Only a leader that is frozen for ten seconds is silent for so long."""


async def _three(masters: Masters) -> None:
    """m1 leads, m2 and m3 follow it."""
    await configure(masters.etcd, masters.keys)
    masters.start("m1")
    await masters.wait_serving("m1")
    for name in ("m2", "m3"):
        masters.start(name)
        await masters.wait_candidate(name)
    index = (await masters.command("scene.save", name="s", nodes={}))["index"]

    async def caught_up() -> bool:
        return all([(await masters.ask(name, "GET", "/v1/health"))["index"] >= index for name in ("m2", "m3")])

    await eventually(caught_up, "m2 and m3 have caught up")


def _well_told(takeover: dict[str, Any], cause: str, old: str) -> None:
    """Assert that the report has the leader, the reason, and ascending steps that add up to the whole."""
    assert (takeover["cause"], takeover["taken_from"]) == (cause, old)
    at, took = [[step[name] for step in takeover["steps"]] for name in ("at_s", "took_s")]
    assert at == sorted(at)
    assert (at[0], at[-1]) == (0.0, takeover["whole_s"])
    assert sum(took) == pytest.approx(takeover["whole_s"])
    phases = [step["phase"] for step in takeover["steps"]]
    assert phases[0] == "heard"
    assert phases[-6:] == ["sent", "won", "caught_up", "serving", "found", "first_answer"]


@pytest.mark.nightly
async def test_each_kind_of_drill_holds_every_promise_and_is_told_as_what_it_was(
    etcd_one: EtcdCluster, keys: Keys
) -> None:
    """Handover, freeze and kill, one after another; the client found each leader through etcd."""
    async with Masters(etcd_one, keys, arguments=(*_QUIET, "--allow-drills", *_FREEZES)) as masters:
        await _three(masters)
        nodectl = Nodectl(etcd_one.endpoints, keys.cluster, timeout_s=20.0)
        for how, cause in (("handover", "switchover"), ("freeze", "silent"), ("kill", "died")):
            seen = await masters.leader()
            assert seen.record is not None
            said = await nodectl("drill", "--yes", "--how", how, "--seconds", "10", "-o", "json")
            assert said.code == 0, said
            told, why = said.json, (await nodectl("why", "-o", "json")).json
            assert told["held"]
            assert why == told["takeover"]
            _well_told(why, cause, seen.record.id)
            phases = [step["phase"] for step in why["steps"]]
            if how != "kill":  # where the machine is slow to refuse connections a dead one is challenged, too
                assert ("challenged" in phases) == (how == "freeze")
                assert bool(why["suspected_by"]) == (how == "freeze")
            old = masters.running[seen.record.id]
            if how == "kill":
                await eventually(lambda master=old: master.exit_code is not None, "it has ended")
            assert old.exit_code == (EXIT_CODE if how == "kill" else None)
        listed = (await nodectl("why", "--list", "-o", "json")).json
        assert [item["cause"] for item in listed] == ["died", "silent", "switchover"]
        assert await masters.problems() == []


async def test_a_master_that_was_not_told_to_allow_drills_obeys_none(etcd_one: EtcdCluster, keys: Keys) -> None:
    """Neither asked itself nor through a standby; a handover needs no leave."""
    async with Masters(etcd_one, keys, arguments=UNTIL_IT_DIES) as masters:
        await _three(masters)
        for name in ("m1", "m2"):
            with pytest.raises(Denied, match="--allow-drills"):
                await masters.ask(name, "POST", "/v1/drill", {"how": "kill", "actor": "ann"})
        nodectl = Nodectl([master.url for master in masters.running.values()], timeout_s=20.0)
        said = await nodectl("drill", "--yes")
        assert said.code == 6, said
        seen = await masters.leader()
        assert seen.record is not None
        assert (seen.record.id, masters.running["m1"].exit_code) == ("m1", None)
        said = await nodectl("drill", "--yes", "--how", "handover", "-o", "json")
        assert (said.code, said.json["held"]) == (0, True), said


@pytest.mark.skipif(sys.platform == "win32", reason="SIGSTOP is POSIX")
async def test_a_lease_that_ran_out_is_timed_from_the_last_heartbeat(etcd_one: EtcdCluster, keys: Keys) -> None:
    """The time does not begin with the deletion of the key, which the standby reacts to."""
    async with Masters(etcd_one, keys, arguments=UNTIL_IT_DIES) as masters:
        await _three(masters)
        old = masters.running["m1"].process.pid
        os.kill(old, signal.SIGSTOP)
        try:
            await masters.etcd.txn([], [op_delete(keys.leader)])  # as etcd does when the lease runs out

            async def told() -> dict[str, Any]:
                return dict((await masters.ask("m2", "GET", "/v1/terms?consistency=local"))["terms"][0])

            async def written() -> bool:
                found = await told()
                return found["cause"] != "first" and bool(found["phases"])

            await eventually(written, "how the takeover went is recorded")
            found = await told()
        finally:
            os.kill(old, signal.SIGCONT)
        assert found["cause"] == "expired"
        assert list(found["phases"])[:3] == ["heard", "sent", "won"]
        assert list(found["phases"].values()) == sorted(found["phases"].values())
