"""Collects what happened on the nodes, and builds the commands for it.

There are two kinds of events: a change of a node's status or presence, which the application handles, and the end of an
action, which closes the action. `action_closing.py` submits the commands.
"""

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
from nodestore.schema.limits import ACTOR_BYTES_MAX, TEXT_BYTES_MAX, shortened
from nodestore.schema.models import Acted, decode_or_none
from nodestore.support.jsonio import Json

NODE_CHANGED = "node.changed"
_OMITTED = {"omitted": "the node's result could not be stored in the journal"}


class NodeEvents:
    """Collects the nodes whose status or presence changed, each once, until the leader turns them into commands."""

    def __init__(
        self, cluster_view: ClusterView, application: Application, epoch: int, wake: Callable[[], None]
    ) -> None:
        self._cluster_view, self._epoch, self._wake = cluster_view, epoch, wake
        self._node_changed = application.node_changed if isinstance(application, HearsNodes) else None
        self._reported: dict[str, NodeSeen] = {}
        self._changed_nodes: dict[str, None] = {}

    def start_listening(self) -> Callable[[], None]:
        """Subscribe to changes of nodes, and mark all known nodes as changed; return the function that unsubscribes."""
        view = self._cluster_view
        if self._node_changed is None:
            return lambda: None
        self._changed_nodes = dict.fromkeys([*view.status.items, *view.alive.items])
        unsubscribe = [view.status.subscribe(self._mark_changed), view.alive.subscribe(self._mark_changed)]

        def stop() -> None:
            for stop_one in unsubscribe:
                stop_one()

        return stop

    def _mark_changed(self, node: str) -> None:
        self._changed_nodes[node] = None
        self._wake()

    # --- the application ---

    @property
    def has_changes(self) -> bool:
        """Whether a node has changed since the last call of `take_change_requests`."""
        return bool(self._changed_nodes)

    def take_change_requests(self, count_max: int, state: State) -> list[CommandRequest]:
        """Remove up to `count_max` changed nodes; return one command each, which calls the handler `node_changed`."""
        requests: list[CommandRequest] = []
        while self._changed_nodes and len(requests) < count_max:
            node = next(iter(self._changed_nodes))
            del self._changed_nodes[node]
            seen = NodeSeen(node in self._cluster_view.alive.items, self._cluster_view.status.items.get(node))
            if node in state.inventory.nodes and not _same(seen, self._reported.get(node)):
                self._reported[node] = seen
                requests.append(self._change(node, seen))
        return requests

    def _change(self, node: str, seen: NodeSeen) -> CommandRequest:
        node_changed = self._node_changed

        def work(transaction: Overlay) -> Json:
            if node_changed is not None:
                node_changed(transaction, node, seen)
            return None

        status = seen.status
        args: dict[str, Any] = {"node": node, "present": seen.present}
        if status is not None:
            error = None if status.error is None else shortened(status.error, TEXT_BYTES_MAX)
            args |= {"phase": status.phase, "generation": status.observed_generation, "error": error}
        id, actor = f"{NODE_CHANGED}-{secrets.token_hex(8)}", shortened(node, ACTOR_BYTES_MAX)
        return CommandRequest(id, NODE_CHANGED, args, actor, internal_handler=work)

    def requeue(self, node: str) -> None:
        """Mark this node as changed again, because the command for its last change was not committed."""
        self._reported.pop(node, None)
        self._changed_nodes[node] = None

    # --- actions ---

    async def refetch_closure(
        self, etcd: Etcd, keys: Keys, closure: ActionClosure
    ) -> tuple[ActionClosure, Compare] | None:
        """Read `acted/<node>` from etcd, because the watch may lag; return the closure of an action that was not begun.

        It comes with a compare on `acted/<node>`, which makes the commit fail if the node begins the action meanwhile.
        None: the node has begun the action, or the action is lost (see `closures`).
        """
        found = await etcd.get(keys.acted_of(closure.node))
        acted = decode_or_none(Acted, found)  # while it is unreadable, the node begins nothing
        refetched = closure_of(closure.node, closure.action, acted, epoch=self._epoch, now=math.inf)
        if refetched is None or not refetched.requires_not_started:
            return None
        return refetched, cmp_mod(keys.acted_of(closure.node), 0 if found is None else found.mod_revision)

    def closures(self, state: State, now: float, *, not_started: bool) -> Iterator[ActionClosure]:
        """Yield the closures of ended actions of one kind.

        not_started: if True, the actions that expired before the node began them. If False, the actions that the node
        has ended, and the lost ones, whose result cannot be known any more.
        """
        for node, pending in state.actions.items():
            acted = self._cluster_view.acted.items.get(node)
            for action in pending:
                closure = closure_of(node, action, acted, epoch=self._epoch, now=now)
                if closure is not None and closure.requires_not_started == not_started:
                    yield closure


def closing_request(closure: ActionClosure, *, omit_result: bool = False) -> CommandRequest:
    """Return the command that closes an action.

    Its id is derived from the action, so that the action is closed once. omit_result: leave out the node's result,
    after the journal refused it.
    """
    outcome: Json = {"state": closure.state, "result": _OMITTED, "error": None} if omit_result else closure.outcome
    return CommandRequest(
        closure.id, ACTION_DONE, closure.args, shortened(closure.node, ACTOR_BYTES_MAX),
        internal_handler=lambda _: outcome, closes={closure.node: (closure.action.index,)},
    )  # fmt: skip


def next_expiry_at(state: State) -> float | None:
    """Time at which the first pending action expires, by the leader's clock; None if no action is pending."""
    return min((action.expires for pending in state.actions.values() for action in pending), default=None)


def _same(one: NodeSeen, other: NodeSeen | None) -> bool:
    """Whether both are equal except for the time of the status."""
    if other is None or one.present != other.present:
        return False
    return other.status is None if one.status is None else one.status.same_but_for_time(other.status)
