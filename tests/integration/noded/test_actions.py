"""One-shot actions with noded as a process of its own, a real etcd, and kill -9 in between.

The tests play the leader: they write `actions/n1` as it would, and read `acted/n1`. What an action does is append a
line to a file: as many lines as it was run.
"""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from masterd.application.scenes import BuiltinApp
from masterd.state_machine.actions import ACTION_DONE, NODE_ACT
from masterd.state_machine.batch import CommandRequest
from nodestore.etcd.session import cmp_mod, op_delete, op_put
from nodestore.processes import child_processes
from nodestore.schema.keys import Keys
from nodestore.schema.models import Acted, Action, ActionResult, Actions, Desired, Entry, Epoch, Inventory, Spec, decode
from tests.faults.late.transactions import configure, run_leader
from tests.support.etcd_cluster import EtcdCluster
from tests.support.noded.noded_rig import NODE, Noded, Rig, gone, rig

APPEND = """
import json, os, sys, time
from pathlib import Path
args = json.load(sys.stdin)
with open(args["log"], "a") as file:
    file.write(str(args["n"]) + "\\n")
print("appended", args["n"])
deadline = time.monotonic() + 600
while "until" in args and not Path(args["until"]).exists() and time.monotonic() < deadline:
    time.sleep(0.02)
sys.exit(args.get("fail"))
"""
"""Appends a line, then waits for a file to appear, then ends."""

RUN = "import time; time.sleep(600)"


