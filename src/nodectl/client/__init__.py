"""The client library. Everything public is named here; see docs/client.md."""

from nodectl.client.client import Client
from nodectl.client.errors import CommandOutcomeUnknown
from nodectl.client.leadership import Leader
from nodectl.client.results import ActionDone, CommandResult, NodeChanges
from nodectl.client.state import State

__all__ = ["ActionDone", "Client", "CommandOutcomeUnknown", "CommandResult", "Leader", "NodeChanges", "State"]
