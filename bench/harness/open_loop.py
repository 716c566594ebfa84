"""Load that does not wait: requests at a fixed rate, whatever becomes of the earlier ones.

Clients that wait for their answers slow down with the master, and so hide what happens when it is overloaded.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import aiohttp

from nodestore.support.jsonio import dumps

COMMANDS_A_REQUEST = 16
WAIT_S = 5.0
"""After this long a client no longer waits for its answer, and says so to the master."""
_TICK_S = 0.01
_OUTSTANDING_MAX = 360
"""Requests in flight. The limit is that of the generator, which must not fail before the master does."""

MakeCommand = Callable[[int], dict[str, object]]
"""Returns the command of a number, as in the body of a request."""


@dataclass
class LoadResult:
    """What became of the commands that were offered in `seconds`."""

    seconds: float
    offered: int = 0
    served: int = 0
    refused: int = 0
    failed: int = 0
    """Neither served nor refused: no answer in time, or a broken connection."""
    unsent: int = 0
    """Not sent, because the generator had too many requests in flight."""
    without_retry_after: int = 0
    latencies_s: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Commands served in each second."""
        return self.served / self.seconds


async def offer(
    url: str, make_command: MakeCommand, rate: float, seconds: float, *, a_request: int = COMMANDS_A_REQUEST
) -> LoadResult:
    """Offer `rate` commands a second for `seconds` seconds to the leader at `url`; wait for the last answers."""
    result, number = LoadResult(seconds), 0
    async with _session() as session, asyncio.TaskGroup() as requests:
        running: set[asyncio.Task[None]] = set()
        began = time.monotonic()
        while (elapsed_s := time.monotonic() - began) < seconds:
            while number < elapsed_s * rate:
                commands = [make_command(number + position) for position in range(a_request)]
                number += a_request
                result.offered += a_request
                if len(running) >= _OUTSTANDING_MAX:
                    result.unsent += a_request
                    continue
                task = requests.create_task(_send(session, url, commands, result))
                running.add(task)
                task.add_done_callback(running.discard)
            await asyncio.sleep(_TICK_S)
    return result


async def saturate(
    url: str, make_command: MakeCommand, callers: int, seconds: float, *, a_request: int = COMMANDS_A_REQUEST
) -> LoadResult:
    """Send as many commands as the leader at `url` takes from callers that wait for their answers."""
    result, ends, numbers = LoadResult(seconds), time.monotonic() + seconds, iter(range(1 << 60))

    async def caller(session: aiohttp.ClientSession) -> None:
        while time.monotonic() < ends:
            commands = [make_command(next(numbers)) for _ in range(a_request)]
            result.offered += a_request
            await _send(session, url, commands, result)

    async with _session() as session, asyncio.TaskGroup() as tasks:
        for _ in range(callers):
            tasks.create_task(caller(session))
    return result


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=WAIT_S),
        headers={"Content-Type": "application/json", "Nodectl-Timeout-Ms": str(round(WAIT_S * 1000))},
    )  # fmt: skip


async def _send(
    session: aiohttp.ClientSession, url: str, commands: list[dict[str, object]], result: LoadResult
) -> None:
    began = time.monotonic()
    try:
        async with session.post(f"{url}/v1/commands", data=dumps({"commands": commands})) as answer:
            if answer.status == 503:
                result.refused += len(commands)
                result.without_retry_after += len(commands) if "Retry-After" not in answer.headers else 0
                return
            outcomes = (await answer.json())["results"] if answer.status == 200 else []
    except (aiohttp.ClientError, TimeoutError, OSError):
        result.failed += len(commands)
        return
    for outcome in outcomes:
        if "problem" not in outcome:
            result.served += 1
        elif outcome["problem"]["status"] == 503:
            result.refused += 1
        else:
            result.failed += 1
    result.failed += len(commands) - len(outcomes)
    result.latencies_s.append(time.monotonic() - began)
