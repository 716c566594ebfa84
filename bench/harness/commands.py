"""The commands that the measurements send. Each changes its node's document, and so its spec."""

from __future__ import annotations

import itertools

from nodectl import Client
from nodectl.client.connection.results import CommandResult

_numbers = itertools.count()


def next_command() -> tuple[str, dict[str, str]]:
    """Return a node and values that differ from its current ones."""
    number = next(_numbers)
    return f"n{number % 9 + 1}", {"text": f"bench {number}"}


async def send_command(client: Client) -> CommandResult:
    return await client.node_set(*next_command())
