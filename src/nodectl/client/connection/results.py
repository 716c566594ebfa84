"""What a client returns that is no answer of the HTTP API itself. Those are in nodestore.schema.api_types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nodestore.schema.api_types import NodeView


@dataclass(frozen=True, slots=True)
class CommandResult:
    """What a command came to. `repeated` is true when an earlier copy with this id had taken effect."""

    index: int
    id: str
    result: Any
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class ActionDone:
    """What came of an action on one node. `state`: `done`, `failed`, `lost` (it may have taken effect or not) or
    `expired` (never begun)."""

    node: str
    state: str
    result: Any = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class NodeChanges:
    """Nodes that changed; `complete` when these are all nodes, which replaces what was known before."""

    complete: bool
    nodes: list[NodeView]
