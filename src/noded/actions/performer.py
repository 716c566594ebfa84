"""Does one action: noded's own, or the driver's. Whatever goes wrong with it is its result, never noded's end."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, TypeVar

from noded.actions.decide import REBOOT, RESTART, Outcome
from noded.drivers import contract
from noded.drivers.contract import OWN_ACTIONS, ActionFailed, Context, DriverError
from noded.drivers.support import command
from noded.reconcile.agent import Agent
from nodestore.schema.models import Action
from nodestore.support.json_rules import bounded
from nodestore.support.jsonio import Json
from nodestore.support.jsonio import copy as json_copy
from nodestore.support.logs import one_line

log = logging.getLogger(__name__)

T = TypeVar("T")

RESULT_BYTES_MAX = 64 << 10
ERROR_CHARS_MAX = 2_000
_RESULT_LEVELS_MAX = 32
_REBOOT_COMMAND_S = 60.0
_CANCEL_S = 10.0


class Performer:
    """reboot_command: what makes this PC reboot; None: nothing does."""

    def __init__(self, agent: Agent, context: Context, reboot_command: tuple[str, ...] | None) -> None:
        self._agent = agent
        self._context = context
        self._reboot_command = reboot_command

    def rested(self, desired: bytes | None) -> bool:
        """Whether noded has done what this value of `desired/<node>` asks for, as far as it can just now."""
        return self._agent.rested(desired)

    def turn(self, action: Action) -> AbstractAsyncContextManager[None]:
        """While it lasts, nothing else is done to what is driven."""
        return self._agent.turn(looks_on=action.name != RESTART)

    async def perform(self, action: Action) -> Outcome | None:
        """Do it, within `turn`. None: the PC has agreed to reboot, which is to come."""
        log.info("begins %s", _named(action))
        self._agent.tell(_named(action))
        try:
            result = _plain(await self._result_of(action))
        except ActionFailed as failure:
            return self._failed(action, failure.message, _plain(failure.result))
        except DriverError as error:
            return self._failed(action, error.message)
        except Exception as error:
            log.debug("%s", _named(action), exc_info=True)
            return self._failed(action, f"{type(error).__name__}: {error}")
        if action.name == REBOOT:
            log.info("the PC is to reboot: its command has ended with code 0")
            return None
        log.info("has done %s", _named(action))
        return Outcome("done", result)

    async def _result_of(self, action: Action) -> Json:
        if action.name == RESTART:
            return await self._agent.restart(_named(action))
        if action.name == REBOOT:
            return await self._reboot()
        if self._agent.driver is None:
            raise DriverError(f"nothing is driven on this node now: all it can do is {' or '.join(OWN_ACTIONS)}")
        name, driver = self._agent.driver
        offered = contract.actions_of(name, driver)
        if action.name not in offered:
            has = ", ".join([*OWN_ACTIONS, *sorted(offered)])
            raise DriverError(f"driver {name} has no action {action.name} (this node has: {has})")
        what = offered[action.name]
        return await _bounded(what.run(json_copy(action.args)), what.timeout_s)

    async def _reboot(self) -> None:
        if self._reboot_command is None:
            raise DriverError("this noded may not reboot its PC: it was started without --reboot-command")
        # not in the work directory: there need not be one
        finished = await command.run(
            self._reboot_command,
            cwd=Path(self._context.work_dir.anchor),
            env=command.environment(self._context, {}),
            timeout_s=_REBOOT_COMMAND_S,
        )
        if finished.problem is not None:
            raise DriverError(f"the reboot command failed: {finished.problem}")

    def _failed(self, action: Action, message: str, result: Json = None) -> Outcome:
        line = one_line(message, ERROR_CHARS_MAX)
        log.error("%s failed: %s", _named(action), line)
        return Outcome("failed", result, line)


def _named(action: Action) -> str:
    asked_by = f", asked by {one_line(action.actor, 100)}" if action.actor else ""
    return f"action {one_line(action.name, 100)} (command {action.index}{asked_by})"


async def _bounded(call: Awaitable[T], timeout_s: float) -> T:
    """What it returns. DriverError when it does not within the time, or is cancelled by somebody else than us."""
    task = asyncio.ensure_future(call)
    try:
        await asyncio.wait({task}, timeout=timeout_s)
        if not task.done():
            raise DriverError(f"it did not end within {timeout_s:g} s, and was cut off")
        if task.cancelled():
            raise DriverError("it was cancelled")
        return task.result()
    finally:
        await _cut(task)


async def _cut(task: asyncio.Future[Any]) -> None:
    if task.done():
        return
    task.cancel()
    await asyncio.wait({task}, timeout=_CANCEL_S)
    if not task.done():
        log.error("an action of the driver goes on though it was cut off: it holds up the end of noded")
    elif not task.cancelled() and task.exception() is not None:
        log.debug("when it was cut off", exc_info=task.exception())


def _plain(value: Any) -> Json:
    """A result as the journal can take it, or why it was left out: drivers are strangers' code."""
    try:
        if not bounded(value, _RESULT_LEVELS_MAX):
            return {"omitted": f"nested more than {_RESULT_LEVELS_MAX} levels deep, or a number is too long"}
        raw = json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, TypeError) as error:
        return {"omitted": one_line(f"not JSON: {error}", 200)}
    return json.loads(raw) if len(raw) <= RESULT_BYTES_MAX else {"omitted": f"larger than {RESULT_BYTES_MAX} bytes"}
