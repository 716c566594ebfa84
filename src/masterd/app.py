"""The contract of an application under its public name; see `masterd.application.contract`."""

from masterd.application.contract import (
    Application,
    Command,
    GivenUp,
    HearsNodes,
    NodeSeen,
    Transaction,
    View,
    load_application,
)

__all__ = ["Application", "Command", "GivenUp", "HearsNodes", "NodeSeen", "Transaction", "View", "load_application"]
