"""A user's driver. It imports only nodesdk."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from nodesdk import (
    ActionFailed,
    Actual,
    Context,
    Document,
    Driver,
    DriverAction,
    DriverError,
    HasActions,
    Json,
    Settings,
    Spec,
    parse_settings,
)
from nodesdk.helpers import OffLoop, environment, run, write_atomic


class RelaySettings(Settings):
    port: int = Field(ge=1, le=8)


class RelayDriver:
    settle_s = 1.0

    def __init__(self, context: Context) -> None:
        self._context = context
        self._line = OffLoop("the relay")
        self._state: Document = {}

    async def inspect(self) -> Actual:
        if not self._state:
            return Actual()
        file = self._context.work_dir / "relay"
        return Actual(self._state, drift=None if file.exists() else "the relay was switched by hand")

    async def apply(self, spec: Spec, previous: Spec | None) -> None:
        settings = parse_settings(RelaySettings, spec.settings)
        if not isinstance(spec.document.get("on", False), bool):
            raise DriverError("document: on is not true or false", retryable=False)
        if previous is None or previous.document != spec.document:
            content = f"{settings.port} {spec.document}".encode()
            await self._line.run(lambda: write_atomic(self._context.work_dir / "relay", content), timeout_s=5)
        self._state = {"port": settings.port}

    async def stop(self) -> None:
        self._state = {}

    @property
    def actions(self) -> Mapping[str, DriverAction]:
        return {"blink": DriverAction(self._blink, timeout_s=10)}

    async def _blink(self, args: Document) -> Json:
        done = await run(
            ["true"], cwd=self._context.work_dir, env=environment(self._context, {}), timeout_s=5, stdin=b"{}"
        )
        if done.problem is not None:
            raise ActionFailed(done.problem, {"code": done.code})
        return {"blinked": args.get("times", 1)}


def as_driver(context: Context) -> Driver:
    """Return the class as a Driver, so that type checkers verify it."""
    return RelayDriver(context)


def as_actor(context: Context) -> HasActions:
    return RelayDriver(context)
