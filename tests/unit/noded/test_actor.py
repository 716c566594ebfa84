"""One-shot actions between noded and etcd: processes that die between any two steps, and writes that arrive late."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from noded.actions import actor as actor_module
from noded.actions.decide import LOST, ActionKeys, ActionMemory, ActionOutcome, Wait, Write, Writer, decide
from nodestore.schema.models import Acted, ActionResult, Desired, Epoch, Spec
from tests.support.fakes.noded_store import ACTED, ACTIONS, ALIVE, KEYS, NODE, Doer, Fault, Noded, action, store
from tests.support.waiting import eventually


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses after a failure are of no interest here."""
    monkeypatch.setattr(actor_module, "RETRY_FIRST_S", 0.001)
    monkeypatch.setattr(actor_module, "RETRY_MAX_S", 0.002)


class Rig:
    """A store, and the noded that live on it."""

    def __init__(self) -> None:
        self.store = store()
        self.doer = Doer()
        self.started: list[Noded] = []

    def start(self, **options: Any) -> Noded:
        self.started.append(Noded(self.store, f"nonce{len(self.started) + 1}", self.doer, **options))
        return self.started[-1]

    def wake(self) -> None:
        for noded in self.started:
            noded.actor.wake()

    async def reaches(self, index: int, state: str) -> ActionResult | None:
        await eventually(lambda: self.store.state(index) == state, f"action {index} to be {state}: {self.store.acted}")
        return self.store.result(index)

    async def idle(self) -> None:
        """Wait until the actors have read the view again and have nothing left to do."""
        reads = self.store.reads
        self.wake()
        await eventually(lambda: self.store.reads > reads and not self.doer.busy, "the actor to look")
        for _ in range(20):
            await asyncio.sleep(0)


@asynccontextmanager
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    try:
        yield made
    finally:
        for noded in made.started:
            await noded.kill()


# --- as it should be -------------------------------------------------------------------------------------------------


async def test_an_action_is_done_once_told_and_forgotten() -> None:
    """Marked before it begins, its result stays until the view has it no more, and the floor stays for good."""
    async with rig() as at:
        at.store.ask(action(7))
        at.doer.hold = asyncio.Event()
        at.start()
        begun = await at.reaches(7, "started")
        assert begun is not None
        assert (begun.nonce, begun.boot, begun.ended) == ("nonce1", "b1", None)
        at.doer.hold.set()
        ended = await at.reaches(7, "done")
        assert ended is not None
        assert (ended.result, ended.nonce, ended.started) == ({"n": 1}, "nonce1", begun.started)
        assert ended.ended is not None
        at.store.close(7)
        at.wake()
        await at.reaches(7, "absent")
        assert (at.store.acted.floor, at.doer.done) == (7, [7])


async def test_in_the_order_of_their_indexes() -> None:
    """Whatever order the view lists them in; one after another."""
    async with rig() as at:
        at.store.ask(action(9), action(7), action(8))
        at.start()
        await at.reaches(9, "done")
        assert at.doer.done == [7, 8, 9]


async def test_nothing_begins_without_a_claim() -> None:
    """Nor with one that etcd does not have any more."""
    async with rig() as at:
        noded = at.start()
        noded.claim_revision = None
        at.store.ask(action(7))
        at.wake()
        await asyncio.sleep(0.02)  # time in which it must *not* act
        noded.take()
        at.store.put(ALIVE, b"somebody else's")
        await at.idle()
        assert at.doer.done == []
        noded.take()
        at.wake()
        await at.reaches(7, "done")


async def test_an_action_waits_until_the_desired_state_has_been_dealt_with() -> None:
    """What was desired when the action was asked for comes first, and the doer is asked by the very value."""
    async with rig() as at:
        desired = Desired(epoch=1, term=5, generation=7, spec=Spec(driver="fake"))
        at.store.put(KEYS.desired_of(NODE), desired)
        at.store.ask(action(7))
        at.doer.at_rest = False
        at.start()
        await at.idle()
        assert (at.doer.done, at.doer.seen_desired) == ([], desired.encode())
        at.doer.at_rest = True
        at.wake()
        await at.reaches(7, "done")


