"""Takeovers on suspicion: a dead or frozen leader is replaced soon, and one that is only unreachable for standbys is
not."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any

import pytest

from nodestore.errors import NodectlError, Unavailable
from nodestore.etcd import maintenance
from nodestore.schema.keys import Keys
from nodestore.schema.models import Candidate, LeaderRecord, TermRecord, decode
from tests.faults.late.transactions import configure
from tests.faults.network.proxy import Mode, Proxy
from tests.support.etcd_cluster import EtcdCluster, free_ports
from tests.support.masters import Masters
from tests.support.waiting import eventually

_QUIET = ("--lease-ttl=60",)
"""The lease does not expire within these tests."""


async def _leader(masters: Masters) -> LeaderRecord:
    found = await masters.etcd.get(masters.keys.leader)
    assert found is not None
    return decode(LeaderRecord, found.value, found.key)


async def _three(masters: Masters) -> None:
    """m1 leads, m2 and m3 follow it."""
    masters.start("m1")
    await masters.wait_serving("m1")
    for name in ("m2", "m3"):
        masters.start(name)
        await masters.wait_candidate(name)
    await _follow(masters, "m2", "m3")


async def _follow(masters: Masters, *names: str) -> None:
    """Wait until these standbys have caught up, so that each has received heartbeats."""
    index = (await masters.command("scene.save", name="s", nodes={}))["index"]

    async def caught_up() -> bool:
        return all([(await masters.ask(name, "GET", "/v1/health"))["index"] >= index for name in names])

    await eventually(caught_up, f"{names} have caught up")


@pytest.mark.skipif(sys.platform == "win32", reason="SIGSTOP is POSIX")
async def test_a_frozen_leader_is_replaced_long_before_its_lease_runs_out(etcd_one: EtcdCluster, keys: Keys) -> None:
    """`leader` records the cause.

    An unanswered command is repeated and run once. The old leader, continued, becomes a standby.
    """
    async with Masters(etcd_one, keys, arguments=_QUIET) as masters:
        await configure(masters.etcd, keys)
        await _three(masters)
        pid = masters.running["m1"].process.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            answer = (await masters.commands(("scene.save", {"name": "t", "nodes": {}}), via="m2"))[0]
        finally:
            os.kill(pid, signal.SIGCONT)
        assert not answer.get("problem"), answer
        record = await _leader(masters)
        assert record.id in ("m2", "m3")
        assert (record.cause, record.streak) == ("silent", 1)
        assert "m1 has been silent for" in record.why
        assert "a challenge through etcd was not answered" in record.why

        async def stands_by() -> bool:
            return str((await masters.ask("m1", "GET", "/v1/health"))["role"]) == "standby"

        await eventually(stands_by, "m1 stands by")
        assert await masters.problems() == []


async def test_a_standby_without_heartbeats_does_not_depose_a_leader_that_answers_challenges(
    etcd_one: EtcdCluster, keys: Keys
) -> None:
    """The connection between two PCs is cut, and both reach etcd.

    The standby must not depose a leader that answers its challenges.
    """
    (port,) = free_ports(1)
    async with (
        Masters(etcd_one, keys, arguments=(*_QUIET, "--answer=10s")) as masters,
        Proxy(f"127.0.0.1:{port}") as cable,
    ):
        await configure(masters.etcd, keys)
        masters.start("m1", arguments=(f"--listen=127.0.0.1:{port}", f"--advertise=http://{cable.address}"))
        masters.running["m1"].url = f"http://127.0.0.1:{port}"
        await masters.wait_serving("m1")
        masters.start("m2")
        await masters.wait_candidate("m2")
        await _follow(masters, "m2")
        term = await masters.etcd.get(keys.leader)
        cable.set(up=Mode.HOLD, down=Mode.HOLD)

        async def answered(times: int) -> bool:
            found = await masters.etcd.get(keys.answer("m2"))
            return found is not None and found.version >= times

        async def often() -> bool:
            return await answered(4)

        await eventually(often, "m1 has answered four challenges", timeout_s=30.0)
        assert await masters.etcd.get(keys.leader) == term
        assert len((await masters.etcd.range(keys.terms)).kvs) == 1
        assert (await masters.commands(("scene.save", {"name": "t", "nodes": {}}), via="m1"))[0]["index"] > 0


@pytest.mark.skipif(sys.platform == "win32", reason="SIGSTOP is POSIX")
async def test_a_pause_stops_takeovers_on_suspicion_too(etcd_one: EtcdCluster, keys: Keys) -> None:
    """While takeovers are paused, a suspected leader is not replaced; after the resume it is."""
    async with Masters(etcd_one, keys, arguments=_QUIET) as masters:
        await configure(masters.etcd, keys)
        await _three(masters)
        await masters.ask("m2", "PUT", "/v1/paused", {"actor": "ann", "reason": "maintenance"})
        pid = masters.running["m1"].process.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            await eventually(lambda: "suspects the leader" in masters.running["m2"].log_tail(), "m2 suspects")
            assert (await _leader(masters)).id == "m1"
            await masters.ask("m2", "DELETE", "/v1/paused")

            async def replaced() -> bool:
                return (await _leader(masters)).id != "m1"

            await eventually(replaced, "it is replaced after the resume")
        finally:
            os.kill(pid, signal.SIGCONT)


async def test_a_leader_that_cannot_commit_is_replaced_by_one_that_can(etcd_one: EtcdCluster, keys: Keys) -> None:
    """The leader sends heartbeats, but its PC cannot reach etcd."""
    async with Masters(etcd_one, keys, arguments=_QUIET) as masters, Proxy(etcd_one.endpoints[0]) as cable:
        await configure(masters.etcd, keys)
        masters.start("m1", arguments=(f"--endpoints={cable.address}",))
        await masters.wait_serving("m1")
        for name in ("m2", "m3"):
            masters.start(name)
            await masters.wait_candidate(name)
        await _follow(masters, "m2", "m3")
        cable.set(up=Mode.DROP, down=Mode.DROP)
        command = asyncio.create_task(masters.commands(("scene.save", {"name": "t", "nodes": {}}), via="m1"))

        async def replaced() -> bool:
            return (await _leader(masters)).id != "m1"

        await eventually(replaced, "it is replaced", timeout_s=20.0)
        record = await _leader(masters)
        assert record.cause == "stuck"
        assert "m1 reports that it has not been able to commit for" in record.why
        assert not (await command)[0].get("problem")
        cable.set(up=Mode.FORWARD, down=Mode.FORWARD)


async def test_a_stop_hands_over(etcd_one: EtcdCluster, keys: Keys) -> None:
    """After SIGTERM another masterd leads before the old leader's process ends, and no request fails."""
    async with Masters(etcd_one, keys, arguments=_QUIET) as masters:
        await configure(masters.etcd, keys)
        await _three(masters)
        problems: list[Any] = []

        async def ask() -> None:
            for number in range(200):
                body = {"id": f"x{number}", "after": 0, "name": "scene.save", "args": {"name": "s", "nodes": {}}}
                try:
                    await masters.ask("m2", "POST", "/v1/commands", body)
                except NodectlError as error:
                    problems.append(error)

        asking = asyncio.create_task(ask())
        masters.running["m1"].terminate()
        await eventually(lambda: masters.running["m1"].exit_code is not None, "m1 has ended")
        await asking
        assert problems == []
        assert masters.running["m1"].exit_code == 0
        record = await _leader(masters)
        assert record.cause == "switchover"
        assert "m1 (stopping)" in record.why


