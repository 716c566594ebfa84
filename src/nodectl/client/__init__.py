"""The client library. Everything public is named here; see docs/client.md."""

from nodectl.client.client import Client
from nodectl.client.errors import CommandOutcomeUnknown
from nodectl.client.leadership import Leader
from nodectl.client.state import State
from nodectl.client.wire import ActionDone, CommandResult, NodeChanges

__all__ = ["ActionDone", "Client", "CommandOutcomeUnknown", "CommandResult", "Leader", "NodeChanges", "State"]
