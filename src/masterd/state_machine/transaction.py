"""A transaction: reads a state, or another transaction, and collects writes and requests for actions. They are merged
or discarded later. Pure."""

from __future__ import annotations

from masterd.state_machine.state import State
from nodestore.errors import Conflict, Invalid, NotFound
from nodestore.schema.keys import check_name, check_path
from nodestore.schema.models import Action, ActionRequest, Inventory
from nodestore.support.json_rules import checked_copy
from nodestore.support.jsonio import Document, Json, copy, dumps

PENDING_MAX = 16
"""Maximum of pending actions of one node."""
ACTION_BYTES_MAX = 4 << 10
"""Limit for the arguments of one action: all pending actions of a node must fit into one transaction."""
EXPIRES_S_MAX = 7 * 86_400.0


class Overlay:
    """A transaction over `below`: it reads its own writes first, then `below`, which it never changes."""

    def __init__(self, below: Overlay | State, config: Inventory, now: float) -> None:
        self._below = below
        self.config = config
        self.now = now
        self.writes: dict[str, Document | None] = {}
        self.actions: dict[str, ActionRequest] = {}
        """Actions that this transaction requests, by node."""
        self.pending: dict[str, tuple[Action, ...]] = {}
        """Pending actions by node, but only of nodes whose pending actions were changed by a transaction merged into
        this one."""

    def get(self, path: str) -> Document | None:
        document: Document | None = copy(self.peek(path))
        return document

    def peek(self, path: str) -> Document | None:
        """The stored document itself, without a copy; it must not be changed."""
        if path in self.writes:
            return self.writes[path]
        if isinstance(self._below, Overlay):
            return self._below.peek(path)
        doc = self._below.documents.get(path)
        return None if doc is None else doc.value

    def paths(self, prefix: str) -> list[str]:
        below = self._below.paths(prefix)
        if not self.writes:
            return below
        paths = {path for path in below if path not in self.writes}
        paths |= {path for path, document in self.writes.items() if document is not None and path.startswith(prefix)}
        return sorted(paths)

    def pending_of(self, node: str) -> tuple[Action, ...]:
        """The pending actions of a node, oldest first."""
        if node in self.pending:
            return self.pending[node]
        return self._below.pending_of(node) if isinstance(self._below, Overlay) else self._below.actions.get(node, ())

    def put(self, path: str, document: Document) -> None:
        if not isinstance(document, dict):
            raise Invalid(f"document {path!r} must be a JSON object, not {type(document).__name__}")
        if path not in self.writes and self.peek(path) is None:  # else it was checked before
            check_path(checked_copy(path, "document path"))
        self.writes[path] = checked_copy(document, f"document {path!r}")

    def delete(self, path: str) -> None:
        if self.peek(path) is not None:
            self.writes[path] = None
        else:
            self.writes.pop(path, None)

    def act(self, node: str, action: str, args: Json = None, *, expires_s: float = 60.0) -> None:
        """Request an action of a node. expires_s: the node does not begin the action after this many seconds.

        NotFound for an unknown node; Invalid for a bad name, arguments or time; Conflict if this command already
        requests an action of the node, or if the node has PENDING_MAX pending ones.
        """
        if node not in self.config.nodes:
            raise NotFound(f"there is no node {node!r} in the configuration")
        if node in self.actions:
            raise Conflict(
                f"a command can request only one action of node {node!r}; this one has requested "
                f"{self.actions[node].name!r} already"
            )
        if len(self.pending_of(node)) >= PENDING_MAX:
            raise Conflict(f"node {node!r} already has {PENDING_MAX} pending actions: wait until some have ended")
        if not 0 < expires_s <= EXPIRES_S_MAX:
            raise Invalid(f"expires_s must be above 0 and at most {EXPIRES_S_MAX:g} s, not {expires_s!r}")
        check_name("action", action)
        arguments = checked_copy({} if args is None else args, f"the arguments of action {action!r}")
        if not isinstance(arguments, dict) or len(dumps(arguments)) > ACTION_BYTES_MAX:
            raise Invalid(f"the arguments of action {action!r} must be an object of at most {ACTION_BYTES_MAX} bytes")
        self.actions[node] = ActionRequest(name=action, args=arguments, expires=self.now + expires_s)
