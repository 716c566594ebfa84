"""The contract of an application: commands with handlers, and a pure function for the nodes' desired state. Pure.

`nodesdk.App` builds an application from decorated functions. A class with the methods of `Application` works too. An
entry point in the group `nodectl.apps` names either.

An application does no I/O and reads no clock. Its handlers run on the leader alone: they read and write documents
through the transaction that they get. The journal stores the documents that a handler wrote, so replicas never run
handlers and cannot diverge.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from pydantic import BaseModel

from nodesdk.json_types import Document, Json
from nodesdk.models import Inventory, Spec, Status


class GivenUp(BaseException):
    """Raised inside a handler, or inside `desired`, that exceeded its time limit. Do not catch it."""


class View(Protocol):
    """Read access to documents. Returned values are copies: changing them changes no state."""

    def get(self, path: str) -> Document | None:
        """The document at `path`; None if there is none."""
        ...

    def paths(self, prefix: str) -> list[str]:
        """All paths that begin with `prefix`, sorted."""
        ...


class Transaction(View, Protocol):
    """What a handler works on. Its writes take effect together. If the handler raises, none of them does."""

    @property
    def config(self) -> Inventory:
        """The configuration in force. It is shared: do not change it."""
        ...

    @property
    def now(self) -> float:
        """The time of the command by the leader's clock, in seconds since the Unix epoch; never goes back."""
        ...

    def put(self, path: str, document: Document) -> None:
        """Store a document. Raises Invalid if the path is not allowed or the document is not plain JSON."""
        ...

    def delete(self, path: str) -> None:
        """Delete a document; no effect if there is none."""
        ...

    def act(self, node: str, action: str, args: Json = None, *, expires_s: float = 60.0) -> None:
        """Request an action of `node`: `restart`, `reboot`, or an action of its driver, with arguments (an object).

        The node begins it at most once, and not later than `expires_s` seconds from now; its result is in the history.
        One command may request at most one action of a node. Raises NotFound, Invalid or Conflict.
        """
        ...


@dataclass(frozen=True)
class Command:
    """A command: the model of its arguments, and the handler that returns its result (JSON).

    A handler refuses a command by raising Refused, NotFound, Conflict or Invalid.

    quick: promises that the handler, and `desired` of the nodes that it changes, always end within about a
    millisecond, whatever the arguments. The leader runs batches of such commands in its event loop, without a time
    limit for each: a handler that breaks the promise delays the leader's heartbeats.
    """

    arguments: type[BaseModel]
    handler: Callable[[Transaction, Any], Json]
    help: str = ""
    quick: bool = False


@dataclass(frozen=True)
class NodeSeen:
    """A node as the leader sees it.

    present: whether its noded is connected. status: the last status that its noded reported, of any age; None if it
    never reported one.
    """

    present: bool
    status: Status | None


@dataclass(frozen=True)
class ConfigChange:
    """A change of the configuration. before: an empty inventory at the first configuration."""

    before: Inventory
    after: Inventory

    @property
    def added(self) -> tuple[str, ...]:
        """Nodes that are new, in the order of the inventory."""
        return tuple(node for node in self.after.nodes if node not in self.before.nodes)

    @property
    def removed(self) -> tuple[str, ...]:
        """Nodes that left the inventory, in the order of the inventory before."""
        return tuple(node for node in self.before.nodes if node not in self.after.nodes)

    @property
    def changed(self) -> tuple[str, ...]:
        """Nodes in both inventories whose own section differs. Groups and defaults are not compared."""
        before = self.before.nodes
        return tuple(node for node, config in self.after.nodes.items() if node in before and before[node] != config)


@runtime_checkable
class Application(Protocol):
    """The required parts of an application."""

    name: str

    def commands(self) -> Mapping[str, Command]:
        """All commands by name.

        Reserved for masterd: `node.changed`, and names that begin with `action.`, `config.`, `drill.` or `snapshot.`.
        """
        ...

    def desired(self, config: Inventory, view: View, node: str) -> Spec | None:
        """The desired spec of `node`, from the configuration and the documents alone; None if nothing may run.

        Pure: the same inputs give the same result on every PC, now and later. masterd records which documents it
        reads, and calls it again when one of them or the configuration changes.
        """
        ...


@runtime_checkable
class HearsNodes(Protocol):
    """Optional part of an application: reacts to changes of nodes."""

    def node_changed(self, transaction: Transaction, node: str, seen: NodeSeen) -> None:
        """Called when a node connected, disconnected or reported another status. May write and request actions.

        Level-triggered: of changes in quick succession only the last is reported, and every new leader reports all
        nodes once. So compare with the documents and write only what differs: each call that writes adds
        a command to the history.
        """
        ...


@runtime_checkable
class HearsConfig(Protocol):
    """Optional part of an application: reacts to changes of the configuration."""

    def config_changed(self, transaction: Transaction, change: ConfigChange) -> None:
        """Called when a configuration is adopted. `transaction.config` is the new one.

        Its writes are part of the journal entry that adopts the configuration: atomic and exactly once. Changes in
        quick succession may be reported as one. If it raises, exceeds the time limit of commands, or its writes do not
        fit into the entry, the configuration is adopted without its writes, and the error is logged.
        """
        ...


@runtime_checkable
class HasNodeDocuments(Protocol):
    """Optional part of an application: names the document that belongs to a node."""

    def node_document(self, node: str) -> str | None:
        """Path of the document that belongs to `node`; None if there is no such document.

        GET /v1/nodes returns this document with the node. Runs in the event loop: pure, returns at once, never raises.
        """
        ...


@runtime_checkable
class HasDocumentNodes(Protocol):
    """Optional part of an application: says which nodes a document concerns, also those that it will concern later."""

    def document_nodes(self, path: str, document: Document) -> Collection[str] | None:
        """The nodes that may be changed by what this document holds; None if this part of the application cannot say.

        Credentials that are limited to groups of nodes may write a document only if it concerns only nodes of these
        groups. None: the document that belongs to a node concerns that node; another one concerns the nodes whose spec
        depends on it now, and may not be written by such a credential if there is none. Pure, returns at once.
        """
        ...


@runtime_checkable
class HasSecretFields(Protocol):
    """Optional part of an application: names fields that are secret, other than arguments of the type `Secret`."""

    secret_fields: tuple[str, ...]
    """Names of fields of its documents and specs, such as `pin`, or ends of their paths, such as `player.pin`."""
