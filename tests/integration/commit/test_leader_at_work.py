"""A leader at work: actions that expire or end, hanging handlers, overlapping handovers, and the end of its term."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from masterd.application.contract import Command, Transaction
from masterd.election.timeline import Timeline
from masterd.replication.cluster_view import ClusterView
from masterd.replication.replica import Replica
from masterd.state_machine.actions import ACTION_DONE, NODE_ACT
from masterd.state_machine.batch import CommandOutcome, CommandRequest
from masterd.term import config_adoption
from masterd.term.command_queue import CommandQueue
from masterd.term.leader import Leader, LeaderSettings
from masterd.term.parts import build_term_parts
from masterd.term.submissions import Submission
from nodestore.errors import LeadershipLost, NoSpace
from nodestore.etcd.session import Compare, Etcd, EtcdSettings, Op, TxnResult
from nodestore.schema.keys import Keys
from nodestore.schema.models import Acted, ActionResult, CommandRecord, Entry, decode
from nodestore.support.jsonio import Json
from tests.faults.late.transactions import (
    RunningLeader,
    configure,
    run_leader,
    session,
    stage,
    take_over,
    watch_cluster,
)
from tests.faults.network.proxy import Mode
from tests.support.etcd_cluster import EtcdCluster
from tests.support.toy_app import Put, ToyApp
from tests.support.waiting import eventually

_SHORT_LIMIT = LeaderSettings(handler_timeout_s=0.3)
_LONG_LIMIT = LeaderSettings(handler_timeout_s=60.0)


class BlockingApp(ToyApp):
    """Its command `block` blocks until `release` is set, and its command `quit` raises SystemExit."""

    def __init__(self) -> None:
        super().__init__()
        self.blocking = threading.Event()
        """Set once a handler has begun to block."""
        self.release = threading.Event()

    def commands(self) -> Mapping[str, Command]:
        return {**super().commands(), "block": Command(Put, self._block), "quit": Command(Put, self._quit)}

    def _block(self, _: Transaction, __: Put) -> Json:
        self.blocking.set()
        return self.release.wait(60)

    def _quit(self, _: Transaction, __: Put) -> Json:
        raise SystemExit("as asked")


def _block(command_id: str) -> CommandRequest:
    return CommandRequest(command_id, "block", {}, "t", 0)


async def _act(term: RunningLeader, **args: Any) -> int:
    request = CommandRequest("act", NODE_ACT, {"node": "n1", "action": "blink", **args}, "ann", 0)
    outcome = (await term.submit(request))[0]
    assert outcome.error is None, outcome.error
    return outcome.index


async def _report_done(etcd: Etcd, keys: Keys, index: int, result: Json) -> None:
    """Write what a node writes after it has performed the action of this index."""
    done = ActionResult(index=index, name="blink", state="done", result=result, nonce="noded")
    await etcd.put(keys.acted_of("n1"), Acted(node="n1", epoch=1, floor=index, results=(done,)).encode())


async def _closings(etcd: Etcd, keys: Keys) -> list[CommandRecord]:
    """The journal's commands that close an action."""
    entries = (await etcd.range(keys.journal)).kvs
    records = [record for kv in entries for record in decode(Entry, kv.value, kv.key).commands]
    return [record for record in records if record.name == ACTION_DONE]


class Refill:
    """Keeps a command in the queue until the term ends: each outcome submits the next one."""

    def __init__(self, queue: CommandQueue) -> None:
        self._queue, self._numbers = queue, itertools.count()

    def accept(self, position: int, outcome: CommandOutcome | None) -> None:
        del position
        if outcome is not None and isinstance(outcome.error, LeadershipLost):
            return
        request = CommandRequest(f"filler-{next(self._numbers)}", "put", {"path": "filler"}, "t", 0)
        self._queue.append([Submission(request, self)])


async def test_an_action_expires_while_commands_always_wait(etcd_one: EtcdCluster, keys: Keys) -> None:
    """A node that comes back must not begin an expired action, however busy the leader is."""
    async with session(etcd_one) as etcd:
        await configure(etcd, keys)
        async with run_leader(etcd, etcd, keys) as term:
            Refill(term.parts.queue).accept(0, None)
            await _act(term, expires_s=0.1)
            await eventually(lambda: not term.replica.state.actions, "the action has expired")
            (closing,) = await _closings(etcd, keys)
            assert closing.result == {"state": "expired", "result": None, "error": "the node did not begin it in time"}


