"""The act that tests the fence: the leader is suspended, replaced, sent commands, and resumed.

It is suspended while it has more commands to run than a few commits can hold. So when it is resumed, it attempts more
writes at once, at about the time when it learns of the new leader. Only the fence stops these writes reliably.
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
from nodestore.support.tasks import background_task

_SINGLE_REQUESTS = 6
_BATCHES, _BATCH_COMMANDS = 6, 200
_SUSPEND_AFTER_S = (0.02, 0.05)
_COMMANDS_AFTER = 60  # enough that entries of the old leader would overwrite entries of the new one
_ANSWER_S = 15.0
_STANDBY_S = 10.0
_REFUSED = {"unavailable", "not_leader", "leadership_lost"}  # codes that mean: the command was certainly not run


async def freeze_leader(stage: Stage) -> None:
    """Suspend the leader under load, let another take over, resume it, and check that it wrote nothing."""
    async with SceneLoad(stage.client, stage.ledger) as traffic, stage.cluster.http_session() as session:
        await traffic.wait_acknowledged(20)
        old = await stage.client.leader()
        direct = Direct(stage, session, stage.cluster.master_urls[old.id])
        await direct.connect()
        direct.send_many()
        await asyncio.sleep(stage.rng.uniform(*_SUSPEND_AFTER_S))
        frozen = time.monotonic()
        stage.cluster.suspend(old.id)
        stage.leaders_lost += 1
        try:
            direct.send_few()
            stage.say(
                f"the leader, {old.id}, is frozen (SIGSTOP) in the middle of {_BATCHES * _BATCH_COMMANDS} commands; "
                f"{_SINGLE_REQUESTS} more are sent directly to its port meanwhile"
            )
            new = await stage.client.leader(timeout_s=30.0)
            await traffic.wait_acknowledged(_COMMANDS_AFTER)
            before = await stage.journal()
        finally:
            stage.cluster.resume(old.id)
        stage.say(f"{new.id} took over: {new.why}")
        begin, gap_s = gap_around(traffic.times, frozen)
        since = sum(at > begin for at in traffic.times)
        stage.say(
            f"clients waited {gap_s:.2f} s; then {new.id} acknowledged {since} commands until {old.id} was resumed, "
            f"{time.monotonic() - frozen:.1f} s after it was frozen"
        )
        await direct.wait_answered()
        still = await _still_leads(session, stage.cluster.master_urls[old.id])
        try:
            await traffic.wait_acknowledged(_COMMANDS_AFTER // 2, timeout_s=10.0)
            stuck = []
        except TimedOut as error:
            stuck = [str(error)]
    after = await stage.journal()
    faults = [
        *find_journal_faults(after),
        *find_overwritten(before, after),
        *find_landed(direct.refused, after),
        *find_lost(stage.ledger.indexes, after),
        *([f"{old.id} still claims to be the leader"] if still else []),
        *stuck,
    ]
    _narrate_result(stage, old.id, direct, after, faults)
    stage.promises["takeover"].judge(f"frozen: {gap_s:.2f} s")
    stage.promises["deposed"].judge(
        f"{old.id}, resumed after its term with {direct.count} commands to run, wrote nothing; "
        f"{len(after)} commands in one history"
        if not faults
        else f"{old.id}, resumed after its term, changed the history",
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
        stage.say(f"{old} WROTE AFTER ITS TERM: the table below lists the faults")
        return
    answers = ", ".join(f"{count} {how}" for how, count in counts.items() if count)
    stage.say(f"the commands sent to {old}: {answers}; every answer agrees with the history")
    stage.say(f"{old} is now a standby, and nothing it tried to write after its term was committed")
    stage.say(f"the history has {len(after)} commands: no gap, no fork, no acknowledged command overwritten")


def find_landed(refused: list[SentCommand], lines: list[JournalLine]) -> list[str]:
    """Find commands in the journal that were refused as certainly not run."""
    indexes = {line.id: line.index for line in lines}
    return [f"command {item.id} was refused and is index {indexes[item.id]}" for item in refused if item.id in indexes]


class Direct:
    """Commands sent directly to one master's port, without the client, which would look for the leader."""

    def __init__(self, stage: Stage, session: aiohttp.ClientSession, url: str) -> None:
        self._stage, self._session, self._url = stage, session, url
        self._tasks: list[asyncio.Task[None]] = []
        self.count = 0
        self.acknowledged: list[SentCommand] = []
        self.refused: list[SentCommand] = []
        self.unsure: list[SentCommand] = []

    async def connect(self) -> None:
        """Open the connections in advance, so that the master has the commands as soon as it is resumed."""
        await asyncio.gather(*(self._ask("GET", "/v1/health", None) for _ in range(_SINGLE_REQUESTS + _BATCHES)))

    def send_many(self) -> None:
        """Send more commands than a leader commits at once."""
        for _ in range(_BATCHES):
            self._send([self._stage.ledger.new_command("middle") for _ in range(_BATCH_COMMANDS)])

    def send_few(self) -> None:
        """Send a few requests of one command each."""
        for _ in range(_SINGLE_REQUESTS):
            self._send([self._stage.ledger.new_command("frozen")])

    async def wait_answered(self) -> None:
        """Wait until each request is answered or its connection broke, for at most 15 s; cancel the rest."""
        await asyncio.wait(self._tasks, timeout=_ANSWER_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _send(self, commands: list[SentCommand]) -> None:
        self.count += len(commands)
        self._tasks.append(background_task(self._request(commands), name="request while frozen"))

    async def _request(self, commands: list[SentCommand]) -> None:
        body = [
            {"name": COMMAND, "args": item.args, "id": item.id, "after": item.after, "actor": "demo"}
            for item in commands
        ]
        answer = await self._ask("POST", "/v1/commands", {"commands": body})
        results = answer.get("results")
        if not isinstance(results, list) or len(results) != len(commands):
            results = [{"problem": answer} for _ in commands]  # one problem for all of them; {}: no answer
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
        """Return the JSON answer, which may be a problem document; {} if there was none."""
        try:
            async with self._session.request(method, self._url + path, json=body) as response:
                found = loads(await response.read())
        except (aiohttp.ClientError, TimeoutError, NodectlError):
            return {}
        return found if isinstance(found, dict) else {}


async def _still_leads(session: aiohttp.ClientSession, url: str) -> bool:
    """Return whether a master still claims to lead after 10 s, enough time to notice that it was deposed."""
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