async def test_an_action_that_waits_for_the_agent_is_read_again_when_it_has_reconciled() -> None:
    """And without one, the agent's work costs no read of etcd."""
    async with rig() as at:
        noded = at.start()
        await at.idle()
        reads = at.store.reads
        for _ in range(3):
            noded.actor.on_reconciled()
            await asyncio.sleep(0.001)
        assert at.store.reads == reads
        at.store.ask(action(7))
        at.doer.at_rest = False
        await at.idle()
        assert at.doer.done == []
        at.doer.at_rest = True
        noded.actor.on_reconciled()
        await at.reaches(7, "done")


async def test_the_agent_reconciles_while_the_actor_reads() -> None:
    """The read may show an older desired state, for which the agent reports no more: the keys are read again."""
    async with rig() as at:
        noded = at.start()
        await at.idle()
        reads = at.store.reads
        at.wake()
        await asyncio.sleep(0)  # the loop wakes, and its read begins
        assert at.store.reads == reads
        noded.actor.on_reconciled()
        await eventually(lambda: at.store.reads == reads + 2, "another read")


async def test_what_fails_is_told_as_it_is() -> None:
    """The error, and the result that came with it."""
    async with rig() as at:
        at.doer.outcome = ActionOutcome("failed", {"exit_code": 3}, "no lamp")
        at.store.ask(action(7))
        at.start()
        found = await at.reaches(7, "failed")
        assert found is not None
        assert (found.error, found.result) == ("no lamp", {"exit_code": 3})


# --- kills at each step ----------------------------------------------------------------------------------------------


async def test_killed_before_the_mark_the_next_begins_it() -> None:
    """Without the start record the action has not begun, so the next noded begins it."""
    async with rig() as at:
        at.store.ask(action(7))
        at.store.faults = ["refused"] * 1000
        first = at.start()
        await eventually(lambda: at.store.writes > 0)
        await first.kill()
        at.store.faults = []
        at.start()
        await at.reaches(7, "done")
        assert at.doer.done == [7]


async def test_killed_while_it_runs_it_is_lost() -> None:
    """The next noded reports it as lost and does not run it again. Later actions are run."""
    async with rig() as at:
        at.store.ask(action(7), action(8))
        at.doer.hold = asyncio.Event()
        first = at.start()
        await at.reaches(7, "started")
        await first.kill()
        at.doer.hold.set()
        at.start()
        found = await at.reaches(7, "lost")
        assert found is not None
        assert (found.error, found.nonce) == (LOST, "nonce1")
        await at.reaches(8, "done")
        assert at.doer.done == [7, 8]


async def test_a_mark_that_lands_after_its_writer_died_is_lost() -> None:
    """A late start record fails if the claim that it compares is gone.

    If the claim still exists, the next noded finds the start record.
    """
    async with rig() as at:
        at.store.ask(action(7))
        at.store.faults = ["late", *["refused"] * 1000]
        first = at.start()
        await eventually(lambda: at.store.writes > 0)
        await first.kill()
        assert at.store.land() == [True]
        at.store.faults = []
        at.start()
        await at.reaches(7, "lost")
        assert at.doer.done == []


async def test_a_start_record_that_lands_after_another_has_the_node_does_not() -> None:
    """Its compare of the claim fails."""
    async with rig() as at:
        at.store.ask(action(7))
        at.store.faults = ["late", *["refused"] * 1000]
        first = at.start()
        await eventually(lambda: at.store.writes > 0)
        await first.kill()
        at.store.faults = []
        at.start(host="other")
        assert at.store.land() == [False]
        await at.reaches(7, "done")
        assert at.doer.done == [7]


