"""Performs one action, noded's own or the driver's. An error becomes the action's result; it never ends noded."""

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
from nodestore.support.tasks import owned_task

log = logging.getLogger(__name__)

T = TypeVar("T")

RESULT_BYTES_MAX = 64 << 10
ERROR_CHARS_MAX = 2_000
_RESULT_LEVELS_MAX = 32
_REBOOT_COMMAND_S = 60.0
_CANCEL_S = 10.0


class Performer:
    """Performs actions. reboot_command: the command that reboots this PC; None: the action reboot fails."""

    def __init__(self, agent: Agent, context: Context, reboot_command: tuple[str, ...] | None) -> None:
        self._agent = agent
        self._context = context
        self._reboot_command = reboot_command

    def has_reconciled(self, desired: bytes | None) -> bool:
        """Whether the agent had no step left to execute for this value of `desired/<node>`."""
        return self._agent.has_reconciled(desired)

    def hold_driver(self, action: Action) -> AbstractAsyncContextManager[None]:
        """Hold the driver lock for `action`, so that the agent applies and stops nothing meanwhile."""
        return self._agent.hold_driver(keep_inspecting=action.name != RESTART)

    async def perform(self, action: Action) -> ActionOutcome | None:
        """Perform `action`, within `hold_driver`. Returns None if the reboot command succeeded: the PC goes down."""
        log.info("starts %s", _describe(action))
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
            log.info("the PC is about to reboot: the reboot command exited with code 0")
            return None
        log.info("finished %s", _describe(action))
        return ActionOutcome("done", result)

    async def _run_action(self, action: Action) -> Json:
        if action.name == RESTART:
            return await self._agent.restart(_describe(action))
        if action.name == REBOOT:
            return await self._reboot()
        if self._agent.driver is None:
            raise DriverError(f"no driver is in effect on this node: its only actions are {' and '.join(OWN_ACTIONS)}")
        name, driver = self._agent.driver
        offered = contract.actions_of(name, driver)
        if action.name not in offered:
            has = ", ".join([*OWN_ACTIONS, *sorted(offered)])
            raise DriverError(f"driver {name} has no action {action.name} (this node has: {has})")
        what = offered[action.name]
        return await _with_timeout(what.run(json_copy(action.args)), what.timeout_s)

    async def _reboot(self) -> None:
        if self._reboot_command is None:
            raise DriverError("this noded cannot reboot its PC: it was started without --reboot-command")
        # run it in the root directory, because the work directory need not exist
        finished = await command.run(
            self._reboot_command,
            cwd=Path(self._context.work_dir.anchor),
            env=command.environment(self._context, {}),
            timeout_s=_REBOOT_COMMAND_S,
        )
        if finished.problem is not None:
            raise DriverError(f"the reboot command failed: {finished.problem}")

    def _failed_outcome(self, action: Action, message: str, result: Json = None) -> ActionOutcome:
        line = one_line(self._agent.without_secrets(message, action.args), ERROR_CHARS_MAX)
        log.error("%s failed: %s", _describe(action), line)
        return ActionOutcome("failed", result, line)


def _describe(action: Action) -> str:
    asked_by = f", asked by {one_line(action.actor, 100)}" if action.actor else ""
    return f"action {one_line(action.name, 100)} (command {action.index}{asked_by})"


async def _with_timeout(call: Awaitable[T], timeout_s: float) -> T:
    """Return the result of `call`. Raises DriverError after `timeout_s`, or if `call` was cancelled elsewhere."""
    task = owned_task(call)
    try:
        await asyncio.wait({task}, timeout=timeout_s)
        if not task.done():
            raise DriverError(f"it did not end within {timeout_s:g} s and was cancelled")
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
        log.error("an action of the driver was cancelled but does not end; noded cannot stop until it ends")
    elif not task.cancelled() and task.exception() is not None:
        log.debug("error of a cancelled action", exc_info=task.exception())


def _bounded_result(value: Any) -> Json:
    """Return `value` if the journal can take it, else the reason for omitting it. Drivers are third-party code."""
    try:
        if not bounded(value, _RESULT_LEVELS_MAX):
            return {"omitted": f"nested more than {_RESULT_LEVELS_MAX} levels deep, or a number is too long"}
        raw = json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, TypeError) as error:
        return {"omitted": one_line(f"not JSON: {error}", 200)}
    return json.loads(raw) if len(raw) <= RESULT_BYTES_MAX else {"omitted": f"larger than {RESULT_BYTES_MAX} bytes"}
