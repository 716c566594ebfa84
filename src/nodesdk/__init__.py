"""The public interface of nodectl for authors of applications and drivers. Typed; everything else is private.

    from nodesdk import App, Transaction

    app = App("counter")

    @app.command
    def add(tx: Transaction, name: str, by: int = 1) -> int: ...

The packages, from top to bottom:

    testing         an application in memory: commands, documents, specs, takeovers; and checks of its contract
    conformance     checks of a driver's contract
    helpers         helpers for drivers: commands, atomic files, calls that may block
    scenes          the built-in application
    app             `App`: an application from decorated functions
    application     the contract of an application
    driver          the contract of a driver
    models, names, json_types, errors

This is the lowest layer: nodestore and the programs import it. Only `testing`, `conformance` and `helpers` import
nodestore and the programs in turn, because they run an author's code as the programs do.

A name is imported when it is first used, so that programs that need only the errors start fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nodesdk.app import App
    from nodesdk.application import (
        Application,
        Command,
        ConfigChange,
        GivenUp,
        HasDocumentNodes,
        HasNodeDocuments,
        HasSecretFields,
        HearsConfig,
        HearsNodes,
        NodeSeen,
        Transaction,
        View,
    )
    from nodesdk.driver import (
        ActionFailed,
        Actual,
        Context,
        Driver,
        DriverAction,
        DriverError,
        HasActions,
        HasLog,
        HasSettings,
        Settings,
        parse_settings,
    )
    from nodesdk.errors import (
        Conflict,
        DefinitionError,
        Invalid,
        NodectlError,
        NotFound,
        Refused,
        TooLarge,
    )
    from nodesdk.json_types import Document, Json
    from nodesdk.models import (
        Defaults,
        DriverConfig,
        GroupConfig,
        Inventory,
        MasterConfig,
        Name,
        NodeConfig,
        Phase,
        Secret,
        Spec,
        Status,
    )
    from nodesdk.names import check_name

__all__ = [
    "ActionFailed",
    "Actual",
    "App",
    "Application",
    "Command",
    "ConfigChange",
    "Conflict",
    "Context",
    "Defaults",
    "DefinitionError",
    "Document",
    "Driver",
    "DriverAction",
    "DriverConfig",
    "DriverError",
    "GivenUp",
    "GroupConfig",
    "HasActions",
    "HasDocumentNodes",
    "HasLog",
    "HasNodeDocuments",
    "HasSecretFields",
    "HasSettings",
    "HearsConfig",
    "HearsNodes",
    "Invalid",
    "Inventory",
    "Json",
    "MasterConfig",
    "Name",
    "NodeConfig",
    "NodeSeen",
    "NodectlError",
    "NotFound",
    "Phase",
    "Refused",
    "Secret",
    "Settings",
    "Spec",
    "Status",
    "TooLarge",
    "Transaction",
    "View",
    "check_name",
    "parse_settings",
]

if not TYPE_CHECKING:  # so that a type checker refuses names that do not exist
    _MODULES = {
        name: module
        for module, names in {
            "app": "App",
            "application": "Application Command ConfigChange GivenUp HasDocumentNodes HasNodeDocuments HasSecretFields "
            "HearsConfig HearsNodes NodeSeen Transaction View",
            "driver": "ActionFailed Actual Context Driver DriverAction DriverError HasActions HasLog HasSettings "
            "Settings parse_settings",
            "errors": "Conflict DefinitionError Invalid NodectlError NotFound Refused TooLarge",
            "json_types": "Document Json",
            "models": "Defaults DriverConfig GroupConfig Inventory MasterConfig Name NodeConfig Phase Secret Spec "
            "Status",
            "names": "check_name",
        }.items()
        for name in names.split()
    }

    def __getattr__(name):
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
        globals()[name] = value
        return value

    def __dir__():
        return sorted({*globals(), *__all__})
