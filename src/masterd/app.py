"""The contract of an application under the name that earlier releases documented; see `nodesdk`."""

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
