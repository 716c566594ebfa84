"""The cluster's time with wrong clocks: it never jumps, is reported when it is wrong, and can be set."""

from __future__ import annotations

import asyncio

from masterd.state_machine.batch import CommandRequest
from tests.simulation.runs import play
from tests.simulation.world import Pc, World

_DAY_S = 86_400.0


def _off_s(world: World, pc: Pc) -> float:
    """By how many seconds the last committed time is ahead."""
    return pc.parts.replica.state.time - world.time.wall_clock()


async def _append(world: World) -> None:
    await world.command("append", {"path": "lists/0", "item": "a"})


def test_a_clock_that_is_stepped_ahead_for_one_command_poisons_nothing() -> None:
    async def life(world: World) -> None:
        await world.start("m1", "m2")
        await world.configure(2, "red")
        pc = await world.serving()
        await asyncio.sleep(0.5)
        world.clock_off_s[pc.name] = _DAY_S
        await _append(world)
        assert abs(_off_s(world, pc)) < 1
        world.clock_off_s[pc.name] = 0
        pc.crash()
        pc = await world.serving()
        await world.command("act", {"node": "n1", "expires_s": 5.0})
        await asyncio.sleep(10)
        assert pc.parts.replica.state.actions == {}

    play(life, judged=False)


def test_a_clock_that_jumps_back_does_not_stop_the_time() -> None:
    """Actions still expire, a tenth later at most."""

    async def life(world: World) -> None:
        await world.start("m1", "m2")
        await world.configure(2, "red")
        pc = await world.serving()
        await asyncio.sleep(0.5)
        await _append(world)
        world.clock_off_s.update(m1=-_DAY_S, m2=-_DAY_S)
        await world.command("act", {"node": "n1", "expires_s": 5.0})
        await asyncio.sleep(4)
        assert pc.parts.replica.state.actions
        await asyncio.sleep(3)
        assert pc.parts.replica.state.actions == {}

    play(life, judged=False)


def test_a_leader_whose_clock_is_an_hour_off_among_three_keeps_the_time_of_the_others() -> None:
    async def life(world: World) -> None:
        await world.start("m2", "m3")
        await world.serving()
        await world.start("m1")
        await _append(world)
        await asyncio.sleep(30)
        while (pc := await world.serving()).name != "m1":
            await pc.master.stand_down("test")
            pc.crash()
            await asyncio.sleep(1)
            await world.start("m1", "m2", "m3")
            await asyncio.sleep(30)
        await asyncio.sleep(600)
        await _append(world)
        assert abs(_off_s(world, pc)) < 1
        assert pc.parts.health.time_problem is None

    play(life, judged=False, clock_off_s={"m1": 3600.0})


def test_a_poisoned_time_is_reported_and_reset_with_the_deadlines() -> None:
    """A single leader with a wrong clock has committed first. The others report it; `time.reset` mends it."""

    async def life(world: World) -> None:
        await world.start("m1")
        pc = await world.serving()
        await world.configure(2, "red")
        await asyncio.sleep(0.5)
        await world.command("act", {"node": "n1", "expires_s": 600.0})
        await world.start("m2", "m3")
        await asyncio.sleep(30)
        pc.crash()
        pc = await world.serving()
        await _append(world)
        assert _off_s(world, pc) > _DAY_S - 60
        assert "nodectl time reset" in (pc.parts.health.time_problem or "")
        left_s = pc.parts.replica.state.actions["n1"][0].expires - pc.parts.replica.state.time
        done = await world.command("time.reset", {})
        assert done.index
        assert abs(_off_s(world, pc)) < 1
        assert pc.parts.health.time_problem is None
        shifted_s = pc.parts.replica.state.actions["n1"][0].expires - world.time.wall_clock()
        assert abs(shifted_s - left_s) < 1
        await asyncio.sleep(1)
        for other in world.running.values():
            assert other.parts.replica.state.actions == pc.parts.replica.state.actions
            assert other.parts.replica.state.time == pc.parts.replica.state.time
        pc.crash()
        pc = await world.serving()
        await asyncio.sleep(600)
        assert pc.parts.replica.state.actions == {}
        assert abs(_off_s(world, pc)) < 10

    play(life, judged=False, clock_off_s={"m1": _DAY_S})


def test_a_repeat_of_a_reset_is_answered_and_not_run() -> None:
    async def life(world: World) -> None:
        await world.start("m1", "m2")
        pc = await world.serving()
        first = await world.command("time.reset", {})
        assert pc.leader is not None
        world.clock_off_s.update(m1=100.0, m2=100.0)
        (again,) = await pc.leader.submit([CommandRequest(first.id, "time.reset", {}, "client", first.after)])
        assert again.repeated
        assert again.result == first.result

    play(life, judged=False)
