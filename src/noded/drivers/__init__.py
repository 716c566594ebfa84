"""Drivers under their public name. The contract and all that it says are in `noded.drivers.contract`.

Below it are the built-in drivers, helpers for all drivers, and the conformance test. Modules inside this package import
`noded.drivers.contract`, not this face.
"""

from noded.drivers.contract import (
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
    Settings,
    actions_of,
    check_action_name,
    load,
    parse_settings,
)

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
    "Settings",
    "actions_of",
    "check_action_name",
    "load",
    "parse_settings",
]
