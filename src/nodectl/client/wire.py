"""What masters answer, as types. Dictionaries are as they came: checking them is the master's work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypedDict

Consistency = Literal["linearizable", "local"]


@dataclass(frozen=True, slots=True)
class CommandResult:
    """What a command came to. `repeated` is true when an earlier copy with this id had taken effect."""

    index: int
    id: str
    result: Any
    repeated: bool = False


class MasterView(TypedDict):
    id: str
    host: str
    url: str
    role: str
    index: int
    priority: int
    version: str
    pid: int


class MemberView(TypedDict):
    id: str
    name: str
    endpoint: str
    healthy: bool
    leader: bool
    version: str
    db_bytes: int
    error: str | None


class DesiredView(TypedDict):
    generation: int
    hash: str


class NodeView(TypedDict):
    name: str
    address: str
    position: list[int] | None
    groups: list[str]
    labels: dict[str, str]
    driver: str | None
    document: dict[str, Any]
    desired: DesiredView | None
    status: dict[str, Any] | None
    alive: dict[str, Any] | None
    converged: bool
    problem: str | None


class DocumentView(TypedDict):
    index: int
    document: dict[str, Any]


class HistoryEntry(TypedDict):
    index: int
    id: str
    actor: str
    time: float
    name: str
    args: dict[str, Any]
    result: Any
    epoch: int
    term: int


class History(TypedDict):
    entries: list[HistoryEntry]
    first_retained: int | None
    index: int


class AdoptedView(TypedDict):
    version: int
    index: int


class RejectedView(TypedDict):
    version: int
    error: str


class ConfigView(TypedDict):
    current: dict[str, Any] | None
    adopted: AdoptedView | None
    rejected: RejectedView | None


SwitchoverView = TypedDict("SwitchoverView", {"from": str, "to": str, "term": Any})


class StatusView(TypedDict):
    cluster: str
    leader: dict[str, Any] | None
    masters: list[MasterView]
    members: list[MemberView]
    nodes: list[NodeView]
    config: ConfigView
    paused: dict[str, Any] | None
    problems: list[str]


@dataclass(frozen=True, slots=True)
class NodeChanges:
    """Nodes that changed; `complete` when these are all nodes, which replaces what was known before."""

    complete: bool
    nodes: list[NodeView]
