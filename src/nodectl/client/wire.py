"""What masters answer, as types. Dictionaries are as they came: checking them is the master's work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NotRequired, TypedDict

Consistency = Literal["linearizable", "local"]


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
    document: dict[str, Any] | None
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
    config_version: NotRequired[int]


class History(TypedDict):
    """`searched`: the last index that was looked at; masters of version 0.1 do not say it."""

    entries: list[HistoryEntry]
    first_retained: int | None
    index: int
    searched: NotRequired[int | None]


class AdoptedView(TypedDict):
    version: int
    index: int


class RejectedView(TypedDict):
    version: int
    error: str


class ConfigView(TypedDict):
    """`version` is the one to compare with when a new one is applied; masters of version 0.1 do not say it.
    `problem`: why `current` cannot be read."""

    current: dict[str, Any] | None
    version: NotRequired[int]
    problem: NotRequired[str | None]
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