async def test_no_request_fails_during_a_switchover(etcd_one: EtcdCluster, keys: Keys) -> None:
    """Requests to the old leader, the new one and another standby succeed, although the client does not retry."""
    async with Masters(etcd_one, keys, arguments=_QUIET) as masters:
        await configure(masters.etcd, keys)
        await _three(masters)
        problems: list[str] = []
        stop = False

        async def ask(name: str) -> int:
            number = 0
            while not stop:
                number += 1
                body = {"id": f"{name}-{number}", "after": 0, "name": "scene.save", "args": {"name": "s", "nodes": {}}}
                try:
                    await masters.ask(name, "POST", "/v1/commands", body)
                    await masters.ask(name, "GET", "/v1/documents/scenes/s")
                except NodectlError as error:
                    problems.append(f"{name}: {error.code}: {error}")
            return number

        async def switched() -> bool:
            try:
                await masters.ask("m1", "POST", "/v1/leader/switchover", {"actor": "ann"})
            except Unavailable:  # the previous leader may not be a standby yet; the leader keeps its term
                return False
            return True

        asking = [asyncio.create_task(ask(name)) for name in ("m1", "m2", "m3")]
        for _ in range(4):
            before = (await _leader(masters)).id
            await eventually(switched, "a switchover")
            assert (await _leader(masters)).id != before
        stop = True
        assert min(await asyncio.gather(*asking)) > 0
        assert problems == []
        found = (await masters.etcd.range(keys.terms)).kvs
        causes = [decode(TermRecord, kv.value, kv.key).cause for kv in found]
        assert sorted(causes) == ["first", *["switchover"] * 4]
        assert await masters.problems() == []


async def test_the_leader_stays_away_from_etcd_s_leader(etcd_three: EtcdCluster, keys: Keys) -> None:
    """masterd moves etcd's leadership away from its own PC, and its candidacy shows that."""
    async with Masters(etcd_three, keys, arguments=_QUIET) as masters:
        await configure(masters.etcd, keys)
        leader = await _etcd_leader(masters, etcd_three)
        others = [endpoint for endpoint in etcd_three.endpoints if endpoint != leader]
        masters.start("m1", arguments=(f"--endpoints={','.join([leader, *others])}",))
        await masters.wait_serving("m1")

        async def moved() -> bool:
            return await _etcd_leader(masters, etcd_three) != leader

        await eventually(moved, "another member is etcd's leader")

        async def shown() -> bool:
            found = await masters.etcd.get(keys.candidate("m1"))
            return found is not None and not decode(Candidate, found.value, found.key).beside_etcd_leader

        await eventually(shown, "the candidacy of m1 shows that etcd's leader is on another PC")


async def test_the_status_reports_both_leaders_on_one_pc(etcd_one: EtcdCluster, keys: Keys) -> None:
    """If there is no other member, etcd's leadership cannot be moved: the status reports a problem."""
    async with Masters(etcd_one, keys, arguments=_QUIET) as masters:
        await configure(masters.etcd, keys)
        masters.start("m1")
        await masters.wait_serving("m1")

        async def reported() -> bool:
            problems = (await masters.ask("m1", "GET", "/v1/status"))["problems"]
            return any("leads both etcd and the cluster" in problem for problem in problems)

        await eventually(reported, "the status reports the problem")


async def _etcd_leader(masters: Masters, cluster: EtcdCluster) -> str:
    for endpoint in cluster.endpoints:
        status = await maintenance.status(masters.etcd, endpoint, timeout_s=10.0)
        if status.leader == status.member:
            return endpoint
    return ""