class Leader:
    """What a leader does for one node, and the file in which each run of an action is a line."""

    def __init__(self, node: Rig, directory: Path) -> None:
        self.node = node
        self.log = directory / "lines"
        self.go = directory / "go"
        self.acted_key, self.actions_key = node.keys.acted_of(NODE), node.keys.actions_of(NODE)

    @property
    def lines(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def append(self, index: int, *, held: bool = False, **more: Any) -> Action:
        """Append the action's index to the file. held: continue only when `go` exists."""
        args = {"log": str(self.log), "n": index, **({"until": str(self.go)} if held else {}), **more}
        return Action(index=index, name="append", args=args, epoch=1, actor="alice")

    async def ask(self, *pending: Action, epoch: int = 1) -> None:
        view = Actions(epoch=epoch, term=5, pending=pending).encode()
        await self.node.etcd.txn([], [op_put(self.actions_key, view) if pending else op_delete(self.actions_key)])

    async def acted(self) -> Acted:
        found = await self.node.etcd.get(self.acted_key)
        return decode(Acted, found.value, found.key) if found is not None else Acted(node=NODE, epoch=1)

    async def result(self, index: int) -> ActionResult | None:
        return next((item for item in (await self.acted()).results if item.index == index), None)

    async def reaches(self, index: int, state: str) -> ActionResult:
        async def look() -> ActionResult | None:
            found = await self.result(index)
            return found if found is not None and found.state == state else None

        return await self.node.until(look, f"action {index} to be {state}, {self.lines}")  # type: ignore[no-any-return]

    async def ran(self, *indexes: int) -> None:
        async def look() -> bool:
            return self.lines == [str(index) for index in indexes]

        await self.node.until(look, f"the lines to be {indexes}: {self.lines}")


@asynccontextmanager
async def leader(cluster: EtcdCluster, keys: Keys, directory: Path, driver: str = "process") -> AsyncIterator[Leader]:
    """The node is to run a program, and has an action."""
    async with rig(cluster, keys, directory) as node:
        await node.etcd.put(keys.epoch, Epoch(epoch=1).encode())
        settings: dict[str, Any] = {"actions": {"append": ["{python}", "-c", APPEND]}}
        if driver == "process":
            settings.update(argv=["{python}", "-c", RUN], grace_s=1, settle_s=0.1)
        else:
            settings.update(argv=["{python}", "-c", ""])
        await node.put(Desired(epoch=1, term=5, generation=1, spec=Spec(driver=driver, settings=settings)))
        yield Leader(node, directory)


@pytest.mark.parametrize("driver", ["process", "exec"])
async def test_once_and_told(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path, driver: str) -> None:
    """The action is run once and its return value is the result. The same view, or a restart, does not run it again."""
    async with leader(etcd_one, keys, tmp_path, driver) as lead:
        await lead.ask(lead.append(7), lead.append(8, fail="no lamp"))
        first = await lead.node.start()
        done = await lead.reaches(7, "done")
        assert done.result == {"exit_code": 0, "output": "appended 7\n"}
        failed = await lead.reaches(8, "failed")
        assert failed.error == "no lamp"
        assert failed.result == {"exit_code": 1, "output": "appended 8\n", "errors": "no lamp\n"}
        await lead.ask(lead.append(7), lead.append(8))
        child_processes.terminate(first.child.identity)
        assert await first.ended() == 0
        await lead.node.start()
        await lead.ask(lead.append(8), lead.append(9))
        await lead.reaches(9, "done")
        assert lead.lines == ["7", "8", "9"]
        assert await lead.result(7) is None  # forgotten: the view has it no more


async def test_killed_between_mark_and_result(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """After kill -9 the action ends with noded. The next noded does not run it again, and reports it as lost."""
    async with leader(etcd_one, keys, tmp_path) as lead:
        await lead.ask(lead.append(7, held=True), lead.append(8))
        first = await lead.node.start()
        await lead.ran(7)
        assert (await lead.reaches(7, "started")).nonce
        await first.kill()
        lead.go.touch()
        await lead.node.start()
        lost = await lead.reaches(7, "lost")
        assert "whether it took effect is not known" in str(lost.error)
        await lead.reaches(8, "done")
        assert lead.lines == ["7", "8"]


async def test_killed_again_and_again(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """Whenever that is: no action runs twice, and in the end each has a result."""
    async with leader(etcd_one, keys, tmp_path) as lead:
        lead.go.touch()
        pending = [lead.append(index, held=True) for index in range(1, 13)]
        await lead.ask(*pending)
        for count in (1, 3, 5, 8):
            noded = await lead.node.start()

            async def look(least: int = count) -> bool:
                return (await lead.acted()).floor >= least

            await lead.node.until(look, f"action {count} to be begun")
            await noded.kill()
        await lead.node.start()

        async def over() -> bool:
            acted = await lead.acted()
            return len(acted.results) == len(pending) and all(item.state != "started" for item in acted.results)

        await lead.node.until(over, "all to have ended")
        states = {item.index: item.state for item in (await lead.acted()).results}
        assert set(states.values()) <= {"done", "lost"}
        assert len(lead.lines) == len(set(lead.lines))
        assert {str(index) for index, state in states.items() if state == "done"} <= set(lead.lines)


async def test_work_directory_wiped_between(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """What was begun is in etcd, not on the PC's disk."""
    async with leader(etcd_one, keys, tmp_path) as lead:
        await lead.ask(lead.append(7))
        first = await lead.node.start()
        await lead.reaches(7, "done")
        await first.kill()
        await lead.node.start(work=tmp_path / "another")
        await lead.ask(lead.append(7), lead.append(8))
        await lead.reaches(8, "done")
        assert lead.lines == ["7", "8"]


async def test_another_host_takes_the_node_while_it_runs(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """The first noded is paused until its lease has expired, and the second writes `lost`.

    The first then writes nothing, and ends.
    """
    async with leader(etcd_one, keys, tmp_path) as lead:
        await lead.ask(lead.append(7, held=True))
        first = await lead.node.start()
        await lead.reaches(7, "started")
        await lead.ran(7)
        child_processes.suspend(first.child.identity)
        await lead.node.start(host_id="host-b", work=tmp_path / "other")
        await lead.reaches(7, "lost")
        lead.go.touch()
        child_processes.resume(first.child.identity)
        assert await first.ended() == 4
        assert (await lead.reaches(7, "lost")).nonce
        assert lead.lines == ["7"]


async def test_etcd_away_while_it_runs(keys: Keys, tmp_path: Path) -> None:
    """The result is written when etcd is back."""
    async with EtcdCluster(1) as cluster, leader(cluster, keys, tmp_path) as lead:
        await lead.ask(lead.append(7, held=True))
        noded = await lead.node.start()
        await lead.reaches(7, "started")
        await lead.ran(7)
        cluster.members[0].pause()
        lead.go.touch()
        await lead.node.says(noded, "finished action append")
        await lead.node.says(noded, "lease lost")
        cluster.members[0].resume()
        assert (await lead.reaches(7, "done")).result["output"] == "appended 7\n"
        assert lead.lines == ["7"]


async def test_status_and_claim_go_on_while_it_runs(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """The claim stays, the status shows the action and a crash; neither a repair nor a newer state is applied yet."""
    async with leader(etcd_one, keys, tmp_path) as lead:
        node = lead.node
        await node.start("--lease-ttl", "60")
        before = await node.ready(1)
        await lead.ask(lead.append(7, held=True))
        await lead.ran(7)
        await node.reached(lambda status: "action append (command 7, asked by alice)" in status.reason, "the reason")
        program = child_processes.identify(before.actual["pid"])
        assert program is not None
        child_processes.kill_tree(program)
        await node.reached(lambda status: not status.actual["running"], "the crash to be told")
        claim = await node.etcd.get(keys.alive_of(NODE))
        assert claim is not None
        lead.go.touch()
        status = await node.ready(1)
        assert status.actual["restarts"] == 1
        assert (await lead.reaches(7, "done")).state == "done"
        after = await node.etcd.get(keys.alive_of(NODE))
        assert after is not None
        assert after.mod_revision == claim.mod_revision


async def test_asked_to_stop_while_it_runs(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """SIGTERM cancels the action, and its result says so."""
    async with leader(etcd_one, keys, tmp_path) as lead:
        await lead.ask(lead.append(7, held=True))
        first = await lead.node.start()
        await lead.ran(7)
        child_processes.terminate(first.child.identity)
        assert await first.ended() == 0
        found = await lead.result(7)
        assert found is not None
        assert (found.state, "asked to stop" in str(found.error)) == ("failed", True)


async def test_restart(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """The program is another process afterwards."""
    async with leader(etcd_one, keys, tmp_path) as lead:
        await lead.node.start()
        before = await lead.node.ready(1)
        await lead.ask(Action(index=7, name="restart"))
        await lead.reaches(7, "done")
        after = await lead.node.reached(lambda status: status.actual["pid"] != before.actual["pid"], "another process")
        await gone(lead.node, before.actual["pid"])
        assert (await lead.node.ready(1)).actual["pid"] == after.actual["pid"]


async def test_an_action_comes_after_the_state_of_its_command(
    etcd_one: EtcdCluster, keys: Keys, tmp_path: Path
) -> None:
    """Both written in one transaction: the action is one of the driver that the new state brings."""
    async with rig(etcd_one, keys, tmp_path) as node:
        await node.etcd.put(keys.epoch, Epoch(epoch=1).encode())
        lead = Leader(node, tmp_path)
        await node.order("one", 1)
        await node.start()
        await node.ready(1)
        settings = {"argv": ["{python}", "-c", ""], "actions": {"append": ["{python}", "-c", APPEND]}}
        desired = Desired(epoch=1, term=5, generation=2, spec=Spec(driver="exec", settings=settings))
        view = Actions(epoch=1, term=5, pending=(lead.append(2),))
        puts = [op_put(keys.actions_of(NODE), view.encode()), op_put(keys.desired_of(NODE), desired.encode())]
        await node.etcd.txn([], puts)
        await lead.reaches(2, "done")


async def test_reboot(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """The command is run once. It is done when noded comes up in another boot, lost when it comes up in the same."""
    code = f"open({str(tmp_path / 'lines')!r}, 'a').write('reboot\\n')"
    options = ("--reboot-command", shlex.join([sys.executable, "-c", code]))
    async with leader(etcd_one, keys, tmp_path) as lead:
        await lead.ask(Action(index=7, name="reboot"), Action(index=8, name="reboot"))

        async def asked(noded: Noded, index: int) -> None:
            await lead.reaches(index, "started")
            await lead.node.says(noded, "the PC is about to reboot")

        first = await lead.node.start(*options)
        await asked(first, 7)
        child_processes.terminate(first.child.identity)
        assert await first.ended() == 0
        acted = await lead.acted()
        assert [item.state for item in acted.results] == ["started"]
        host, _, boot = acted.results[0].boot.rpartition(":")
        assert host == "host-a"
        earlier = acted.results[0].model_copy(update={"boot": f"{host}:{'@1' if boot[0] == '@' else 'another'}"})
        await lead.node.etcd.put(lead.acted_key, acted.model_copy(update={"results": (earlier,)}).encode())
        second = await lead.node.start(*options)
        await lead.reaches(7, "done")
        await asked(second, 8)
        await second.kill()
        await lead.node.start()
        await lead.reaches(8, "lost")
        assert lead.lines == ["reboot", "reboot"]
        await lead.ask(Action(index=9, name="reboot"))
        assert "--reboot-command" in str((await lead.reaches(9, "failed")).error)


async def test_expiry_against_the_mark(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """The leader gives it up, comparing that it was not begun, just as noded begins it: one of the two happens."""
    async with leader(etcd_one, keys, tmp_path) as lead:
        await lead.node.start()
        await lead.node.ready(1)
        began: list[int] = []
        for index in range(1, 41):
            await lead.ask(lead.append(index))
            await asyncio.sleep(0.0005 * (index % 20))  # the race itself: from before to after the start record
            if not await _expire(lead, index):
                began.append(index)
                await lead.reaches(index, "done")
        await lead.ask(lead.append(100))
        await lead.reaches(100, "done")
        assert lead.lines == [str(index) for index in [*began, 100]]


async def _expire(lead: Leader, index: int) -> bool:
    """Whether the action was given up."""
    found = await lead.node.etcd.get(lead.acted_key)
    if found is not None and decode(Acted, found.value, found.key).floor >= index:
        return False
    compare = cmp_mod(lead.acted_key, found.mod_revision if found is not None else 0)
    return (await lead.node.etcd.txn([compare], [op_delete(lead.actions_key)])).succeeded


# --- with a real leader ----------------------------------------------------------------------------------------------


async def test_from_the_command_to_the_history(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """Asked for before the node exists, begun when it comes up, in the history once it has ended; then forgotten."""
    settings = {"argv": ["{python}", "-c", ""], "actions": {"append": ["{python}", "-c", APPEND]}}
    driver = {"name": "exec", "settings": settings}
    async with rig(etcd_one, keys, tmp_path) as node:
        await configure(
            node.etcd, keys, Inventory.model_validate({"nodes": {"n1": {}}, "defaults": {"driver": driver}})
        )
        lead = Leader(node, tmp_path)
        async with run_leader(node.etcd, node.etcd, keys, application=BuiltinApp()) as seat:
            watching = asyncio.create_task(seat.cluster_view.watch())
            requests = [
                CommandRequest(f"act-{number}", NODE_ACT, {"node": NODE, "action": "append", "args": args}, "alice", 0)
                for number, args in enumerate(
                    [{"log": str(lead.log), "n": 1}, {"log": str(lead.log), "n": 2, "fail": 3}]
                )
            ]
            asked = [outcome.index for outcome in await seat.submit(*requests)]
            await node.start()

            async def closed() -> bool:
                return not seat.replica.state.actions and not (await lead.acted()).results

            await node.until(closed, "both to be closed and forgotten")
            watching.cancel()
            await asyncio.wait({watching})
        found = (await node.etcd.range(keys.journal)).kvs
        records = [
            record for kv in found for record in decode(Entry, kv.value, kv.key).commands if record.name == ACTION_DONE
        ]
        assert [(record.actor, record.args["index"], record.result["state"]) for record in records] == [
            (NODE, asked[0], "done"), (NODE, asked[1], "failed"),
        ]  # fmt: skip
        assert records[0].result["result"]["output"] == "appended 1\n"
        assert records[1].result["error"] == "the command exited with code 3"
        assert lead.lines == ["1", "2"]
        assert (await lead.acted()).floor == asked[1]
