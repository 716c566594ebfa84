"""The former import path of the contract of an application. Kept for applications written for it; see `nodesdk`."""

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
