"""The acts. Each hurts the cluster in one way, tells what was seen, and notes it under the promises that it tries.

What goes wrong in an act is a NodectlError; `play` counts it against the act's promise.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from nodectl.demo import wall
from nodectl.demo.stage import Stage
from nodectl.demo.traffic import COMMAND, SceneLoad, SentCommand
from nodectl.workload.verdicts import (
    Repeat,
    find_duplicates,
    find_lost,
    find_unrecognised,
    find_without_effect,
    gap_around,
    longest_gap,
)
from nodestore.errors import NodectlError, Unavailable

_WARM_UP_S = (0.6, 1.2)
_BURST = 40
_REPEATED_BEFORE = 20
_AFTERWARDS = 60
_WIPE_S = 5.0
_MEMBER_DOWN_S = 1.5


@dataclass(frozen=True)
class Act:
    """One of them: `promise` is what counts as broken when it cannot be played to its end."""

    key: str
    title: str
    promise: str
    play: Callable[[Stage], Awaitable[None]]


async def show_scene(stage: Stage) -> None:
    """One command changes all nodes."""
    documents = wall.scene_documents(wall.RAINBOW, stage.nodes)
    await stage.client.scene_save("rainbow", documents)
    begun = time.monotonic()
    await stage.client.scene_apply("rainbow")
    acknowledged_s = time.monotonic() - begun
    await stage.wait_until(lambda: stage.nodes_show(documents), "all nodes show the scene")
    shown_s = time.monotonic() - begun
    stage.say(
        f"scene 'rainbow' applied: acknowledged after {acknowledged_s * 1000:.0f} ms, "
        f"shown by all {len(documents)} programs {shown_s:.2f} s after the command"
    )
    stage.draw()


async def kill_leader(stage: Stage) -> None:
    """kill -9 of the leader while commands are in flight; then the same commands once more."""
    async with SceneLoad(stage.client, stage.ledger) as traffic:
        await asyncio.sleep(stage.rng.uniform(*_WARM_UP_S))
        victim = (await stage.client.leader()).id
        traffic.send(_BURST)
        await asyncio.sleep(stage.rng.uniform(0, 0.004))
        killed, caught = time.monotonic(), traffic.in_flight
        before = traffic.acknowledged[-_REPEATED_BEFORE:]
        await stage.cluster.kill(victim)
        stage.leaders_lost += 1
        stage.say(f"{victim} leads and is killed (-9) with {len(caught)} commands in flight")
        successor = await stage.client.leader(timeout_s=20.0)
        await traffic.wait_acknowledged(_AFTERWARDS)
    _, gap_s = gap_around(traffic.times, killed)
    stage.say(f"{successor.id} took over: {successor.why}")
    stage.say(f"from the last acknowledgement before to the first after it: {gap_s:.2f} s")
    stage.promises["takeover"].judge(f"killed: {gap_s:.2f} s without answers", _failed(traffic))
    await _report_account(stage, traffic)
    await _send_again(stage, [command for command in (*before, *caught) if command.acknowledged is not None])
    await stage.cluster.start(victim)


async def _report_account(stage: Stage, traffic: SceneLoad) -> None:
    """Tells what became of the commands of one act; at the end all are judged together."""
    commands = traffic.acknowledged
    lines, scenes = await stage.journal(), await stage.scenes()
    missing = find_lost({command.id: command.index for command in commands}, lines)
    absent = find_without_effect({command.path for command in commands}, scenes)
    doubled = find_duplicates(lines)
    stage.say(
        f"{len(commands)} commands were acknowledged meanwhile: "
        + ("every one is in the history and in the state" if not missing and not absent else "SOME ARE LOST")
        + (", none took effect twice" if not doubled else ", SOME TOOK EFFECT TWICE")
    )


async def _send_again(stage: Stage, commands: list[SentCommand]) -> None:
    """Send them again with the same ids, as a client does whose answers were lost."""

    async def again(command: SentCommand) -> Repeat:
        try:
            result = await stage.client.command(COMMAND, command.args, id=command.id, after=command.after)
        except NodectlError as error:
            return Repeat(command.id, command.index, None, False, f"{type(error).__name__}: {error}")
        return Repeat(command.id, command.index, result.index, result.repeated)

    repeats = await asyncio.gather(*(again(command) for command in commands))
    recognised = sum(repeat.repeated and repeat.index == repeat.first for repeat in repeats)
    stage.say(
        f"{len(repeats)} of them, those around the kill, were sent once more with their ids, as if the answers had "
        f"been lost: {recognised} were recognised and answered with their first results"
        + ("" if recognised == len(repeats) else "; THE OTHERS RAN AGAIN")
    )
    stage.promises["twice"].judge(f"{recognised} of {len(repeats)} repeats recognised", find_unrecognised(repeats))


def _failed(traffic: SceneLoad) -> list[str]:
    """Commands of a client that should have got through in the end, whatever happened."""
    failed = [command for command in traffic.commands if command.error]
    return [f"{len(failed)} commands were given up, the first with {failed[0].error}"] if failed else []


async def wipe_node(stage: Stage) -> None:
    """A node loses its processes and its disk, misses a change, and returns."""
    node = stage.rng.choice(stage.nodes)
    await stage.cluster.kill(node)
    await _wipe(stage, node)
    stage.say(f"{node}: noded and its program are killed (-9), its directory is wiped")
    documents = wall.scene_documents(wall.SUNRISE, stage.nodes)
    others = {name: document for name, document in documents.items() if name != node}
    await stage.client.scene_save("sunrise", documents)
    await stage.client.scene_apply("sunrise")
    await stage.wait_until(lambda: stage.nodes_show(others), "the other nodes show the scene")
    stage.say(f"meanwhile scene 'sunrise' is applied; the other {len(others)} show it:")
    stage.draw()
    begun = time.monotonic()
    await stage.cluster.start(node)
    await stage.wait_until(lambda: stage.nodes_show(documents), f"{node} shows its tile")
    taken_s = time.monotonic() - begun
    stage.say(f"{node} is started again and told nothing: {taken_s:.2f} s later it shows its tile of the new scene")
    stage.draw()
    stage.promises["node"].judge(f"wiped, it shows what it missed {taken_s:.2f} s after its start")


async def _wipe(stage: Stage, node: str) -> None:
    """Its program may live a moment longer than noded, and write."""
    work_dir, deadline = stage.cluster.work_dir(node), time.monotonic() + _WIPE_S
    while work_dir.exists() and time.monotonic() < deadline:
        shutil.rmtree(work_dir, ignore_errors=True)
        await asyncio.sleep(0.01)


async def lose_member(stage: Stage) -> None:
    """etcd's own leader is killed under load, and returns."""
    members = await stage.client.members()
    victim = next((member["name"] for member in members if member["leader"]), members[0]["name"])
    async with SceneLoad(stage.client, stage.ledger) as traffic:
        await traffic.wait_acknowledged(_AFTERWARDS // 2)
        killed = time.monotonic()
        await stage.cluster.kill(victim)
        await traffic.wait_acknowledged(_AFTERWARDS)
        await asyncio.sleep(_MEMBER_DOWN_S)
        while_down = sum(killed < moment for moment in traffic.times)
        await stage.cluster.start(victim)
        healthy_s = await _healthy(stage, victim)
        await traffic.wait_acknowledged(_AFTERWARDS // 2)
        end = time.monotonic()
    gap_s = longest_gap(traffic.times, killed, end)
    stage.say(
        f"{victim}, the member that leads etcd, is killed (-9): {while_down} commands are acknowledged without it"
    )
    stage.say(
        f"longest time between two acknowledgements: {gap_s:.2f} s; healthy again {healthy_s:.1f} s after its start"
    )
    stage.promises["member"].judge(f"killed: {gap_s:.2f} s without answers; back, it is healthy", _failed(traffic))
    await _report_account(stage, traffic)


async def _healthy(stage: Stage, member: str) -> float:
    begun = time.monotonic()
    while True:
        try:
            views = await stage.client.members()
        except Unavailable:
            views = []
        if any(view["name"] == member and view["healthy"] for view in views):
            return time.monotonic() - begun
        if time.monotonic() - begun > 30.0:
            raise Unavailable(
                f"member {member} is not healthy 30 s after its start; see {stage.cluster.paths.log(member)}"
            )
        await asyncio.sleep(0.05)
