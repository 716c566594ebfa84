"""Applications that hang, raise, react to changes of nodes, and request actions: the leader keeps its term, and nothing
runs twice."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from masterd.application.contract import Command, NodeSeen, Transaction
from masterd.state_machine.actions import NODE_ACT
from masterd.state_machine.batch import CommandRequest
from masterd.term.leader import LeaderSettings
from nodestore.errors import NodectlError
from nodestore.etcd.session import Etcd
from nodestore.schema.keys import Keys
from nodestore.schema.models import Acted, ActionResult, Actions, Alive, CommandRecord, Entry, Epoch, Status, decode
from nodestore.support.jsonio import Json
from tests.faults.late.transactions import RunningLeader, configure, desired, run_leader, session, watch_cluster
from tests.support.etcd_cluster import EtcdCluster
from tests.support.toy_app import Put, ToyApp, inventory
from tests.support.waiting import eventually

_SHORT_LIMIT = LeaderSettings(handler_timeout_s=0.3)


class MisbehavingApp(ToyApp):
    """Commands `spin` and `block` hang.

    `node_changed` counts how often each node was ready, and raises for a failed node.
    """

    def __init__(self) -> None:
        super().__init__()
        self.release = threading.Event()
        self.notified: list[tuple[str, bool, str | None]] = []

    def commands(self) -> Mapping[str, Command]:
        return {**super().commands(), "spin": Command(Put, self._spin), "block": Command(Put, self._block)}

    def node_changed(self, transaction: Transaction, node: str, seen: NodeSeen) -> None:
        phase = seen.status.phase if seen.status else None
        self.notified.append((node, seen.present, phase))
        if phase == "failed":
            raise ZeroDivisionError("as asked")
        if phase == "ready":
            count = (transaction.get(f"ready/{node}") or {"count": 0})["count"]
            transaction.put(f"ready/{node}", {"count": count + 1})

    def _spin(self, _: Transaction, __: Put) -> Json:
        while True:
            pass

    def _block(self, _: Transaction, __: Put) -> Json:
        return self.release.wait(60)


async def _entries(etcd: Etcd, keys: Keys) -> list[CommandRecord]:
    found = (await etcd.range(keys.journal)).kvs
    return [record for kv in found for record in decode(Entry, kv.value, kv.key).commands]


async def test_a_handler_that_hangs_times_out(etcd_one: EtcdCluster, keys: Keys) -> None:
    """The other commands of its batch are run in order and once, the term continues, and the event loop is not
    blocked."""
    async with session(etcd_one) as etcd:
        await configure(etcd, keys)
        async with run_leader(etcd, etcd, keys, application=MisbehavingApp(), settings=_SHORT_LIMIT) as term:
            beats = 0

            async def beat() -> None:
                nonlocal beats
                while True:
                    beats += 1
                    await asyncio.sleep(0.01)

            beating = asyncio.create_task(beat())
            adds = [CommandRequest(f"add-{number}", "add", {"path": "sum"}, "t", 0) for number in range(6)]
            outcomes = await term.submit(*adds[:3], CommandRequest("spin", "spin", {}, "ann", 0), *adds[3:])
            beating.cancel()
            assert [outcome.result for outcome in outcomes] == [1, 2, 3, None, 4, 5, 6]
            assert str(outcomes[3].error) == (
                "command spin did not finish within 0.3 s in the application: nothing of it was done"
            )
            assert beats > 3
            assert (await term.add("later")).result == 7
            assert [record.id for record in await _entries(etcd, keys) if record.name == "add"] == [
                *(request.id for request in adds), "later",
            ]  # fmt: skip


async def test_a_command_whose_handlers_hang_is_refused(etcd_one: EtcdCluster, keys: Keys) -> None:
    """Threads cannot be ended, so a command whose handlers hang is refused.

    Other commands are run. It is run again once the threads have returned.
    """
    async with session(etcd_one) as etcd:
        await configure(etcd, keys)
        app = MisbehavingApp()
        async with run_leader(etcd, etcd, keys, application=app, settings=_SHORT_LIMIT) as term:
            for number in range(4):
                outcome = (await term.submit(CommandRequest(f"b{number}", "block", {}, "t", 0)))[0]
                assert "did not finish" in str(outcome.error)
            outcome = (await term.submit(CommandRequest("b4", "block", {}, "t", 0)))[0]
            assert str(outcome.error) == (
                "command block was not run: 4 handlers of this application hang, and "
                "this command's handler has hung before"
            )
            assert (await term.add("a1")).result == 1
            app.release.set()
            await eventually(lambda: term.parts.committer.worker.hung_count == 0, "the handlers have returned")
            assert (await term.submit(CommandRequest("b5", "block", {}, "t", 0)))[0].result is True


async def test_desired_that_hangs_fails_its_command(etcd_one: EtcdCluster, keys: Keys) -> None:
    """If `desired` hangs while a command is run, that command fails with the reason.

    The term continues and adopts a configuration.
    """

    class Silent(MisbehavingApp):
        def desired(self, config: Any, view: Any, node: str) -> Any:
            if view.get("hang"):
                self.release.wait(60)

    async with session(etcd_one) as etcd:
        await configure(etcd, keys)
        app = Silent()
        settings = replace(_SHORT_LIMIT, derive_timeout_s=0.3)
        async with run_leader(etcd, etcd, keys, application=app, settings=settings) as term:
            outcome = await term.put("hang", x=1)
            assert "did not finish within 0.3 s" in str(outcome.error)
            await configure(etcd, keys, inventory("n1", "n2", "n3"), version=2)
            assert (await term.add("a1")).result == 1
        app.release.set()


async def test_a_node_that_hangs_at_the_start_of_a_term_keeps_its_order(etcd_one: EtcdCluster, keys: Keys) -> None:
    """The term begins without it, its commands succeed, a command that makes another node hang is refused, and a new
    configuration is adopted. Once the application returns for it, its spec is recorded."""

    class Hangs(MisbehavingApp):
        def desired(self, config: Any, view: Any, node: str) -> Any:
            if node == "n1" or view.get(f"hang/{node}"):
                self.release.wait(60)
            return super().desired(config, view, node)

    settings = replace(_SHORT_LIMIT, derive_node_timeout_s=0.2)
    async with session(etcd_one) as etcd:
        await configure(etcd, keys)
        async with run_leader(etcd, etcd, keys) as term:
            await term.put("nodes/n1", x=1)
            await term.put("nodes/n2", x=1)
        before = await desired(etcd, keys)
        app = Hangs()
        async with run_leader(etcd, etcd, keys, "m2", application=app, settings=settings) as term:
            assert term.leader.spec_failures == {
                "n1": "the application did not return from desired(node n1) within 0.2 s"
            }
            assert (await term.put("nodes/n1", x=2)).error is None
            assert (await term.put("nodes/n2", x=2)).error is None
            refused = (await term.put("hang/n2", x=1)).error
            assert "did not finish within 0.3 s in desired(node n2)" in str(refused)
            after = await desired(etcd, keys)
            assert after["n1"] == before["n1"]
            assert after["n2"][0].spec.document == {"x": 2}
            app.release.set()
            await configure(etcd, keys, inventory("n1", "n2", "n3"), version=2)
            async with watch_cluster(term):

                async def is_recorded() -> bool:
                    return (await desired(etcd, keys))["n1"][0].spec.document == {"x": 2}

                await eventually(is_recorded, "n1 has its new order")
            assert term.leader.spec_failures == {}


async def test_the_application_is_notified_of_changes_of_nodes(etcd_one: EtcdCluster, keys: Keys) -> None:
    """`node_changed` is called once a change, for configured nodes only.

    An exception has no effect. A new leader calls it again.
    """
    async with session(etcd_one) as etcd:
        await configure(etcd, keys)
        await etcd.put(keys.status_of("stranger"), Status(node="stranger", nonce="x", host="h", phase="ready").encode())
        app = MisbehavingApp()
        async with run_leader(etcd, etcd, keys, application=app) as term, watch_cluster(term):
            await etcd.put(keys.alive_of("n1"), Alive(host_id="h", nonce="x", host="h").encode())
            await eventually(lambda: ("n1", True, None) in app.notified, "the claim of n1 was notified")
            ready = Status(node="n1", nonce="x", host="h", phase="ready")
            await etcd.put(keys.status_of("n1"), ready.encode())
            await eventually(lambda: "ready/n1" in term.replica.state.documents, "the application has counted it")
            await etcd.put(keys.status_of("n1"), ready.model_copy(update={"time": 5.0}).encode())  # nothing new
            await etcd.put(keys.status_of("n2"), Status(node="n2", nonce="y", host="h", phase="failed").encode())
            await eventually(lambda: ("n2", False, "failed") in app.notified, "the change of n2 was notified")
            assert (await term.add("a1")).result == 1
            await etcd.delete(keys.alive_of("n1"))
            await eventually(lambda: ("n1", False, "ready") in app.notified, "the end of the claim was notified")
            await eventually(lambda: term.replica.state.documents["ready/n1"].value == {"count": 2}, "counted again")
            assert [node for node, _, _ in app.notified if node == "stranger"] == []
        record = next(record for record in await _entries(etcd, keys) if record.name == "node.changed")
        assert (record.actor, record.args["node"], record.args["phase"]) == ("n1", "n1", "ready")
        again = MisbehavingApp()
        async with run_leader(etcd, etcd, keys, "m2", application=again) as term, watch_cluster(term):
            await eventually(lambda: ("n1", False, "ready") in again.notified, "the new leader notifies it")


async def _act(term: RunningLeader, **args: Any) -> int:
    outcome = (
        await term.submit(CommandRequest(f"act-{args}", NODE_ACT, {"node": "n1", "action": "blink", **args}, "ann", 0))
    )[0]
    assert outcome.error is None, outcome.error
    return outcome.index


async def _pending(etcd: Etcd, keys: Keys) -> list[int]:
    found = await etcd.get(keys.actions_of("n1"))
    return [] if found is None else [action.index for action in decode(Actions, found.value, found.key).pending]


async def test_an_action_is_shown_to_the_node_and_closed_by_its_result(etcd_one: EtcdCluster, keys: Keys) -> None:
    """The journal holds the request and the result, also across a takeover, and the view of pending actions is empty at
    the end."""
    async with session(etcd_one) as etcd:
        await configure(etcd, keys)
        async with run_leader(etcd, etcd, keys) as term:
            index = await _act(term, args={"times": 2})
            assert await _pending(etcd, keys) == [index]
        async with run_leader(etcd, etcd, keys, "m2") as term, watch_cluster(term):
            assert await _pending(etcd, keys) == [index]
            started = ActionResult(index=index, name="blink", state="started", nonce="x")
            acted = Acted(node="n1", epoch=1, floor=index, results=(started,))
            await etcd.put(keys.acted_of("n1"), acted.encode())
            done = started.model_copy(update={"state": "done", "result": {"on": 2}})
            await etcd.put(keys.acted_of("n1"), acted.model_copy(update={"results": (done,)}).encode())

            async def over() -> bool:
                return await _pending(etcd, keys) == []

            await eventually(over, "the view is empty")
        last = (await _entries(etcd, keys))[-1]
        assert (last.name, last.actor, last.args) == (
            "action.done",
            "n1",
            {"node": "n1", "index": index, "action": "blink"},
        )
        assert last.result == {"state": "done", "result": {"on": 2}, "error": None}


async def test_an_action_expires_unless_a_node_has_begun_it(etcd_one: EtcdCluster, keys: Keys) -> None:
    """The first writer wins: to expire an action, the leader compares the node's key in etcd, not what its watch has
    shown."""
    async with session(etcd_one) as etcd:
        await configure(etcd, keys)
        # This leader's cluster view has no watches, so it does not see what nodes write.
        async with run_leader(etcd, etcd, keys) as term:
            begun = await _act(term, expires_s=2.0)
            mark = ActionResult(index=begun, name="blink", state="started", nonce="x")
            await etcd.put(keys.acted_of("n1"), Acted(node="n1", epoch=1, floor=begun, results=(mark,)).encode())
            idle = await _act(term, node="n2", expires_s=2.0)

            async def expired() -> bool:
                return any(record.name == "action.done" for record in await _entries(etcd, keys))

            await eventually(expired, "one has expired")
            done = [record for record in await _entries(etcd, keys) if record.name == "action.done"]
            assert [(record.args["index"], record.result["state"]) for record in done] == [(idle, "expired")]
            assert await _pending(etcd, keys) == [begun]


async def test_pending_actions_are_lost_in_a_restored_store(etcd_one: EtcdCluster, keys: Keys) -> None:
    """In a new epoch every pending action is closed as lost before any view is written."""
    async with session(etcd_one) as etcd:
        await configure(etcd, keys)
        async with run_leader(etcd, etcd, keys) as term:
            index = await _act(term)
        await etcd.delete(keys.leader)
        await etcd.put(keys.epoch, Epoch(epoch=2).encode())
        async with run_leader(etcd, etcd, keys, "m2") as term:
            assert await _pending(etcd, keys) == []
            assert not term.replica.state.actions
        done = [record for record in await _entries(etcd, keys) if record.name == "action.done"]
        assert [(record.args["index"], record.result["state"]) for record in done] == [(index, "lost")]


async def test_every_record_names_the_configuration_in_force(etcd_one: EtcdCluster, keys: Keys) -> None:
    """Each record has the version of the configuration in force; the record of an adoption has the new version."""
    async with session(etcd_one) as etcd:
        await configure(etcd, keys, version=3)
        async with run_leader(etcd, etcd, keys) as term:
            await term.add("a1")
        found = [(record.name, record.config_version) for record in await _entries(etcd, keys)]
        assert found == [("config.adopt", 3), ("add", 3)]


async def test_an_exception_of_a_handler_is_returned_to_its_caller(etcd_one: EtcdCluster, keys: Keys) -> None:
    """The caller's error names the command and the exception, and the next command is run."""
    async with session(etcd_one) as etcd:
        await configure(etcd, keys)
        async with run_leader(etcd, etcd, keys) as term:
            outcome = (await term.submit(CommandRequest("f", "fail", {}, "t", 0)))[0]
            assert isinstance(outcome.error, NodectlError)
            assert "command fail failed in the application: ZeroDivisionError('as asked')" in str(outcome.error)
            assert (await term.add("a1")).result == 1
