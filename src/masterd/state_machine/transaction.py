"""A transaction: writes and actions on top of a view of documents, merged into it or forgotten. Pure."""

from __future__ import annotations

from masterd.state_machine.state import State
from nodestore.errors import Conflict, Invalid, NotFound
from nodestore.schema.keys import check_name, check_path
from nodestore.schema.models import Action, ActionRequest, Inventory
from nodestore.support.json_rules import checked_copy
from nodestore.support.jsonio import Document, Json, copy, dumps

PENDING_MAX = 16
"""Actions that one node may still have to do."""
ACTION_BYTES_MAX = 4 << 10
"""Of one action's arguments: all that a node has to do fits into one transaction with room to spare."""
EXPIRES_S_MAX = 7 * 86_400.0


class Overlay:
    """Reads fall through to what is below; writes stay here until they are merged."""

    def __init__(self, below: Overlay | State, config: Inventory, now: float) -> None:
        self._below = below
        self.config = config
        self.now = now
        self.writes: dict[str, Document | None] = {}
        self.actions: dict[str, ActionRequest] = {}
        """What this transaction asks of nodes."""
        self.pending: dict[str, tuple[Action, ...]] = {}
        """What nodes are to do, where transactions that were merged into this one changed it."""

    def get(self, path: str) -> Document | None:
        document: Document | None = copy(self.peek(path))
        return document

    def peek(self, path: str) -> Document | None:
        """The stored document itself, not to be changed."""
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
        found = {path for path in below if path not in self.writes}
        found |= {path for path, document in self.writes.items() if document is not None and path.startswith(prefix)}
        return sorted(found)

    def pending_of(self, node: str) -> tuple[Action, ...]:
        """What the node is still to do."""
        if node in self.pending:
            return self.pending[node]
        return self._below.pending_of(node) if isinstance(self._below, Overlay) else self._below.actions.get(node, ())

    def put(self, path: str, document: Document) -> None:
        if not isinstance(document, dict):
            raise Invalid(f"document {path!r} must be a JSON object, not {type(document).__name__}")
        self.writes[check_path(checked_copy(path, "document path"))] = checked_copy(document, f"document {path!r}")

    def delete(self, path: str) -> None:
        if self.peek(path) is not None:
            self.writes[path] = None
        else:
            self.writes.pop(path, None)

    def act(self, node: str, action: str, args: Json = None, *, expires_s: float = 60.0) -> None:
        """Have the node do something once. NotFound, Invalid or Conflict when that cannot be asked for."""
        if node not in self.config.nodes:
            raise NotFound(f"there is no node {node!r} in the configuration")
        if node in self.actions:
            raise Conflict(f"one command can ask one action of node {node!r}, and {self.actions[node].name!r} is it")
        if len(self.pending_of(node)) >= PENDING_MAX:
            raise Conflict(f"node {node!r} has {PENDING_MAX} actions to do already: wait until it has done some")
        if not 0 < expires_s <= EXPIRES_S_MAX:
            raise Invalid(f"expires_s must be above 0 and at most {EXPIRES_S_MAX:g} s, not {expires_s!r}")
        check_name("action", action)
        arguments = checked_copy({} if args is None else args, f"the arguments of action {action!r}")
        if not isinstance(arguments, dict) or len(dumps(arguments)) > ACTION_BYTES_MAX:
            raise Invalid(f"the arguments of action {action!r} must be an object of at most {ACTION_BYTES_MAX} bytes")
        self.actions[node] = ActionRequest(name=action, args=arguments, expires=self.now + expires_s)
