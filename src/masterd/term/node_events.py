"""What the nodes did, as commands for the journal: the ends of their actions, and what the application says to it."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterator
from typing import Any

from masterd.application.contract import Application, HearsNodes, NodeSeen
from masterd.replication.cluster_view import ClusterView
from masterd.state_machine.actions import ACTION_DONE, ActionClosure, closure_of
from masterd.state_machine.batch import CommandRequest
from masterd.state_machine.state import State
from masterd.state_machine.transaction import Overlay
from nodestore.etcd.session import Compare, Etcd, cmp_mod
from nodestore.schema.keys import Keys
from nodestore.schema.models import Acted, decode_or_none
from nodestore.support.jsonio import Json

NODE_CHANGED = "node.changed"
_OMITTED = {"omitted": "the journal does not take what the node told"}


class NodeEvents:
    """The nodes that something has happened to, each once, until the leader has dealt with it."""

    def __init__(
        self, cluster_view: ClusterView, application: Application, epoch: int, wake: Callable[[], None]
    ) -> None:
        self._cluster_view, self._epoch, self._wake = cluster_view, epoch, wake
        self._node_changed = application.node_changed if isinstance(application, HearsNodes) else None
        self._reported: dict[str, NodeSeen] = {}
        self._nodes: dict[str, None] = {}

    def start_listening(self) -> Callable[[], None]:
        """Listen, beginning with all nodes there are; returns how to stop that."""
        board = self._cluster_view
        if self._node_changed is None:
            return lambda: None
        self._nodes = dict.fromkeys([*board.status.items, *board.alive.items])
        undo = [board.status.subscribe(self._node), board.alive.subscribe(self._node)]

        def stop() -> None:
            for end in undo:
                end()

        return stop

    def _node(self, node: str) -> None:
        self._nodes[node] = None
        self._wake()

    # --- the application ---

    def take_change_requests(self, most: int, state: State) -> list[CommandRequest]:
        """Commands that tell the application of up to `most` nodes; they are dealt with once this is called."""
        requests: list[CommandRequest] = []
        while self._nodes and len(requests) < most:
            node = next(iter(self._nodes))
            del self._nodes[node]
            seen = NodeSeen(node in self._cluster_view.alive.items, self._cluster_view.status.items.get(node))
            if node in state.inventory.nodes and not _same(seen, self._reported.get(node)):
                self._reported[node] = seen
                requests.append(self._change(node, seen))
        return requests

    def _change(self, node: str, seen: NodeSeen) -> CommandRequest:
        hears = self._node_changed

        def work(transaction: Overlay) -> Json:
            if hears is not None:
                hears(transaction, node, seen)
            return None

        status = seen.status
        args: dict[str, Any] = {"node": node, "present": seen.present}
        if status is not None:
            args |= {"phase": status.phase, "generation": status.observed_generation, "error": status.error}
        return CommandRequest(f"{NODE_CHANGED}-{secrets.token_hex(8)}", NODE_CHANGED, args, node, internal_handler=work)

    def requeue(self, node: str) -> None:
        """What was told of this node has come to nothing: it is news again."""
        self._reported.pop(node, None)
        self._nodes[node] = None

    # --- actions ---

    async def refetch_closure(
        self, etcd: Etcd, keys: Keys, ending: ActionClosure
    ) -> tuple[ActionClosure, Compare] | None:
        """The same ending, if etcd itself still has the action as not begun, and the compare that keeps it so."""
        found = await etcd.get(keys.acted_of(ending.node))
        acted = decode_or_none(Acted, found)  # where it is unreadable, no node begins anything
        again = closure_of(ending.node, ending.action, acted, epoch=self._epoch, now=math.inf)
        if again is None or not again.requires_not_started:
            return None
        return again, cmp_mod(keys.acted_of(ending.node), 0 if found is None else found.mod_revision)

    def closures(self, state: State, now: float, *, not_started: bool) -> Iterator[ActionClosure]:
        """The actions that have ended: those the nodes told of, or (`not_started`) those nobody has begun in time."""
        for node, pending in state.actions.items():
            acted = self._cluster_view.acted.items.get(node)
            for action in pending:
                ending = closure_of(node, action, acted, epoch=self._epoch, now=now)
                if ending is not None and ending.requires_not_started == not_started:
                    yield ending


def closing_request(ending: ActionClosure, *, omit_result: bool = False) -> CommandRequest:
    """The command that closes an action. Its id is the action's own, so that it is closed once. `omit_result`:
    without what
    the node told of it, which the journal does not take."""
    outcome: Json = {"state": ending.state, "result": _OMITTED, "error": None} if omit_result else ending.outcome
    return CommandRequest(
        ending.id, ACTION_DONE, ending.args, ending.node,
        internal_handler=lambda _: outcome, closes={ending.node: (ending.action.index,)},
    )  # fmt: skip


def next_expiry_at(state: State) -> float | None:
    """When the first pending action expires, by the leader's clock; None when none pends."""
    return min((action.expires for pending in state.actions.values() for action in pending), default=None)


def _same(one: NodeSeen, other: NodeSeen | None) -> bool:
    """Whether they differ in nothing but the status' time."""
    if other is None or one.present != other.present:
        return False
    return other.status is None if one.status is None else one.status.same_but_for_time(other.status)
