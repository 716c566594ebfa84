"""What a driver is: the part of noded that knows how a node is put into its desired state.

A driver is a class named by an entry point of the group `nodectl.drivers`; an inventory names it in `driver.name`:

    [project.entry-points."nodectl.drivers"]
    relay = "ourdrivers.relay:RelayDriver"

noded makes one instance, `RelayDriver(context)`, when the node's desired state first names the driver, and another
after it has named a different driver in between. It calls one method at a time, in the one event loop, so nothing in a
driver needs a lock, and nothing in it may block: what blocks belongs in `asyncio.to_thread`. Every call must end within
a time of the driver's own choosing. A call may be cancelled when noded stops; then `stop` is called.

noded is level-triggered: it compares and plans again on every change, on every `wake`, on a tick of a few seconds, and
after its own restart. So a driver needs no timers and no retries; it says what is, and does what it is told.

A driver may also offer actions, things to be done once when an operator asks for them: see `HasActions`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from nodesdk.json_types import Document, Json
from nodesdk.models import Spec

GROUP = "nodectl.drivers"
OWN_ACTIONS = ("restart", "reboot")
"""What noded does itself, whatever the driver: it cannot be the name of a driver's action."""
ACTION_TIMEOUT_S_MAX = 3_600.0


class DriverError(Exception):
    """The driver could not do it. `message` is one sentence for the operator, who reads it in the node's status.

    retryable: the same may succeed later (a disk is full, a program is not installed yet). noded tries again with
    growing pauses. Otherwise only another desired state can help (a setting makes no sense): then *nothing has been
    changed*, and noded keeps the state before running.
    """

    def __init__(self, message: str, *, retryable: bool = True) -> None:
        super().__init__(message)
        self.message = message
        self.retryable = retryable


class ActionFailed(DriverError):
    """An action has failed, and there is more to say than the message. result: JSON, for the operator."""

    def __init__(self, message: str, result: Json = None) -> None:
        super().__init__(message)
        self.result = result


@dataclass(frozen=True)
class Actual:
    """What a driver found.

    state: what operators see as `status.actual`. Only what changes when something has happened: each difference is
    written to etcd, so no uptimes or temperatures.
    drift: how what is differs from what was applied last, one sentence; None when it does not.
    failed: the drift is a failure of the thing driven (a crash), not something done to it from outside.
    """

    state: Document = field(default_factory=dict)
    drift: str | None = None
    failed: bool = False


@dataclass(frozen=True)
class Context:
    """What a driver gets from noded.

    work_dir: absolute; the driver makes it when it needs it. It may be wiped at any time. The directory `.noded` in it
    is noded's own.
    nonce: another one for each noded process.
    wake: makes noded look (`inspect`) soon. Cheap, callable at any time from the loop's thread.
    tasks: for a driver's background tasks. One that fails ends noded: let none fail.
    """

    node: str
    cluster: str
    work_dir: Path
    nonce: str
    wake: Callable[[], None]
    tasks: asyncio.TaskGroup


class Driver(Protocol):
    """The contract. See the module's text for who calls what when."""

    settle_s: float
    """For how long what `apply` did must hold before an earlier failure counts as over, in seconds. 0: at once."""

    async def inspect(self) -> Actual:
        """What is. Cheap, and without effect: it runs at every look. DriverError when it cannot be told; then noded
        applies anew, with growing pauses."""

    async def apply(self, spec: Spec, previous: Spec | None) -> None:
        """Bring about `spec`; return when it is in effect. Must give the same result however often it is called,
        and whatever an earlier, even a killed, noded has left behind.

        previous: what this instance applied last, None when it is not known; for a driver that can do less when
        only the document changed. It may equal `spec`: then something drifted.
        """

    async def stop(self) -> None:
        """End what is driven, left-overs of an earlier noded included. Also called when nothing is."""


@dataclass(frozen=True)
class DriverAction:
    """Something that a driver can do once.

    run: gets the arguments that the operator gave, an object of its own, and returns what is to be told of it: a JSON
    value of up to 64 KiB, or None. DriverError (`retryable` means nothing here) or ActionFailed when it has failed.
    timeout_s: after that it is cancelled, and has failed.
    """

    run: Callable[[Document], Awaitable[Json]]
    timeout_s: float = 60.0


class HasActions(Protocol):
    """What a driver may have too.

    noded runs at most one action at a time, and neither `apply` nor `stop` while it runs; but `inspect` it may call.
    It runs an action at most once: when noded is killed meanwhile, nobody knows how far it came, and nobody runs it
    again. It is cancelled when noded stops, as any call; then `stop` is called. What it changes is found by `inspect`
    as if somebody else had: what contradicts the node's desired state is put right.
    """

    @property
    def actions(self) -> Mapping[str, DriverAction]:
        """By name (letters, digits, '.', '_' and '-'; not one of OWN_ACTIONS). Cheap: asked for at each action, also
        before anything was applied or after `stop`. It may depend on what was applied last."""


DriverFactory = Callable[[Context], Driver]
S = TypeVar("S", bound=BaseModel)


class Settings(BaseModel):
    """Base of a driver's settings: a name that is not known is a typing error, and refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def parse_settings(model: type[S], settings: dict[str, Any]) -> S:
    """The settings in a spec as the driver's model; DriverError, not retryable, naming the first thing wrong."""
    try:
        return model.model_validate(settings)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = "".join(f" {part}" if at == 0 else f".{part}" for at, part in enumerate(first["loc"])) or "s"
        message = first["msg"].removeprefix("Value error, ")
        raise DriverError(f"driver setting{where}: {message}", retryable=False) from None
