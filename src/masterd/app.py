"""The former import path of the contract of an application, kept for applications that use it. See `nodesdk`."""

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
