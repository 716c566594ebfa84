"""The contract of a driver: the part of noded that brings a node into its desired state.

A driver is a class. An entry point of the group `nodectl.drivers` names it, and an inventory refers to it by
`driver.name`:

    [project.entry-points."nodectl.drivers"]
    relay = "ourdrivers.relay:RelayDriver"

noded makes an instance, `RelayDriver(context)`, when the node's desired state first names the driver. When the desired
state names another driver or none, noded stops the driver and then drops the instance. It calls one method at a time,
in one event loop, so a driver needs no locks. No method may block: blocking calls belong in `asyncio.to_thread`. The
driver bounds the time of every call itself. A call may be cancelled when noded stops; then `stop` is called.

noded is level-triggered: it compares and plans again on every change, on every `wake`, on a tick of a few seconds, and
after its own restart. So a driver needs no timers and no retries: it reports the actual state and applies what is asked
for.

A driver may also offer actions, which run once when an operator requests them: see `HasActions`. It may name a log,
which `nodectl node logs` shows: see `HasLog`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from nodesdk.json_types import Document, Json
from nodesdk.models import Spec

GROUP = "nodectl.drivers"
OWN_ACTIONS = ("restart", "reboot")
"""Actions of noded itself, for every driver. A driver's action cannot have these names."""
ACTION_TIMEOUT_S_MAX = 3_600.0


class DriverError(Exception):
    """The driver failed. `message` is one sentence for the operator, shown in the node's status.

    retryable: a retry may succeed (a disk is full, a program is not installed yet). noded retries with growing pauses.
    False: only another desired state can help, for example because a setting makes no sense. Pass False only if
    *nothing was changed*, because noded then keeps the previous state running.
    """

    def __init__(self, message: str, *, retryable: bool = True) -> None:
        super().__init__(message)
        self.message = message
        self.retryable = retryable


class ActionFailed(DriverError):
    """An action failed and has a result besides the message. result: JSON, for the operator."""

    def __init__(self, message: str, result: Json = None) -> None:
        super().__init__(message)
        self.result = result


@dataclass(frozen=True)
class Actual:
    """The actual state, as a driver found it.

    state: shown to operators as `status.actual`. Each difference is written to etcd, so it must hold no values that
    change all the time, such as uptimes and temperatures.
    drift: how the actual state differs from what was applied last, in one sentence; None if it does not.
    failed: whether the drift is a failure of what is driven, such as a crash. False: it was changed from outside.
    unsettled_s: for how many more seconds the state must stay as it is until the node counts as ready. For example, a
    program that was just started must run for some seconds first. math.inf: the node becomes ready only by an event,
    such as the first successful health check.
    waits_for: what the node waits for until then, in a few words that do not change all the time.
    """

    state: Document = field(default_factory=dict)
    drift: str | None = None
    failed: bool = False
    unsettled_s: float = field(default=0.0, compare=False)
    waits_for: str = field(default="", compare=False)


@dataclass(frozen=True)
class Context:
    """What noded gives to a driver.

    work_dir: an absolute path. The driver creates the directory when it needs it. It may be wiped at any time. The
    directory `.noded` in it belongs to noded.
    nonce: unique to each noded process.
    wake: makes noded inspect soon. Cheap; may be called at any time from the event loop's thread.
    tasks: for background tasks of the driver. A task that fails ends noded, so no task may fail.
    """

    node: str
    cluster: str
    work_dir: Path
    nonce: str
    wake: Callable[[], None]
    tasks: asyncio.TaskGroup


class Driver(Protocol):
    """The contract. The docstring of the module says how noded uses a driver."""

    settle_s: float
    """For how many seconds the applied state must hold before earlier failures are forgotten. 0: at once."""

    async def inspect(self) -> Actual:
        """Return the actual state. Cheap and without side effects: noded calls it often.

        Raises DriverError if the state cannot be determined; then noded applies again, with growing pauses.
        """

    async def apply(self, spec: Spec, previous: Spec | None) -> None:
        """Bring about `spec`; return when it is in effect.

        Idempotent, whatever an earlier noded has left behind, even one that was killed.
        previous: what this instance applied last; None if unknown. It lets a driver do less if only the document
        changed. When noded repairs a drift, `previous` equals `spec`.
        """

    async def stop(self) -> None:
        """Stop what is driven, leftovers of an earlier noded included. Also called if nothing is driven."""


@dataclass(frozen=True)
class DriverAction:
    """Something that a driver can do once.

    run: gets the operator's arguments, an object that it may change, and returns the result: a JSON value of up to
    64 KiB, or None. Raises DriverError (`retryable` has no meaning here) or ActionFailed if it failed.
    timeout_s: after this many seconds it is cancelled and has failed.
    """

    run: Callable[[Document], Awaitable[Json]]
    timeout_s: float = 60.0


class HasActions(Protocol):
    """Optional part of a driver.

    noded runs at most one action at a time, and calls neither `apply` nor `stop` meanwhile; but it may call `inspect`.
    It runs an action at most once: if noded is killed meanwhile, the effect is unknown and nothing runs it again.
    An action is cancelled when noded stops, like any call; then `stop` is called. What an action changes counts as a
    change from outside: `inspect` reports it, and noded corrects what contradicts the desired state.
    """

    @property
    def actions(self) -> Mapping[str, DriverAction]:
        """Actions by name (letters, digits, '.', '_' and '-'; none of OWN_ACTIONS).

        Cheap: read at each action, also before anything was applied and after `stop`. The mapping may depend on what
        was applied last.
        """


class HasLog(Protocol):
    """Optional part of a driver whose program has a log. noded only reads it, when an operator asks for it."""

    @property
    def log_files(self) -> Sequence[Path] | None:
        """Absolute paths of the log's regular files, the newest first; empty if the present settings keep no log.

        None if that is not known, because nothing was applied yet.

        A file is only appended to, or renamed to the path of the next older one. Files may be missing. Cheap: read at
        each request, also before anything was applied and after `stop`.
        """


class HasSettings(Protocol):
    """Optional part of a driver: its class has the model of its settings.

    `nodectl config validate` and `apply` check an inventory with it, on PCs where the driver is installed.
    """

    settings_model: type[BaseModel]


DriverFactory = Callable[[Context], Driver]
S = TypeVar("S", bound=BaseModel)


class Settings(BaseModel):
    """Base of a driver's settings. Unknown names are refused, because they are typing errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def parse_settings(model: type[S], settings: dict[str, Any]) -> S:
    """The settings of a spec as the driver's model. Raises DriverError, not retryable, for the first problem."""
    try:
        return model.model_validate(settings)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = "".join(f" {part}" if at == 0 else f".{part}" for at, part in enumerate(first["loc"])) or "s"
        message = first["msg"].removeprefix("Value error, ")
        raise DriverError(f"driver setting{where}: {message}", retryable=False) from None