async def test_asked_to_stop_it_says_that_it_was_cut_short() -> None:
    """SIGTERM while it runs: the result is known, and written."""
    async with rig() as at:
        at.store.ask(action(7))
        at.doer.hold = asyncio.Event()
        first = at.start()
        await at.reaches(7, "started")
        await first.stop()
        assert at.store.state(7) == "failed"
        assert "asked to stop" in str(at.store.acted.results[0].error)
        at.start()
        await at.idle()
        assert at.doer.done == [7]


async def test_asked_to_stop_after_another_has_the_node_it_writes_nothing() -> None:
    """Its result does not land over theirs."""
    async with rig() as at:
        at.store.ask(action(7))
        at.doer.hold = asyncio.Event()
        first = at.start()
        await at.reaches(7, "started")
        at.start(host="other")
        await at.reaches(7, "lost")
        await first.stop()
        assert at.store.state(7) == "lost"


async def test_asked_to_stop_while_another_comes_it_writes_nothing() -> None:
    """It writes nothing, even if the other noded has not read the key yet."""
    async with rig() as at:
        at.store.ask(action(7))
        at.doer.hold = asyncio.Event()
        first = at.start()
        await at.reaches(7, "started")
        at.store.put(ALIVE, b"somebody else's")
        await first.stop()
        assert at.store.state(7) == "started"


# --- answers that are lost or late -----------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["lost", "refused"])
async def test_a_mark_without_an_answer(fault: str) -> None:
    """Landed or not, it is begun once."""
    async with rig() as at:
        at.store.ask(action(7))
        at.store.faults = [fault]
        at.start()
        await at.reaches(7, "done")
        assert at.doer.done == [7]


async def test_a_mark_that_lands_before_its_repeat() -> None:
    """The repeat fails its compare. The next read shows that the start record is ours, and the action is begun once."""
    async with rig() as at:
        at.store.ask(action(7))
        at.store.faults = ["late", at.store.land]
        at.start()
        await at.reaches(7, "done")
        assert at.doer.done == [7]


async def test_a_start_record_that_lands_after_its_repeat_does_not() -> None:
    """Nor later: `acted` is another one for good."""
    async with rig() as at:
        at.store.ask(action(7))
        at.store.faults = ["late"]
        at.start()
        await at.reaches(7, "done")
        assert at.store.land() == [False]
        assert at.doer.done == [7]


@pytest.mark.parametrize("fault", ["lost", "refused", "late"])
async def test_a_result_without_an_answer(fault: str) -> None:
    """It is written again until it is there; a late copy changes nothing."""
    async with rig() as at:
        at.store.ask(action(7))
        at.store.faults = [None, fault]
        at.start()
        await at.reaches(7, "done")
        assert at.store.land() in ([], [False])
        assert at.doer.done == [7]


async def test_etcd_away_while_it_runs() -> None:
    """The result is kept until it can be written, however long that takes."""
    async with rig() as at:
        at.store.ask(action(7))
        at.doer.hold = asyncio.Event()
        noded = at.start()
        await at.reaches(7, "started")
        at.store.away = True
        noded.claim_revision = None
        at.doer.hold.set()
        await eventually(lambda: not at.doer.busy)
        at.store.away = False
        noded.take()
        at.wake()
        await at.reaches(7, "done")
        assert at.doer.done == [7]


# --- concurrent leader writes ----------------------------------------------------------------------------------------


async def test_expired_just_before_the_start_record() -> None:
    """The view has changed: the start record does not land, and it is not begun."""
    async with rig() as at:
        at.store.ask(action(7))
        at.store.faults = [lambda: at.store.close(7)]
        at.start()
        await eventually(lambda: at.store.writes == 1)
        await at.idle()
        assert at.doer.done == []
        assert at.store.acted == Acted(node=NODE, epoch=1)


async def test_the_view_grows_just_before_the_mark() -> None:
    """The view is read again, and both actions are run."""
    async with rig() as at:
        at.store.ask(action(7))
        at.store.faults = [lambda: at.store.ask(action(7), action(8))]
        at.start()
        await at.reaches(8, "done")
        assert at.doer.done == [7, 8]


