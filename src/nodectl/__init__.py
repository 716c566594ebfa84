"""The command line for operators, and the client library: `from nodectl import Client`.

The library is imported at the first use of one of its names, so that `nodectl --help` does not load it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nodectl.client import BlockingClient, Client, CommandOutcomeUnknown, CommandResult, Leader, State

__all__ = ["BlockingClient", "Client", "CommandOutcomeUnknown", "CommandResult", "Leader", "State"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from nodectl import client

    return getattr(client, name)
