"""The outcome of a command is asked for in whole masterds: each answer holds for ever, whoever dies when.

The checkers compare every answer with the whole journal, and report a command that took effect after its id was closed.
"""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from masterd.state_machine.batch import Batch, CommandOutcome, CommandRequest
from nodestore.errors import IdClosed
from tests.simulation.faults import KINDS, LOST_IN_DOUBT, CallFault, puts
from tests.simulation.runs import play
from tests.simulation.storm import Storm, run_seed
from tests.simulation.world import Asked, ClientCommand, Pc, World, no_fault
from tests.support.fakes.link import Fate

LOST_REPLY, NEVER_ARRIVES = Fate(replied=False), Fate(arrives=False)
APPEND = {"path": "lists/0", "item": "a"}


async def started(world: World) -> None:
    await world.start("m1", "m2")
    await world.serving()
    await world.command("append", {"path": "lists/0", "item": "first"})


async def lost(world: World, *, patience_s: float = 0.02) -> ClientCommand:
    """A command whose client gives up soon."""
    return await world.command("append", APPEND, patience_s=patience_s)


async def answered(world: World, command: ClientCommand) -> Asked:
    asked = await world.ask(command)
    assert asked is not None
    return asked


async def assert_copies_are_refused(world: World, command: ClientCommand) -> None:
    """By this leader, and by the next one, which has only read the journal."""
    for _ in range(2):
        outcome = await world.repeat(command)
        assert outcome is not None
        assert isinstance(outcome.error, IdClosed), outcome
        await world.stop_leader()
        await world.start("m1", "m2")
        await world.serving()


# --- one by one -----------------------------------------------------------------------------------------------------


def test_a_command_that_reached_no_leader_is_closed() -> None:
    """Its copies, which may wait in a standby, are refused later by every leader."""

    async def life(world: World) -> None:
        await started(world)
        command = ClientCommand("never-sent", "append", APPEND, 0.0, after=1)
        world.commands.append(command)
        asked = await answered(world, command)
        assert (asked.took_effect, asked.index) == (False, 2)
        await assert_copies_are_refused(world, command)
        again = await answered(world, command)
        assert (again.took_effect, again.index) == (False, 2)
        await world.settle()

    play(life)


@pytest.mark.parametrize("question_first", [True, False])
def test_command_and_question_in_one_batch(question_first: bool) -> None:
    """The order of the queue decides. Either the command runs, or its id is closed."""

    async def life(world: World) -> None:
        await started(world)
        command = ClientCommand("x", "append", APPEND, 0.0, after=1)
        world.commands.append(command)
        send, ask = partial(world.repeat, command), partial(world.ask, command)
        await asyncio.gather(*(act() for act in ((ask, send) if question_first else (send, ask))))
        (asked,) = world.asked
        assert (asked.took_effect, asked.index) == (not question_first, 2)
        await world.settle()
        assert (command.index == 2) is not question_first

    play(life)


@pytest.mark.parametrize("landed", [True, False])
def test_a_commit_in_doubt_is_settled_before_the_answer(landed: bool) -> None:
    """The leader's transaction has no reply. Until its fate is known, the question waits."""

    async def life(world: World) -> None:
        await started(world)

        def fate(pc: Pc, method: str, request: object) -> Fate:
            if not puts(request, world.keys.head):
                return Fate()
            world.fate = no_fault
            return LOST_REPLY if landed else NEVER_ARRIVES

        world.fate = fate
        sending = asyncio.create_task(lost(world, patience_s=5.0))
        await asyncio.sleep(0.01)
        command = world.commands[-1]
        asked = await answered(world, command)
        assert asked.took_effect
        assert (await sending).index == asked.index
        await world.settle()

    play(life)


def test_a_transaction_of_the_deposed_leader_never_lands_after_the_answer() -> None:
    """It was sent before the takeover and arrives after it: the id is closed under the next leader."""

    async def life(world: World) -> None:
        await started(world)

        def fate(pc: Pc, method: str, request: object) -> Fate:
            if not puts(request, world.keys.head):
                return Fate()
            asyncio.get_running_loop().call_soon(pc.crash)
            world.fate = no_fault
            return Fate(late_s=3.5, replied=False)

        world.fate = fate
        command = await lost(world)
        asked = await answered(world, command)
        assert not asked.took_effect
        await asyncio.sleep(4.0)
        await assert_copies_are_refused(world, command)
        await world.settle()

    play(life)


def test_two_questions_have_one_answer() -> None:
    """Sent at the same time. One record closes the id."""

    async def life(world: World) -> None:
        await started(world)
        command = ClientCommand("x", "append", APPEND, 0.0, after=1)
        world.commands.append(command)
        answers = await asyncio.gather(*(world.ask(command) for _ in range(5)))
        assert {(asked.took_effect, asked.index) for asked in answers if asked is not None} == {(False, 2)}
        await world.settle()

    play(life)


# --- every fault ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hit", ["command", "question"])
@pytest.mark.parametrize("kind", [*KINDS, LOST_IN_DOUBT])
def test_a_fault_at_the_commit_of_the_command_or_of_the_question(kind: str, hit: str) -> None:
    """The client gives up and asks. Late copies of the command arrive during and after the question."""

    async def life(world: World) -> None:
        await started(world)
        await world.configure(1, "red")
        fault = CallFault(kind, 0, commits=True)
        if hit == "command":
            fault.arm(world)
            command = await lost(world)
        else:
            command = ClientCommand("x", "append", APPEND, 0.0, after=1)
            world.commands.append(command)
            fault.arm(world)
        for delay_s in (0.001, 0.05, 1.0, 4.0):
            world.later(delay_s, partial(world.repeat, command))
        asked = await answered(world, command)
        assert fault.hit
        await world.settle()
        assert (await answered(world, command)).index == asked.index

    play(life)


class AskingClients(Storm):
    """A run in which each client gives up soon, asks for the outcome, and late copies of its command arrive."""

    def _ask(self, most: int = 4) -> None:
        super()._ask(1)
        for _ in range(self.dice.randint(1, most)):
            name, args = self._command()
            patience_s, copies = self.dice.choice((0.002, 0.02, 0.3)), self.dice.choices((0.001, 0.05, 0.5, 3.0), k=2)
            self.world.later(0.0, partial(self._give_up_and_ask, name, args, patience_s, copies))

    async def _give_up_and_ask(self, name: str, args: dict[str, str], patience_s: float, copies: list[float]) -> None:
        command = await self.world.command(name, args, patience_s=patience_s)
        for delay_s in copies:
            self.world.later(delay_s, partial(self.world.repeat, command))
        await self.world.ask(command, patience_s=10.0)


SEEDS = range(4)


@pytest.mark.parametrize("seed", SEEDS)
def test_any_run_with_questions(seed: int) -> None:
    """Whatever fails in a random run, no answer turns out to be wrong."""
    result = run_seed(seed, AskingClients)
    assert not result.wrong, "\n".join([*result.log, str(result.wrong)])


def test_an_answer_without_its_record_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The leader answers that the command has not taken effect, and commits nothing: a late copy then runs."""

    def close_id(self: Batch, request: CommandRequest) -> CommandOutcome:
        return CommandOutcome(request.id, self.next_index, closed=True)

    monkeypatch.setattr(Batch, "_close_id", close_id)
    assert any("exactly once" in run_seed(seed, AskingClients).wrong for seed in SEEDS)
