"""Loads drivers and checks their actions, and gives noded's packages the contract of `nodesdk.driver`."""

from __future__ import annotations

from importlib.metadata import entry_points

from nodesdk.driver import (
    ACTION_TIMEOUT_S_MAX,
    GROUP,
    OWN_ACTIONS,
    ActionFailed,
    Actual,
    Context,
    Driver,
    DriverAction,
    DriverError,
    DriverFactory,
    HasActions,
    HasLog,
    Settings,
    parse_settings,
)
from nodestore.errors import Invalid
from nodestore.schema.keys import check_name

__all__ = [
    "ACTION_TIMEOUT_S_MAX",
    "GROUP",
    "OWN_ACTIONS",
    "ActionFailed",
    "Actual",
    "Context",
    "Driver",
    "DriverAction",
    "DriverError",
    "DriverFactory",
    "HasActions",
    "HasLog",
    "Settings",
    "actions_of",
    "check_action_name",
    "load",
    "parse_settings",
]


def actions_of(name: str, driver: Driver) -> dict[str, DriverAction]:
    """Return the present actions of driver `name`; empty if none. Raises DriverError if they break `HasActions`."""
    try:
        offered = dict(getattr(driver, "actions", {}))
    except Exception as error:  # noqa: BLE001 - third-party code can raise anything
        raise DriverError(f"driver {name}: its actions cannot be listed: {type(error).__name__}: {error}") from None
    for action, what in offered.items():
        check_action_name(action)
        if not isinstance(what, DriverAction) or not 0 < what.timeout_s <= ACTION_TIMEOUT_S_MAX:
            raise DriverError(
                f"driver {name}: action {action} is not a DriverAction with a timeout_s up to {ACTION_TIMEOUT_S_MAX:g}"
            )
    return offered


def check_action_name(name: object) -> str:
    """Return `name` if it may name a driver's action. Raises DriverError otherwise."""
    if name in OWN_ACTIONS:
        raise DriverError(f"an action cannot be named {name!r}: noded has its own")
    try:
        if not isinstance(name, str):
            raise Invalid(f"an action cannot be named {name!r}: use text")
        return check_name("action", name)
    except Invalid as error:
        raise DriverError(error.message) from None


def load(name: str) -> DriverFactory:
    """Return the driver class with that name. Raises DriverError if it is not installed or cannot be imported."""
    found = entry_points(group=GROUP)
    for entry in found:
        if entry.name == name:
            try:
                factory: DriverFactory = entry.load()
            except Exception as error:  # noqa: BLE001 - importing third-party code can raise anything
                raise DriverError(f"driver {name} cannot be loaded: {type(error).__name__}: {error}") from None
            return factory
    installed = ", ".join(sorted({entry.name for entry in found})) or "none"
    raise DriverError(f"no driver named {name} is installed (installed: {installed})", retryable=False)
