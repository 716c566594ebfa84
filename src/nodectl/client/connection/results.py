"""Results of the client that are not plain answers of the HTTP API (those are in nodestore.schema.api_types)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nodestore.schema.api_types import NodeView


@dataclass(frozen=True, slots=True)
class CommandResult:
    """The result of a committed command. `index`: its number in the journal. `result`: what its handler returned.

    `repeated`: an earlier copy with this `id` had taken effect, and this is its result.
    """

    index: int
    id: str
    result: Any
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class ActionDone:
    """The outcome of an action on one node.

    `state`: `done`, `failed`, `lost` (it may or may not have taken effect) or `expired` (it was never begun).
    """

    node: str
    state: str
    result: Any = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class NodeChanges:
    """Nodes that changed. If `complete`, these are all nodes, and they replace everything received before."""

    complete: bool
    nodes: list[NodeView]
