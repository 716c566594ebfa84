"""Actions that run a configured command: the setting `actions` of the drivers `process` and `exec`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, Field

from noded.drivers.contract import (
    ACTION_TIMEOUT_S_MAX,
    ActionFailed,
    Context,
    DriverAction,
    DriverError,
    Settings,
    check_action_name,
)
from noded.drivers.support import command
from noded.drivers.support.command import Argv, FinishedCommand
from noded.drivers.support.output import decode_output
from nodestore.support import jsonio
from nodestore.support.jsonio import Document, Json

_KILL_S = 30.0
"""Seconds that killing a command may take beyond its time limit, because a process may hang in the kernel."""
_UNSHOWABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f]")


def _check_name(name: str) -> str:
    try:
        return check_action_name(name)
    except DriverError as error:
        raise ValueError(error.message) from None


class ActionSettings(Settings):
    """Base of the settings of a driver whose actions run configured commands."""

    actions: dict[Annotated[str, AfterValidator(_check_name)], Argv] = Field(
        default_factory=dict,
        max_length=100,
        description="commands by action name; each is run once when an operator requests it",
    )
    action_timeout_s: float = Field(
        default=60.0,
        gt=0,
        le=ACTION_TIMEOUT_S_MAX - _KILL_S,
        description="time limit; then the command and all processes it started are killed",
    )


def configured_actions(
    settings: ActionSettings | None, context: Context, cwd: str, environment: Mapping[str, str | None]
) -> dict[str, DriverAction]:
    """Return the actions of the settings, by name. environment: see `command.environment`."""
    if settings is None:
        return {}
    return {
        name: _action(name, argv, settings.action_timeout_s, context, cwd, environment)
        for name, argv in settings.actions.items()
    }


def _action(
    name: str, argv: Argv, timeout_s: float, context: Context, cwd: str, environment: Mapping[str, str | None]
) -> DriverAction:
    async def run(args: Document) -> Json:
        finished = await command.run(
            argv,
            cwd=command.make_directory(context, cwd),
            env={**command.environment(context, environment), "NODECTL_ACTION": name},
            timeout_s=timeout_s,
            stdin=jsonio.dumps(args),
            end_only=True,
        )
        result = _action_result(finished)
        if finished.problem is not None:
            raise ActionFailed(finished.problem, result)
        return result

    return DriverAction(run, timeout_s + _KILL_S)


def _action_result(finished: FinishedCommand) -> Document:
    """Return the exit code and the end of stdout and stderr, without control characters."""
    streams = {"output": finished.stdout, "errors": finished.stderr}
    shown = {name: _UNSHOWABLE.sub("\ufffd", decode_output(raw)) for name, raw in streams.items() if raw}
    return {"exit_code": finished.code, **shown}


def same_but_for_actions(one: ActionSettings, other: ActionSettings | None) -> bool:
    """Whether the two differ at most in their actions, so that the program need not be restarted."""
    changes = {"actions": {}, "action_timeout_s": 1.0}
    return other is not None and one.model_copy(update=changes) == other.model_copy(update=changes)
