"""Corners of a leader at work: what always waits, what is refused or told again, and handovers that overlap."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from masterd.application.contract import Command, Transaction
from masterd.election.timeline import Timeline
from masterd.replication.cluster_view import ClusterView
from masterd.replication.replica import Replica
from masterd.state_machine.actions import ACTION_DONE, NODE_ACT
from masterd.state_machine.batch import CommandRequest
from masterd.term.leader import Leader, LeaderSettings
from masterd.term.submissions import Submission, SubmissionGroup
from nodestore.errors import LeadershipLost
from nodestore.etcd.session import Etcd
from nodestore.schema.keys import Keys
from nodestore.schema.models import Acted, ActionResult, CommandRecord, Entry, decode
from nodestore.support.jsonio import Json
from tests.faults.late.transactions import RunningLeader, configure, run_leader, session, take_over
from tests.support.etcd_cluster import EtcdCluster
from tests.support.toy_app import Put, ToyApp
from tests.support.waiting import eventually

_QUICK = LeaderSettings(handler_timeout_s=0.3)


class Rough(ToyApp):
    """It blocks until it is released, or quits."""

    def __init__(self) -> None:
        super().__init__()
        self.release = threading.Event()

    def commands(self) -> Mapping[str, Command]:
        return {**super().commands(), "block": Command(Put, self._block), "quit": Command(Put, self._quit)}

    def _block(self, _: Transaction, __: Put) -> Json:
        return self.release.wait(60)

    def _quit(self, _: Transaction, __: Put) -> Json:
        raise SystemExit("as asked")


@asynccontextmanager
async def _watching(seat: RunningLeader) -> AsyncIterator[None]:
    watching = asyncio.create_task(seat.board.watch())
    try:
        await eventually(lambda: seat.board.epoch is not None, "the board is read")
        yield
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def _act(seat: RunningLeader, **args: Any) -> int:
    request = CommandRequest("act", NODE_ACT, {"node": "n1", "action": "blink", **args}, "ann", 0)
    outcome = (await seat.submit(request))[0]
    assert outcome.error is None, outcome.error
    return outcome.index


async def _told(etcd: Etcd, keys: Keys, index: int, result: Json) -> None:
    """The node writes that it has done it."""
    done = ActionResult(index=index, name="blink", state="done", result=result, nonce="noded")
    await etcd.put(keys.acted_of("n1"), Acted(node="n1", epoch=1, floor=index, results=(done,)).encode())


async def _endings(etcd: Etcd, keys: Keys) -> list[CommandRecord]:
    found = (await etcd.range(keys.journal)).kvs
    records = [record for kv in found for record in decode(Entry, kv.value, kv.key).commands]
    return [record for record in records if record.name == ACTION_DONE]


async def test_an_action_expires_while_commands_always_wait(etcd_one: EtcdCluster, keys: Keys) -> None:
    """A node that comes back must not begin it, however busy the leader is."""
    async with session(etcd_one) as etcd:
        await configure(etcd, keys)
        async with run_leader(etcd, etcd, keys) as seat:
            leader, original, number = seat.leader, seat.leader._commit_batch, 0

            async def never_idle() -> None:
                nonlocal number
                await original()
                number += 1
                filler = CommandRequest(f"filler-{number}", "put", {"path": "filler"}, "t", 0)
                leader._queue.append(Submission(filler, SubmissionGroup(1)))

            leader._commit_batch = never_idle  # type: ignore[method-assign]
            await _act(seat, expires_s=0.1)
            await eventually(lambda: not seat.replica.state.actions, "the action has expired")
            (ending,) = await _endings(etcd, keys)
            assert ending.result == {"state": "expired", "result": None, "error": "the node did not begin it in time"}


async def test_what_the_journal_does_not_take_is_left_out_of_an_ending(etcd_one: EtcdCluster, keys: Keys) -> None:
    """Else the action would pend for ever, and be closed in vain as fast as the leader can."""
    nested: Json = None
    for _ in range(100):
        nested = [nested]
    async with session(etcd_one) as etcd:
        await configure(etcd, keys)
        async with run_leader(etcd, etcd, keys) as seat, _watching(seat):
            index = await _act(seat)
            await _told(etcd, keys, index, nested)
            await eventually(lambda: not seat.replica.state.actions, "the action is closed")
            (ending,) = await _endings(etcd, keys)
            assert isinstance(ending.result, dict)
            assert ending.result["state"] == "done"
            assert list(ending.result["result"]) == ["omitted"]


async def test_an_ending_waits_once_however_long_something_else_goes_first(etcd_one: EtcdCluster, keys: Keys) -> None:
    """A configuration that cannot be adopted just now, say: the queue must not grow meanwhile."""
    async with session(etcd_one) as etcd:
        await configure(etcd, keys)
        async with run_leader(etcd, etcd, keys) as seat, _watching(seat):
            adoption, tries, due = seat.leader._config_adopter, 0, seat.leader._config_adopter.is_due

            async def in_vain(_: Any) -> None:
                nonlocal tries
                tries += 1
                await asyncio.sleep(0)

            index = await _act(seat)
            adopt = adoption.adopt
            adoption.is_due, adoption.adopt = lambda config: True, in_vain  # type: ignore[assignment, method-assign]
            await _told(etcd, keys, index, None)
            await eventually(lambda: bool(seat.leader._queue), "its end waits")
            before = tries
            await eventually(lambda: tries > before + 20, "something else goes first, again and again")
            assert len(seat.leader._queue) == 1
            adoption.is_due, adoption.adopt = due, adopt  # type: ignore[method-assign]
            await eventually(lambda: not seat.replica.state.actions, "the action is closed")
            assert len(await _endings(etcd, keys)) == 1


async def test_a_handler_that_quits_is_refused(etcd_one: EtcdCluster, keys: Keys) -> None:
    """It ends neither the term nor masterd: repeated on the next leader it would end that too."""
    async with session(etcd_one) as etcd:
        await configure(etcd, keys)
        async with run_leader(etcd, etcd, keys, application=Rough()) as seat:
            outcome = (await seat.submit(CommandRequest("q", "quit", {}, "t", 0)))[0]
            assert str(outcome.error) == "command quit failed in the application: SystemExit('as asked')"
            assert (await seat.add("x1")).result == 1


async def test_a_repeat_gets_its_result_though_handlers_of_its_name_hang(etcd_one: EtcdCluster, keys: Keys) -> None:
    """That it was not run would be untrue."""
    async with session(etcd_one) as etcd:
        await configure(etcd, keys)
        app = Rough()
        async with run_leader(etcd, etcd, keys, application=app, settings=_QUICK) as seat:
            app.release.set()
            first = (await seat.submit(CommandRequest("b", "block", {}, "t", 0)))[0]
            app.release.clear()
            for number in range(4):
                await seat.submit(CommandRequest(f"b{number}", "block", {}, "t", 0))
            again, other = await seat.submit(
                CommandRequest("b", "block", {}, "t", 0), CommandRequest("c", "block", {}, "t", 0)
            )
            assert (again.index, again.result, again.repeated) == (first.index, True, True)
            assert "was not run" in str(other.error)
            app.release.set()
            await eventually(lambda: seat.leader._committer.worker.hung_count == 0, "they have returned")


async def test_who_waits_for_what_hung_is_answered_when_the_master_is_stopped(
    etcd_one: EtcdCluster, keys: Keys
) -> None:
    """Though its refusal was not confirmed."""
    async with session(etcd_one) as etcd:
        await configure(etcd, keys)
        app, asked = Rough(), asyncio.Event()
        async with run_leader(etcd, etcd, keys, application=app, settings=_QUICK) as seat:

            async def unanswered() -> int:
                asked.set()
                await asyncio.Event().wait()
                return 0

            seat.leader._read_index.confirm = unanswered  # type: ignore[method-assign]
            waiting = asyncio.create_task(seat.submit(CommandRequest("b", "block", {}, "t", 0)))
            await asyncio.wait_for(asked.wait(), 30.0)
            seat.running.cancel()
            outcome = (await asyncio.wait_for(waiting, 30.0))[0]
            assert outcome.error is not None
            assert outcome.error.code == "leadership_lost"
            app.release.set()


async def test_a_handover_that_fails_does_not_open_what_another_keeps_closed(etcd_one: EtcdCluster, keys: Keys) -> None:
    """Two were asked for at once: commands wait until neither is under way."""
    async with session(etcd_one) as etcd, run_leader(etcd, etcd, keys) as seat:
        seat.leader.close_for_handover()
        seat.leader.close_for_handover()
        seat.leader.reopen()
        waiting = asyncio.create_task(seat.add("x1"))
        await seat.leader.wait_drained()
        assert not seat.leader._accepting.is_set()
        assert not waiting.done()
        seat.leader.reopen()
        assert (await waiting).result == 1


async def test_a_term_that_ends_during_a_handover_is_not_drained_for_ever(etcd_one: EtcdCluster, keys: Keys) -> None:
    """Somebody else has taken over meanwhile: whoever waits for what was under way hears that, at once."""
    async with session(etcd_one) as etcd, run_leader(etcd, etcd, keys) as seat:
        seat.leader._idle.clear()  # as in the middle of a batch
        seat.leader.close_for_handover()
        draining = asyncio.create_task(seat.leader.wait_drained())
        await asyncio.sleep(0)
        seat.running.cancel()
        with pytest.raises(LeadershipLost):
            await asyncio.wait_for(draining, 30.0)


async def test_who_hears_that_the_term_is_over_finds_it_ended(etcd_one: EtcdCluster, keys: Keys) -> None:
    """A read and a command that learn it from etcd, before any watch says so: they go on to the next leader."""
    async with session(etcd_one) as etcd:
        for ask in ("read", "command"):
            async with run_leader(etcd, etcd, keys) as seat:
                await take_over(etcd, keys, f"m-{ask}")
                if ask == "read":
                    with pytest.raises(LeadershipLost):
                        await seat.leader.confirm_read()
                else:
                    outcome = (await seat.submit(CommandRequest("x", "add", {"to": "x"}, "t", 0)))[0]
                    assert isinstance(outcome.error, LeadershipLost)
                assert seat.leader.has_ended


async def test_a_read_before_it_serves_is_answered_but_is_not_its_first_answer(
    etcd_one: EtcdCluster, keys: Keys
) -> None:
    """The history of a takeover tells its steps in the order in which they depend on each other."""
    async with session(etcd_one) as etcd:
        won = await take_over(etcd, keys, "m1")
        replica, board, timeline = Replica(etcd, keys), ClusterView(etcd, keys), Timeline()
        await replica.apply_takeover(won)
        leader = Leader(
            etcd, keys, master="m1", won=won, replica=replica, cluster_view=board, application=ToyApp(),
            settings=LeaderSettings(), timeline=timeline,
        )  # fmt: skip
        await leader.confirm_read()
        assert list(timeline.marks) == []
        running = asyncio.create_task(leader.run())
        try:
            await eventually(leader.serving.is_set, "it serves")
            await eventually(lambda: list(timeline.marks) == ["serving", "found"], "that is told")
            await leader.confirm_read()
            assert list(timeline.phases()) == ["serving", "found", "first_answer"]
        finally:
            running.cancel()
            await asyncio.wait([running])