async def test_a_result_that_the_journal_refuses_is_omitted(etcd_one: EtcdCluster, keys: Keys) -> None:
    """Otherwise the action would stay pending, and the leader would try to close it again and again."""
    nested: Json = None
    for _ in range(100):
        nested = [nested]
    async with session(etcd_one) as etcd:
        await configure(etcd, keys)
        async with run_leader(etcd, etcd, keys) as term, watch_cluster(term):
            index = await _act(term)
            await _report_done(etcd, keys, index, nested)
            await eventually(lambda: not term.replica.state.actions, "the action is closed")
            (closing,) = await _closings(etcd, keys)
            assert isinstance(closing.result, dict)
            assert closing.result["state"] == "done"
            assert list(closing.result["result"]) == ["omitted"]


class RefusesAdoptions(Etcd):
    """Refuses transactions that compare `config/current`, while `refusing`, and counts them."""

    def __init__(self, settings: EtcdSettings, keys: Keys) -> None:
        super().__init__(settings)
        self._config_key = keys.config_current.encode()
        self.refusing = False
        self.refused = 0

    async def txn(
        self, compares: Sequence[Compare], then: Sequence[Op] = (), orelse: Sequence[Op] = (), **options: Any
    ) -> TxnResult:
        if self.refusing and any(compare.key == self._config_key for compare in compares):
            self.refused += 1
            raise NoSpace("refused by the test")
        return await super().txn(compares, then, orelse, **options)


