"""The contract of drivers under the name that earlier releases documented; see `nodesdk.driver`.

The subpackages hold the built-in drivers, helpers for drivers, and the conformance checks. Modules inside this package
import `noded.drivers.contract`, not this module.
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