async def test_the_view_shrinks_while_it_runs() -> None:
    """The leader does not need the result any more, so it is removed at once. The floor remains."""
    async with rig() as at:
        at.store.ask(action(7))
        at.doer.hold = asyncio.Event()
        at.start()
        await at.reaches(7, "started")
        at.store.close(7)
        at.doer.hold.set()
        await at.reaches(7, "absent")
        at.store.ask(action(8))
        at.wake()
        await at.reaches(8, "done")
        assert at.doer.done == [7, 8]


async def test_replaced_by_another_host_while_it_runs() -> None:
    """The other noded writes `lost`. Our write fails, and is not repeated in a loop."""
    async with rig() as at:
        at.store.ask(action(7))
        at.doer.hold = asyncio.Event()
        at.start()
        await at.reaches(7, "started")
        at.start(host="other")
        await at.reaches(7, "lost")
        at.doer.hold.set()
        await at.idle()
        assert at.store.state(7) == "lost"
        writes = at.store.writes
        await at.idle()
        assert at.store.writes == writes


# --- another incarnation of the store --------------------------------------------------------------------------------


async def test_a_restored_store_runs_nothing_old() -> None:
    """What pended in the backup is not begun, be the view still the old one or a new leader's."""
    async with rig() as at:
        at.store.put(KEYS.epoch, Epoch(epoch=2))
        at.store.ask(action(7))
        at.start()
        await at.idle()
        at.store.ask(action(7), action(9, epoch=2), epoch=2)
        at.wake()
        await at.reaches(9, "done")
        assert at.doer.done == [9]
        assert at.store.acted.epoch == 2
        assert at.store.state(7) == "absent"  # the leader writes the outcome


async def test_restored_just_before_the_start_record() -> None:
    """The epoch's revision is compared, too."""
    async with rig() as at:
        at.store.ask(action(7))
        at.store.faults = [lambda: at.store.put(KEYS.epoch, Epoch(epoch=2))]
        at.start()
        await eventually(lambda: at.store.writes == 1)
        await at.idle()
        assert at.doer.done == []


async def test_an_index_that_a_restored_store_gives_again() -> None:
    """It is another command, so it is done, by the same noded too; the floor of the backup holds."""
    async with rig() as at:
        at.store.ask(action(7))
        at.start()
        await at.reaches(7, "done")
        at.store.put(ACTED, Acted(node=NODE, epoch=1, floor=5))
        at.store.put(KEYS.epoch, Epoch(epoch=2))
        at.store.ask(action(5, epoch=2), action(7, epoch=2), epoch=2)
        at.wake()
        await eventually(lambda: at.doer.done == [7, 7] and at.store.state(7) == "done")
        assert at.store.state(5) == "lost"
        assert at.store.acted.epoch == 2


async def test_results_of_another_incarnation_are_dropped() -> None:
    """They are not taken for those of a command that has the same index now."""
    async with rig() as at:
        old = ActionResult(index=7, name="blink", state="done", nonce="old")
        at.store.put(ACTED, Acted(node=NODE, epoch=1, floor=7, results=(old,)))
        at.store.put(KEYS.epoch, Epoch(epoch=2))
        at.store.ask(action(7, epoch=2), epoch=2)
        at.start()
        await at.reaches(7, "lost")
        assert at.doer.done == []


async def test_an_action_that_a_restored_store_no_longer_knows() -> None:
    """The action ends in another epoch than it began in: its result is not written."""
    async with rig() as at:
        at.store.ask(action(7))
        at.doer.hold = asyncio.Event()
        at.start()
        await at.reaches(7, "started")
        at.store.put(KEYS.epoch, Epoch(epoch=2))
        at.store.put(ACTED, Acted(node=NODE, epoch=1, floor=5))
        at.store.ask(action(7, epoch=2, name="other"), epoch=2)
        at.doer.hold.set()
        await eventually(lambda: at.store.state(7) == "done" and at.store.acted.epoch == 2)
        assert at.doer.done == [7, 7]


