"""The act that a master without a fence does not survive: the leader is frozen, replaced, given commands, and woken.

It is frozen in the middle of more commands than fit into a few commits. So when it wakes it has something to write at
once, about when it hears that another leads: what holds it back reliably is the fence alone.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import aiohttp

from nodectl.demo.stage import Stage
from nodectl.demo.traffic import COMMAND, SceneLoad, SentCommand
from nodectl.workload.verdicts import JournalLine, find_journal_faults, find_lost, find_overwritten, gap_around
from nodestore.errors import NodectlError, TimedOut, from_code
from nodestore.support.jsonio import loads

_DIRECT = 6
_REQUESTS, _COMMANDS = 6, 200
_MIDDLE_S = (0.02, 0.05)
_AFTERWARDS = 60  # more than are sent to the frozen one: what it writes must hit what has been written
_ANSWER_S = 15.0
_STANDBY_S = 10.0
_REFUSED = {"unavailable", "not_leader", "leadership_lost"}  # codes that say: surely nothing has happened


async def freeze_leader(stage: Stage) -> None:
    async with SceneLoad(stage.client, stage.ledger) as traffic, aiohttp.ClientSession() as session:
        await traffic.wait_acknowledged(20)
        old = await stage.client.leader()
        direct = Direct(stage, session, stage.cluster.master_urls[old.id])
        await direct.connect()
        direct.send_many()
        await asyncio.sleep(stage.rng.uniform(*_MIDDLE_S))
        frozen = time.monotonic()
        stage.cluster.suspend(old.id)
        stage.leaders_lost += 1
        try:
            direct.send_few()
            stage.say(
                f"{old.id} leads and is frozen (SIGSTOP) in the middle of {_REQUESTS * _COMMANDS} commands; "
                f"{_DIRECT} more are sent straight to its port while it is"
            )
            new = await stage.client.leader(timeout_s=30.0)
            await traffic.wait_acknowledged(_AFTERWARDS)
            before = await stage.journal()
        finally:
            stage.cluster.resume(old.id)
        stage.say(f"{new.id} took over: {new.why}")
        begin, gap_s = gap_around(traffic.times, frozen)
        since = sum(at > begin for at in traffic.times)
        stage.say(
            f"{gap_s:.2f} s without an answer; then {since} commands are acknowledged by {new.id} until {old.id} "
            f"wakes up, {time.monotonic() - frozen:.1f} s after it was frozen"
        )
        await direct.answers()
        still = await _still_leads(session, stage.cluster.master_urls[old.id])
        try:
            await traffic.wait_acknowledged(_AFTERWARDS // 2, timeout_s=10.0)
            stuck = []
        except TimedOut as error:
            stuck = [str(error)]
    after = await stage.journal()
    faults = [
        *find_journal_faults(after),
        *find_overwritten(before, after),
        *find_landed(direct.refused, after),
        *find_lost(stage.ledger.indexes, after),
        *([f"{old.id} still says that it leads"] if still else []),
        *stuck,
    ]
    _narrate_result(stage, old.id, direct, after, faults)
    stage.promises["takeover"].judge(f"frozen: {gap_s:.2f} s")
    stage.promises["deposed"].judge(
        f"{old.id}, woken after its term with {direct.count} commands on its hands, wrote nothing; "
        f"{len(after)} commands in one history"
        if not faults
        else f"{old.id}, woken after its term, changed the history",
        faults,
    )


def _narrate_result(stage: Stage, old: str, direct: Direct, after: list[JournalLine], faults: list[str]) -> None:
    counts = {
        "acknowledged": len(direct.acknowledged),
        "refused": len(direct.refused),
        "answered with 'outcome unknown'": len(direct.unsure),
        "without an answer": direct.count - len(direct.acknowledged) - len(direct.refused) - len(direct.unsure),
    }
    if faults:
        stage.say(f"{old} has written over what others wrote")
        return
    answers = ", ".join(f"{count} {how}" for how, count in counts.items() if count)
    stage.say(f"its commands: {answers}; every answer is true, {old} stands by, and nothing that it wrote landed")
    stage.say(f"the history: {len(after)} commands, no gap, no fork, nothing acknowledged was overwritten")


def find_landed(refused: list[SentCommand], lines: list[JournalLine]) -> list[str]:
    """Commands that were refused for good and are in the journal all the same."""
    indexes = {line.id: line.index for line in lines}
    return [f"command {item.id} was refused and is index {indexes[item.id]}" for item in refused if item.id in indexes]


class Direct:
    """Commands to one master's own port, past the client that would look for the leader."""

    def __init__(self, stage: Stage, session: aiohttp.ClientSession, url: str) -> None:
        self._stage, self._session, self._url = stage, session, url
        self._tasks: list[asyncio.Task[None]] = []
        self.count = 0
        self.acknowledged: list[SentCommand] = []
        self.refused: list[SentCommand] = []
        self.unsure: list[SentCommand] = []

    async def connect(self) -> None:
        """Open the connections beforehand, so that the commands are in its hands at once when it wakes."""
        await asyncio.gather(*(self._ask("GET", "/v1/health", None) for _ in range(_DIRECT + _REQUESTS)))

    def send_many(self) -> None:
        """More than a leader commits at once."""
        for _ in range(_REQUESTS):
            self._send([self._stage.ledger.new_command("middle") for _ in range(_COMMANDS)])

    def send_few(self) -> None:
        """Single ones."""
        for _ in range(_DIRECT):
            self._send([self._stage.ledger.new_command("frozen")])

    async def answers(self) -> None:
        """Until each has been answered, or its connection broke, or for a bounded time."""
        await asyncio.wait(self._tasks, timeout=_ANSWER_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _send(self, commands: list[SentCommand]) -> None:
        self.count += len(commands)
        self._tasks.append(asyncio.create_task(self._request(commands)))

    async def _request(self, commands: list[SentCommand]) -> None:
        asked = [
            {"name": COMMAND, "args": item.args, "id": item.id, "after": item.after, "actor": "demo"}
            for item in commands
        ]
        answer = await self._ask("POST", "/v1/commands", {"commands": asked})
        results = answer.get("results")
        if not isinstance(results, list) or len(results) != len(commands):
            results = [{"problem": answer} for _ in commands]  # one answer for all of them, or none
        for command, result in zip(commands, results, strict=True):
            self._settle(command, result)

    def _settle(self, command: SentCommand, result: dict[str, Any]) -> None:
        problem = result.get("problem")
        if problem is None:
            self._stage.ledger.acknowledge(command, int(result["index"]))
            self.acknowledged.append(command)
            return
        command.error = str(from_code(str(problem.get("code")), str(problem.get("detail"))))
        if problem.get("code") in _REFUSED:
            self.refused.append(command)
        elif problem:
            self.unsure.append(command)

    async def _ask(self, method: str, path: str, body: Any) -> dict[str, Any]:
        """The answer, a problem document included; {} when there was none."""
        try:
            async with self._session.request(method, self._url + path, json=body) as response:
                found = loads(await response.read())
        except (aiohttp.ClientError, TimeoutError, NodectlError):
            return {}
        return found if isinstance(found, dict) else {}


async def _still_leads(session: aiohttp.ClientSession, url: str) -> bool:
    """Whether a master claims to lead for longer than it may need to notice that it does not."""
    deadline = time.monotonic() + _STANDBY_S
    while time.monotonic() < deadline:
        try:
            async with session.get(f"{url}/v1/health") as response:
                if loads(await response.read()).get("role") != "leader":
                    return False
        except (aiohttp.ClientError, TimeoutError, NodectlError):
            return False
        await asyncio.sleep(0.05)
    return True
