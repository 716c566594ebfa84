"""The client library: its public names. See docs/client.md."""

from nodectl.client.blocking.blocking_client import BlockingClient
from nodectl.client.client import Client
from nodectl.client.connection.errors import CommandOutcomeUnknown
from nodectl.client.connection.leadership import Leader
from nodectl.client.connection.results import ActionDone, CommandResult, NodeChanges
from nodectl.client.connection.state import State

__all__ = [
    "ActionDone",
    "BlockingClient",
    "Client",
    "CommandOutcomeUnknown",
    "CommandResult",
    "Leader",
    "NodeChanges",
    "State",
]