async def test_without_an_epoch_nothing_begins(caplog: pytest.LogCaptureFixture) -> None:
    """A new store, where no master has led: no complaint, and nothing is done."""
    async with rig() as at:
        at.store.delete(KEYS.epoch)
        at.store.ask(action(7))
        with caplog.at_level(logging.WARNING):
            at.start()
            await at.idle()
        assert (at.doer.done, caplog.text) == ([], "")


# --- garbage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [KEYS.epoch, ACTIONS])
async def test_garbage_is_waited_out(key: str, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is begun or removed until the key is valid again. The problem is logged once."""
    async with rig() as at:
        at.store.ask(action(7))
        at.start()
        await at.reaches(7, "done")
        good = at.store.kvs[key].value
        at.store.put(key, b"{]")
        await at.idle()
        await at.idle()
        assert at.store.state(7) == "done"
        assert caplog.text.count("starts no action") == 1
        at.store.put(key, good)
        at.store.ask(action(8))
        at.wake()
        await at.reaches(8, "done")
        assert at.doer.done == [7, 8]


async def test_a_garbage_record_runs_nothing_again() -> None:
    """What has been begun is not known: all that pends is passed over, and newer actions are done."""
    async with rig() as at:
        at.store.ask(action(7), action(8))
        at.store.put(ACTED, b"{]")
        at.start()
        await at.reaches(8, "lost")
        assert at.store.state(7) == "lost"
        assert at.store.acted.floor == 8
        at.store.ask(action(7), action(8), action(9))
        at.wake()
        await at.reaches(9, "done")
        assert at.doer.done == [9]


async def test_a_garbage_record_and_a_garbage_view() -> None:
    """The floor of the record is unknown, so the record is not changed until the view is valid."""
    async with rig() as at:
        at.store.put(ACTED, b"{]")
        at.store.put(ACTIONS, b"{]")
        at.start()
        await at.idle()
        assert at.store.writes == 0
        at.store.ask(action(7))
        at.wake()
        await at.reaches(7, "lost")


async def test_a_garbage_record_and_the_view_of_another_incarnation() -> None:
    """A leader of the current epoch must first write the pending actions."""
    async with rig() as at:
        at.store.put(ACTED, b"{]")
        at.store.put(KEYS.epoch, Epoch(epoch=2))
        at.store.ask(action(7))
        at.start()
        await at.idle()
        assert at.store.writes == 0
        at.store.ask(action(9, epoch=2), epoch=2)
        at.wake()
        await at.reaches(9, "lost")


async def test_a_garbage_record_while_the_action_runs() -> None:
    """The noded that runs it knows better."""
    async with rig() as at:
        at.store.ask(action(7))
        at.doer.hold = asyncio.Event()
        at.start()
        await at.reaches(7, "started")
        at.store.put(ACTED, b"{]")
        at.doer.hold.set()
        await eventually(lambda: at.store.kvs[ACTED].value != b"{]")
        assert (at.store.state(7), at.doer.done) == ("done", [7])


@pytest.mark.parametrize("key", [ACTED, ACTIONS])
async def test_what_a_newer_program_wrote_is_left_alone(key: str) -> None:
    """Nothing is begun, nothing is overwritten: noded must be upgraded."""
    async with rig() as at:
        at.store.ask(action(7))
        newer = b'{"v": 2, "node": "n1", "epoch": 1, "term": 5, "floor": 0}'
        at.store.put(key, newer)
        at.start()
        await at.idle()
        assert (at.store.writes, at.doer.done, at.store.kvs[key].value) == (0, [], newer)


async def test_a_deleted_record_runs_nothing_again() -> None:
    """While the noded that has begun it lives."""
    async with rig() as at:
        at.store.ask(action(6), action(7))
        at.start()
        await at.reaches(7, "done")
        at.store.delete(ACTED)
        at.wake()
        await at.reaches(7, "done")
        assert at.store.state(6) == "lost"
        assert at.doer.done == [6, 7]


async def test_a_record_of_our_own_that_we_did_not_write() -> None:
    """Our nonce under an index that we never meant: it is lost, not begun."""
    async with rig() as at:
        forged = ActionResult(index=7, name="blink", state="started", nonce="nonce1")
        at.store.ask(action(7))
        at.store.put(ACTED, Acted(node=NODE, epoch=1, floor=7, results=(forged,)))
        at.start()
        await at.reaches(7, "lost")
        assert at.doer.done == []


async def test_results_that_are_too_large_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest lose theirs; what became of each stays."""
    async with rig() as at:
        at.doer.outcome = ActionOutcome("done", "x" * 60_000)
        at.store.ask(*(action(index) for index in range(1, 21)))
        at.start()
        await at.reaches(20, "done")
        assert len(at.store.kvs[ACTED].value) <= 1 << 20
        assert {item.state for item in at.store.acted.results} == {"done"}
        assert at.store.acted.results[0].result == {"omitted": "too many results at once"}
        assert at.store.acted.results[-1].result == "x" * 60_000


# --- reboot ----------------------------------------------------------------------------------------------------------


async def test_a_reboot_is_done_when_the_pc_has_another_boot_id() -> None:
    """The next noded writes the result; SIGTERM during the reboot leaves the action open."""
    async with rig() as at:
        at.doer.outcome = None
        at.store.ask(action(7, "reboot"), action(8))
        first = at.start()
        await at.reaches(7, "started")
        await eventually(lambda: not at.doer.busy)
        await first.stop()
        assert at.store.state(7) == "started"
        at.doer.outcome = ActionOutcome("done")
        at.start(boot="b2")
        found = await at.reaches(7, "done")
        assert found is not None
        assert found.error is None
        await at.reaches(8, "done")
        assert at.doer.done == [7, 8]


async def test_a_reboot_is_lost_when_only_noded_restarted() -> None:
    """With the same boot id it is unknown whether the PC will still reboot."""
    async with rig() as at:
        at.doer.outcome = None
        at.store.ask(action(7, "reboot"))
        first = at.start()
        await at.reaches(7, "started")
        await first.kill()
        at.start()
        await at.reaches(7, "lost")


async def test_a_reboot_cut_short_by_the_reboot() -> None:
    """SIGTERM comes before the command has ended: left open for the next noded."""
    async with rig() as at:
        at.doer.hold = asyncio.Event()
        at.store.ask(action(7, "reboot"))
        first = at.start()
        await at.reaches(7, "started")
        await eventually(lambda: at.doer.busy)
        await first.stop()
        assert at.store.state(7) == "started"
        at.start(boot="b2")
        await at.reaches(7, "done")


async def test_a_reboot_that_does_not_come() -> None:
    """The command succeeded and the PC stays up: failed, in time, and the next action is done."""
    async with rig() as at:
        at.doer.outcome = None
        at.store.ask(action(7, "reboot"))
        at.start(reboot_wait_s=0.02)
        found = await at.reaches(7, "failed")
        assert found is not None
        assert "did not go down" in str(found.error)
        at.doer.outcome = ActionOutcome("done")
        at.store.ask(action(8))
        at.wake()
        await at.reaches(8, "done")


async def test_nothing_else_begins_before_the_reboot() -> None:
    """Between the command and the end of the PC."""
    async with rig() as at:
        at.doer.outcome = None
        at.store.ask(action(7, "reboot"), action(8))
        noded = at.start()
        await at.reaches(7, "started")
        await eventually(lambda: not at.doer.busy)
        noded.actor.wake()
        await asyncio.sleep(0.02)  # time in which it must *not* act
        assert at.doer.done == [7]


def test_what_runs_is_not_forgotten() -> None:
    """The action is not pending any more, but its end is written before it is removed."""
    running = ActionResult(index=7, name="reboot", state="started", nonce="mine")
    seen = ActionKeys(1, None, Acted(node=NODE, epoch=1, floor=7, results=(running,)))
    me = Writer(NODE, "mine", "b1", lambda was: False)
    assert decide(seen, ActionMemory(begun=(1, 7), running=running), me, 0.0) == Wait()
    ended = running.model_copy(update={"state": "failed"})
    assert isinstance(decide(seen, ActionMemory(begun=(1, 7), ended=ended), me, 0.0), Write)


# --- all of it -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["before", "after"])
@pytest.mark.parametrize("cut", range(4))
async def test_killed_at_each_write(cut: int, kind: str) -> None:
    """Two actions are four writes. Cut before or after each, a fresh noded ends the work, and does nothing twice."""
    async with rig() as at:
        at.store.ask(action(7), action(8))
        at.store.faults = [*[None] * cut, "refused" if kind == "before" else "lost", *["refused"] * 1000]
        first = at.start()
        await eventually(lambda: at.store.writes > cut)
        await first.kill()
        at.store.faults = []
        at.start()
        await eventually(lambda: all(at.store.state(index) in ("done", "lost") for index in (7, 8)))
        done = [index for index in (7, 8) if at.store.state(index) == "done"]
        assert set(done) <= set(at.doer.done)
        assert len(at.doer.done) == len(set(at.doer.done))


class Chaos:
    """Does anything to a rig, and keeps the books."""

    def __init__(self, at: Rig, seed: int) -> None:
        self.at = at
        self.random = random.Random(seed)
        self.index = 0
        self.expired: set[int] = set()
        self.closed: dict[int, str] = {}

    def ask(self) -> None:
        if len(self.at.store.pending) < 16:
            self.index += self.random.randint(1, 3)
            self.at.store.ask(*self.at.store.pending, action(self.index))

    def close(self) -> None:
        """As the leader does: what has ended, or, if it was never begun, has expired."""
        for pending in self.at.store.pending:
            state = self.at.store.state(pending.index)
            if state in ("done", "failed", "lost"):
                self.closed[pending.index] = state
                self.at.store.close(pending.index)
            elif state == "absent" and self.at.store.acted.floor < pending.index and self.random.random() < 0.2:
                self.expired.add(pending.index)
                self.at.store.close(pending.index)

    async def replace(self) -> None:
        if self.random.random() < 0.5:
            await self.at.started[-1].kill()
        self.at.start(host=self.random.choice(["host", "other"]))

    def break_something(self) -> None:
        faults: list[Fault] = ["lost", "late", "refused", None]
        self.at.store.faults = self.random.choices(faults, k=3)

    async def step(self) -> None:
        act = self.random.choice([self.ask, self.ask, self.close, self.close, self.break_something, self.at.store.land])
        act()
        if self.random.random() < 0.1:
            await self.replace()
        self.at.wake()
        for _ in range(self.random.randint(0, 12)):
            await asyncio.sleep(0)


@pytest.mark.parametrize("seed", range(30))
async def test_anything_at_any_time(seed: int) -> None:
    """No action is done twice, none that has expired is done at all, and each one comes to an end."""
    async with rig() as at:
        chaos = Chaos(at, seed)
        at.start()
        for _ in range(120):
            await chaos.step()
        at.store.faults = []
        at.store.land()
        for noded in at.started[:-1]:
            await noded.kill()
        at.start()

        def over() -> bool:
            chaos.close()
            at.wake()
            return not at.store.pending

        await eventually(over, f"all to come to an end: {at.store.pending} {at.store.acted}")
        assert len(at.doer.done) == len(set(at.doer.done))
        assert not chaos.expired & set(at.doer.done)
        assert {index for index, state in chaos.closed.items() if state == "done"} <= set(at.doer.done)