async def test_a_closing_is_queued_once_however_long_an_adoption_goes_first(
    etcd_one: EtcdCluster, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a configuration cannot be adopted, the queue must not grow."""
    monkeypatch.setattr(config_adoption, "_RETRY_S", 0.0)
    async with (
        session(etcd_one) as etcd,
        RefusesAdoptions(EtcdSettings(endpoints=etcd_one.endpoints), keys) as refusing,
    ):
        await configure(etcd, keys)
        async with run_leader(refusing, etcd, keys) as term, watch_cluster(term):
            index = await _act(term)
            refusing.refusing = True
            await configure(etcd, keys, version=2)
            await eventually(lambda: refusing.refused > 0, "the adoption is refused")
            await _report_done(etcd, keys, index, None)
            await eventually(lambda: len(term.parts.queue) > 0, "the closing is queued")
            before = refusing.refused
            await eventually(lambda: refusing.refused > before + 20, "the adoption goes first again and again")
            assert len(term.parts.queue) == 1
            refusing.refusing = False
            await eventually(lambda: not term.replica.state.actions, "the action is closed")
            assert len(await _closings(etcd, keys)) == 1


async def test_a_handler_that_quits_is_refused(etcd_one: EtcdCluster, keys: Keys) -> None:
    """It ends neither the term nor masterd: the client would repeat it, and end the next leader too."""
    async with session(etcd_one) as etcd:
        await configure(etcd, keys)
        async with run_leader(etcd, etcd, keys, application=BlockingApp()) as term:
            outcome = (await term.submit(CommandRequest("q", "quit", {}, "t", 0)))[0]
            assert str(outcome.error) == "command quit failed in the application: SystemExit('as asked')"
            assert (await term.add("x1")).result == 1


async def test_a_repeat_gets_its_result_though_handlers_of_its_name_hang(etcd_one: EtcdCluster, keys: Keys) -> None:
    """It was run, so the refusal "was not run" would be wrong."""
    async with session(etcd_one) as etcd:
        await configure(etcd, keys)
        app = BlockingApp()
        async with run_leader(etcd, etcd, keys, application=app, settings=_SHORT_LIMIT) as term:
            app.release.set()
            first = (await term.submit(_block("b")))[0]
            app.release.clear()
            for number in range(4):
                await term.submit(_block(f"b{number}"))
            again, other = await term.submit(_block("b"), _block("c"))
            assert (again.index, again.result, again.repeated) == (first.index, True, True)
            assert "was not run" in str(other.error)
            app.release.set()
            await eventually(lambda: term.parts.committer.worker.hung_count == 0, "the handlers have returned")


async def test_a_hanging_command_is_answered_when_the_master_stops_before_the_refusal_is_confirmed(
    etcd_one: EtcdCluster, keys: Keys
) -> None:
    """Its caller gets LeadershipLost, and can send it to another leader."""
    app = BlockingApp()
    async with stage(etcd_one, keys, repeats_arrive=False) as s:
        await configure(s.witness, keys)
        async with run_leader(s.late, s.witness, keys, application=app, settings=_SHORT_LIMIT) as term:
            submitting = asyncio.create_task(term.submit(_block("b")))
            await eventually(app.blocking.is_set, "the handler blocks")
            s.proxy.set(up=Mode.HOLD)
            await eventually(lambda: term.parts.read_index.open_since is not None, "the refusal is being confirmed")
            term.running.cancel()
            outcome = (await asyncio.wait_for(submitting, 30.0))[0]
            assert outcome.error is not None
            assert outcome.error.code == "leadership_lost"
            app.release.set()
        s.proxy.forward()


async def test_a_failed_handover_does_not_accept_commands_that_another_holds_back(
    etcd_one: EtcdCluster, keys: Keys
) -> None:
    """Of two handovers at once both must have failed before commands are accepted again."""
    async with session(etcd_one) as etcd, run_leader(etcd, etcd, keys) as term:
        term.leader.close_for_handover()
        term.leader.close_for_handover()
        term.leader.reopen()
        adding = asyncio.create_task(term.add("x1"))
        await term.leader.wait_drained()
        assert not term.parts.queue.is_accepting
        assert not adding.done()
        term.leader.reopen()
        assert (await adding).result == 1


async def test_draining_ends_with_the_term(etcd_one: EtcdCluster, keys: Keys) -> None:
    """If the term ends during a handover, within a batch, the wait for that batch raises an error."""
    app = BlockingApp()
    async with (
        session(etcd_one) as etcd,
        run_leader(etcd, etcd, keys, application=app, settings=_LONG_LIMIT) as term,
    ):
        submitting = asyncio.create_task(term.submit(_block("b")))
        await eventually(app.blocking.is_set, "a batch is running")
        term.leader.close_for_handover()
        draining = asyncio.create_task(term.leader.wait_drained())
        await asyncio.sleep(0)
        term.running.cancel()
        with pytest.raises(LeadershipLost):
            await asyncio.wait_for(draining, 30.0)
        assert isinstance((await submitting)[0].error, LeadershipLost)
        app.release.set()


@pytest.mark.parametrize("call", ["read", "command"])
async def test_a_caller_that_gets_leadership_lost_finds_the_term_ended(
    etcd_one: EtcdCluster, keys: Keys, call: str
) -> None:
    """A call that learns of the end from etcd, before any watch shows it, is routed to the next leader."""
    async with session(etcd_one) as etcd, run_leader(etcd, etcd, keys) as term:
        await take_over(etcd, keys, "m2")
        if call == "read":
            with pytest.raises(LeadershipLost):
                await term.leader.confirm_read()
        else:
            outcome = (await term.submit(CommandRequest("x", "add", {"to": "x"}, "t", 0)))[0]
            assert isinstance(outcome.error, LeadershipLost)
        assert term.leader.has_ended


async def test_a_read_before_the_leader_serves_is_answered_but_is_not_its_first_answer(
    etcd_one: EtcdCluster, keys: Keys
) -> None:
    """The timeline of a takeover lists its phases in the order in which they depend on each other."""
    async with session(etcd_one) as etcd:
        won = await take_over(etcd, keys, "m1")
        replica, timeline = Replica(etcd, keys), Timeline()
        await replica.apply_takeover(won)
        leader = Leader(build_term_parts(
            etcd, keys, master="m1", won=won, replica=replica, cluster_view=ClusterView(etcd, keys),
            application=ToyApp(), settings=LeaderSettings(), timeline=timeline,
        ))  # fmt: skip
        await leader.confirm_read()
        assert list(timeline.marks) == []
        running = asyncio.create_task(leader.run())
        try:
            await eventually(leader.serving.is_set, "the leader serves")
            await eventually(lambda: list(timeline.marks) == ["serving", "found"], "both phases are recorded")
            await leader.confirm_read()
            assert list(timeline.phases()) == ["serving", "found", "first_answer"]
        finally:
            running.cancel()
            await asyncio.wait([running])
