"""One-shot actions on nodes: masterd's own command for them, and how they come to their end.

An action is asked for by a command, and pends, in the state and in the view `actions/<node>`, until a later command
closes it. The node writes `acted/<node>` before it begins one, comparing the view; the leader closes one that was
never begun comparing `acted/<node>`. So of beginning and expiring exactly one happens, whoever is late.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from masterd.application.contract import Command, Transaction
from nodestore.errors import NotFound
from nodestore.schema.models import Acted, Action, ActionResult
from nodestore.support.jsonio import Json

NODE_ACT = "node.act"
ACTION_DONE = "action.done"
DRILL_MARK = "drill.mark"


class NodeAct(BaseModel):
    """Have a node, or all nodes of a group, do something once: restart, reboot, or an action of the node's driver."""

    model_config = ConfigDict(extra="forbid")

    node: str | None = None
    group: str | None = None
    action: str
    args: dict[str, Any] = Field(default_factory=dict)
    expires_s: float = Field(default=60.0, gt=0, description="not begun later than this")

    @model_validator(mode="after")
    def _require_one_target(self) -> Self:
        if (self.node is None) == (self.group is None):
            raise ValueError("give either a node or a group")
        return self


def _act(transaction: Transaction, args: NodeAct) -> Json:
    nodes = (args.node,) if args.node is not None else _members(transaction, str(args.group))
    for node in nodes:
        transaction.act(node, args.action, args.args, expires_s=args.expires_s)
    return {"action": args.action, "nodes": list(nodes)}


def _members(transaction: Transaction, group: str) -> tuple[str, ...]:
    try:
        return transaction.config.members_of(group)
    except KeyError:
        raise NotFound(f"there is no group {group!r} in the configuration") from None


class DrillMark(BaseModel):
    """Change nothing: a line in the journal, by which a drill sees that commands are committed, each once."""

    model_config = ConfigDict(extra="forbid")


COMMON_COMMANDS: Mapping[str, Command] = {
    NODE_ACT: Command(NodeAct, _act, "have nodes do something once"),
    DRILL_MARK: Command(DrillMark, lambda transaction, args: {}, "change nothing: a drill's mark in the journal"),
}
"""Commands that every application has, unless it has one of that name itself."""


@dataclass(frozen=True, slots=True)
class ActionClosure:
    """How a pending action ends: a command for the journal. `requires_not_started`: only if the node has not begun it
    by then."""

    node: str
    action: Action
    state: str
    result: Json = None
    error: str | None = None
    requires_not_started: bool = False

    @property
    def id(self) -> str:
        return f"{ACTION_DONE}-{self.node}-{self.action.epoch}-{self.action.index}"

    @property
    def args(self) -> dict[str, Json]:
        return {"node": self.node, "index": self.action.index, "action": self.action.name}

    @property
    def outcome(self) -> dict[str, Json]:
        return {"state": self.state, "result": self.result, "error": self.error}


def closure_of(node: str, action: Action, acted: Acted | None, *, epoch: int, now: float) -> ActionClosure | None:
    """How this pending action has ended; None when it has not. Times are the leader's.

    One from before the store was restored is over: whether it ran is not known, and the node will not begin it.
    """
    if action.epoch < epoch:
        return ActionClosure(node, action, "lost", error="the store was restored from a backup: it may have run or not")
    found = _result(action.index, acted, epoch)
    if found is not None:
        if found.state == "started":
            return None
        return ActionClosure(node, action, found.state, found.result, found.error)
    if acted is not None and acted.epoch == epoch and acted.floor >= action.index:
        return ActionClosure(
            node, action, "lost", error="the node has begun it or a later one, and knows no result of it"
        )
    if action.expires < now:
        return ActionClosure(
            node, action, "expired", error="the node did not begin it in time", requires_not_started=True
        )
    return None


def _result(index: int, acted: Acted | None, epoch: int) -> ActionResult | None:
    if acted is None or acted.epoch != epoch:
        return None
    return next((result for result in acted.results if result.index == index), None)
