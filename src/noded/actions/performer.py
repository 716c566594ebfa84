"""Does one action: noded's own, or the driver's. Whatever goes wrong with it is its result, never noded's end."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, TypeVar

from noded.actions.decide import REBOOT, RESTART, ActionOutcome
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

    def has_reconciled(self, desired: bytes | None) -> bool:
        """Whether noded has done what this value of `desired/<node>` asks for, as far as it can just now."""
        return self._agent.has_reconciled(desired)

    def hold_driver(self, action: Action) -> AbstractAsyncContextManager[None]:
        """While it lasts, nothing else is done to what is driven."""
        return self._agent.hold_driver(keep_inspecting=action.name != RESTART)

    async def perform(self, action: Action) -> ActionOutcome | None:
        """Do it, within `hold_driver`. None: the PC has agreed to reboot, which is to come."""
        log.info("begins %s", _describe(action))
        self._agent.show_reason(_describe(action))
        try:
            result = _bounded_result(await self._run_action(action))
        except ActionFailed as failure:
            return self._failed_outcome(action, failure.message, _bounded_result(failure.result))
        except DriverError as error:
            return self._failed_outcome(action, error.message)
        except Exception as error:
            log.debug("%s", _describe(action), exc_info=True)
            return self._failed_outcome(action, f"{type(error).__name__}: {error}")
        if action.name == REBOOT:
            log.info("the PC is to reboot: its command has ended with code 0")
            return None
        log.info("has done %s", _describe(action))
        return ActionOutcome("done", result)

    async def _run_action(self, action: Action) -> Json:
        if action.name == RESTART:
            return await self._agent.restart(_describe(action))
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
        return await _with_timeout(what.run(json_copy(action.args)), what.timeout_s)

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

    def _failed_outcome(self, action: Action, message: str, result: Json = None) -> ActionOutcome:
        line = one_line(message, ERROR_CHARS_MAX)
        log.error("%s failed: %s", _describe(action), line)
        return ActionOutcome("failed", result, line)


def _describe(action: Action) -> str:
    asked_by = f", asked by {one_line(action.actor, 100)}" if action.actor else ""
    return f"action {one_line(action.name, 100)} (command {action.index}{asked_by})"


async def _with_timeout(call: Awaitable[T], timeout_s: float) -> T:
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
        await _cancel(task)


async def _cancel(task: asyncio.Future[Any]) -> None:
    if task.done():
        return
    task.cancel()
    await asyncio.wait({task}, timeout=_CANCEL_S)
    if not task.done():
        log.error("an action of the driver goes on though it was cut off: it holds up the end of noded")
    elif not task.cancelled() and task.exception() is not None:
        log.debug("when it was cut off", exc_info=task.exception())


def _bounded_result(value: Any) -> Json:
    """A result as the journal can take it, or why it was left out: drivers are strangers' code."""
    try:
        if not bounded(value, _RESULT_LEVELS_MAX):
            return {"omitted": f"nested more than {_RESULT_LEVELS_MAX} levels deep, or a number is too long"}
        raw = json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, TypeError) as error:
        return {"omitted": one_line(f"not JSON: {error}", 200)}
    return json.loads(raw) if len(raw) <= RESULT_BYTES_MAX else {"omitted": f"larger than {RESULT_BYTES_MAX} bytes"}
