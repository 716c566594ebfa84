"""The acts of the demo. Each injects one fault, narrates the effect, and judges the promises that it tests.

An act that cannot be completed raises a NodectlError; `play` counts that against the act's promise.
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
_COMMANDS_AFTER = 60
_WIPE_S = 5.0
_MEMBER_DOWN_S = 1.5


@dataclass(frozen=True)
class Act:
    """One act. `promise`: the promise that counts as broken if the act cannot be completed."""

    key: str
    title: str
    promise: str
    play: Callable[[Stage], Awaitable[None]]


async def show_scene(stage: Stage) -> None:
    """Change all nodes by one command."""
    documents = wall.scene_documents(wall.RAINBOW, stage.nodes)
    await stage.client.scene_save("rainbow", documents)
    begun = time.monotonic()
    await stage.client.scene_apply("rainbow")
    acknowledged_s = time.monotonic() - begun
    await stage.wait_until(lambda: stage.nodes_show(documents), "all nodes show the scene")
    shown_s = time.monotonic() - begun
    stage.say(
        f"scene 'rainbow' is applied: acknowledged after {acknowledged_s * 1000:.0f} ms, "
        f"shown by all {len(documents)} nodes after {shown_s:.2f} s:"
    )
    stage.draw()


async def kill_leader(stage: Stage) -> None:
    """Kill the leader (SIGKILL) while commands are in flight, then send some of them again with the same ids."""
    async with SceneLoad(stage.client, stage.ledger) as traffic:
        await asyncio.sleep(stage.rng.uniform(*_WARM_UP_S))
        victim = (await stage.client.leader()).id
        traffic.send(_BURST)
        await asyncio.sleep(stage.rng.uniform(0, 0.004))
        killed, in_flight = time.monotonic(), traffic.in_flight
        before = traffic.acknowledged[-_REPEATED_BEFORE:]
        await stage.cluster.kill(victim)
        stage.leaders_lost += 1
        stage.say(f"the leader, {victim}, is killed (kill -9) with {len(in_flight)} commands in flight")
        successor = await stage.client.leader(timeout_s=20.0)
        await traffic.wait_acknowledged(_COMMANDS_AFTER)
    _, gap_s = gap_around(traffic.times, killed)
    stage.say(f"{successor.id} took over: {successor.why}")
    stage.say(f"clients waited {gap_s:.2f} s, from the last acknowledgement before to the first one after the kill")
    stage.promises["takeover"].judge(f"killed: {gap_s:.2f} s without answers", _failed(traffic))
    await _narrate_outcomes(stage, traffic)
    await _send_again(stage, [command for command in (*before, *in_flight) if command.acknowledged is not None])
    await stage.cluster.start(victim)


async def _narrate_outcomes(stage: Stage, traffic: SceneLoad) -> None:
    """Narrate the outcome of the commands of one act. The promises about them are judged at the end of the demo."""
    commands = traffic.acknowledged
    lines, scenes = await stage.journal(), await stage.scenes()
    missing = find_lost({command.id: command.index for command in commands}, lines)
    absent = find_without_effect({command.path for command in commands}, scenes)
    doubled = find_duplicates(lines)
    stage.say(
        f"{len(commands)} commands were acknowledged during this act: "
        + ("each one is in the history and in the state" if not missing and not absent else "SOME ARE LOST")
        + (", none took effect twice" if not doubled else ", SOME TOOK EFFECT TWICE")
    )


async def _send_again(stage: Stage, commands: list[SentCommand]) -> None:
    """Send commands again with the same ids, like a client that lost the answers."""

    async def again(command: SentCommand) -> Repeat:
        try:
            result = await stage.client.command(COMMAND, command.args, id=command.id, after=command.after)
        except NodectlError as error:
            return Repeat(command.id, command.index, None, False, f"{type(error).__name__}: {error}")
        return Repeat(command.id, command.index, result.index, result.repeated)

    repeats = await asyncio.gather(*(again(command) for command in commands))
    recognised = sum(repeat.repeated and repeat.index == repeat.first for repeat in repeats)
    stage.say(
        f"{len(repeats)} commands around the kill are sent again with their ids, as if the answers had been lost: "
        f"{recognised} are recognised and answered with the first result"
        + ("" if recognised == len(repeats) else "; THE OTHERS RAN AGAIN")
    )
    stage.promises["twice"].judge(f"{recognised} of {len(repeats)} repeats recognised", find_unrecognised(repeats))


def _failed(traffic: SceneLoad) -> list[str]:
    """Find commands that failed although the client retries each of them for 30 s."""
    failed = [command for command in traffic.commands if command.error]
    return [f"{len(failed)} commands failed, the first with {failed[0].error}"] if failed else []


async def wipe_node(stage: Stage) -> None:
    """Kill the processes of a node, wipe its disk, change its desired state, and start it again."""
    node = stage.rng.choice(stage.nodes)
    await stage.cluster.kill(node)
    await _wipe(stage, node)
    stage.say(f"{node}: noded and its program are killed (kill -9), and its directory is wiped")
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
    stage.say(f"{node} is started again, without any other action: {taken_s:.2f} s later it shows the new scene:")
    stage.draw()
    stage.promises["node"].judge(f"wiped; {taken_s:.2f} s after its start it shows the current scene")


async def _wipe(stage: Stage, node: str) -> None:
    """Remove a node's directory; retry, because its program may outlive noded for a moment and write."""
    work_dir, deadline = stage.cluster.work_dir(node), time.monotonic() + _WIPE_S
    while work_dir.exists() and time.monotonic() < deadline:
        shutil.rmtree(work_dir, ignore_errors=True)
        await asyncio.sleep(0.01)


async def lose_member(stage: Stage) -> None:
    """Kill the etcd member that leads etcd, under load, and start it again."""
    members = await stage.client.members()
    victim = next((member["name"] for member in members if member["leader"]), members[0]["name"])
    async with SceneLoad(stage.client, stage.ledger) as traffic:
        await traffic.wait_acknowledged(_COMMANDS_AFTER // 2)
        killed = time.monotonic()
        await stage.cluster.kill(victim)
        await traffic.wait_acknowledged(_COMMANDS_AFTER)
        await asyncio.sleep(_MEMBER_DOWN_S)
        while_down = sum(killed < moment for moment in traffic.times)
        await stage.cluster.start(victim)
        healthy_s = await _wait_healthy(stage, victim)
        await traffic.wait_acknowledged(_COMMANDS_AFTER // 2)
        end = time.monotonic()
    gap_s = longest_gap(traffic.times, killed, end)
    stage.say(
        f"{victim}, the etcd member that leads etcd, is killed (kill -9): {while_down} commands are acknowledged "
        "while it is down"
    )
    stage.say(
        f"clients waited at most {gap_s:.2f} s for an acknowledgement; {victim} is healthy {healthy_s:.1f} s after "
        "its restart"
    )
    stage.promises["member"].judge(f"killed: {gap_s:.2f} s without answers; healthy after restart", _failed(traffic))
    await _narrate_outcomes(stage, traffic)


async def _wait_healthy(stage: Stage, member: str) -> float:
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
                f"etcd member {member} is not healthy 30 s after its start; see {stage.cluster.paths.log(member)}"
            )
        await asyncio.sleep(0.05)
