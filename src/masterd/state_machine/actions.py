"""One-shot actions on nodes: the command that requests one, and the decision whether and how it has ended. Pure.

A command requests an action. The action is pending, in the state and in the view `actions/<node>`, until a later
command closes it. Before the node begins an action, it writes `acted/<node>` in a transaction that compares
`actions/<node>`. The leader lets an action expire in a transaction that compares `acted/<node>`. So an action either
begins or expires, never both, even if one of the two transactions is late.
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
    """Run an action once on a node, or on all nodes of a group: restart, reboot, or an action of the node's driver."""

    model_config = ConfigDict(extra="forbid")

    node: str | None = None
    group: str | None = None
    action: str
    args: dict[str, Any] = Field(default_factory=dict)
    expires_s: float = Field(default=60.0, gt=0, description="seconds after which the node no longer begins the action")

    @model_validator(mode="after")
    def _require_one_target(self) -> Self:
        if (self.node is None) == (self.group is None):
            raise ValueError("give either `node` or `group`")
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
    """Change nothing. A drill sends this command, and then checks that the journal holds it exactly once."""

    model_config = ConfigDict(extra="forbid")


COMMON_COMMANDS: Mapping[str, Command] = {
    NODE_ACT: Command(NodeAct, _act, "run an action once on nodes"),
    DRILL_MARK: Command(DrillMark, lambda transaction, args: {}, "change nothing: a mark of a drill in the journal"),
}
"""Commands that masterd adds to every application. A command of the application with the same name takes precedence."""


@dataclass(frozen=True, slots=True)
class ActionClosure:
    """The command that closes a pending action, with the action's final state.

    requires_not_started: the command may be committed only if the node has not begun the action.
    """

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
    """How this pending action has ended; None if it has not.

    acted: what the node has written about its actions. now: seconds since the Unix epoch, by the leader's clock.
    """
    if action.epoch < epoch:  # requested before a backup was restored: the node will not begin it
        return ActionClosure(
            node, action, "lost", error="the store was restored from a backup: whether the action ran is unknown"
        )
    recorded = _result(action.index, acted, epoch)
    if recorded is not None:
        if recorded.state == "started":
            return None
        return ActionClosure(node, action, recorded.state, recorded.result, recorded.error)
    if acted is not None and acted.epoch == epoch and acted.floor >= action.index:
        return ActionClosure(
            node, action, "lost", error="the node has begun this action or a later one, but has no result of this one"
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
