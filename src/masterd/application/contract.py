"""What an application is: commands with handlers, and a pure function to each node's desired state.

An application is a class with the methods of `Application`, named by an entry point in the group `nodectl.apps`.
It has no I/O and no clock of its own: a handler reads and writes documents through the transaction it is handed,
and runs on the leader alone. What is stored is the documents it wrote, so replicas never run it and cannot diverge.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Protocol, runtime_checkable

from pydantic import BaseModel

from nodestore.errors import Invalid
from nodestore.schema.models import Inventory, Spec, Status
from nodestore.support.jsonio import Document, Json


class GivenUp(BaseException):
    """Raised in a handler, or in `desired`, that has taken too long: it is given up. Not to be caught."""


class View(Protocol):
    """Documents to read. What is returned belongs to the reader: changing it changes no state."""

    def get(self, path: str) -> Document | None:
        """The document at `path`; None when there is none."""
        ...

    def paths(self, prefix: str) -> list[str]:
        """All paths that begin with `prefix`, sorted."""
        ...


class Transaction(View, Protocol):
    """What a handler works on. Its writes take effect together, or, when it raises, not at all."""

    @property
    def config(self) -> Inventory:
        """The configuration in force. It is everybody's: not to be changed."""
        ...

    @property
    def now(self) -> float:
        """The command's time, seconds since the Unix epoch by the leader's clock; never goes back."""
        ...

    def put(self, path: str, document: Document) -> None: ...

    def delete(self, path: str) -> None: ...

    def act(self, node: str, action: str, args: Json = None, *, expires_s: float = 60.0) -> None:
        """Have `node` do something once: `restart`, `reboot`, or an action of its driver, with arguments (an object).

        It is begun at most once, whoever restarts meanwhile, and not later than `expires_s`; what came of it is in the
        history. At most one action a node and command. NotFound, Invalid or Conflict when it cannot be asked for.
        """
        ...


@dataclass(frozen=True)
class Command:
    """A command: the model of its arguments, and the handler that returns its result (JSON).

    A handler refuses by raising Refused, NotFound or Conflict of `nodestore.errors`.

    quick: a promise that the handler, and `desired` of the nodes that it changes, always end within a millisecond or
    so, whatever the arguments. When few wait, such commands are run without the way to another thread and back, which
    nothing then guards against: a handler that breaks the promise stops the leader's heartbeats for as long.
    """

    arguments: type[BaseModel]
    handler: Callable[[Transaction, Any], Json]
    help: str = ""
    quick: bool = False


@dataclass(frozen=True)
class NodeSeen:
    """A node as the leader sees it. present: its noded is there. status: what that told last, however long ago."""

    present: bool
    status: Status | None


@runtime_checkable
class Application(Protocol):
    """What masterd asks of an application."""

    name: str

    def commands(self) -> Mapping[str, Command]:
        """All commands by name. Names with a leading `config.` or `snapshot.` are masterd's own."""
        ...

    def desired(self, config: Inventory, view: View, node: str) -> Spec | None:
        """What `node` must be, from the configuration and the documents alone; None for nothing to do.

        Pure: the same inputs give the same answer on every PC, now and later. Which documents it reads is noted,
        and it is asked again when one of them changes.
        """
        ...


@runtime_checkable
class HearsNodes(Protocol):
    """What an application may have too."""

    def node_changed(self, transaction: Transaction, node: str, seen: NodeSeen) -> None:
        """A node came, went, or told another status. Write documents, or ask for actions, or do nothing.

        Level-triggered: of changes in quick succession only the last is heard, and every new leader tells of all nodes
        once. So compare with the documents, and write only what differs: what is written is a command in the history.
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


def node_document(application: Application, node: str) -> str | None:
    """Path of the document that belongs to `node`; None if the application names none."""
    # getattr: isinstance with a protocol takes about 10 us, and this runs for every node of every view.
    ask: Callable[[str], str | None] | None = getattr(application, "node_document", None)
    return None if ask is None else ask(node)


def load_application(name: str) -> Application:
    """The application that an installed package offers under `name` in the group `nodectl.apps`, or, for one that is
    not installed, the class at `module:Class`. Invalid when there is none or it is not an application."""
    if ":" in name:
        found, where = _import(name), name
    else:
        offered = {entry.name: entry for entry in entry_points(group="nodectl.apps")}
        if name not in offered:
            raise Invalid(f"no application {name!r} is installed; there are: {_listing(offered)}")
        found, where = offered[name].load(), f"{name!r} ({offered[name].value})"
    try:
        application = found()
    except Exception as error:
        raise Invalid(f"application {where} cannot be made: {error!r}") from error
    if not isinstance(application, Application):
        raise Invalid(f"application {where} lacks name, commands() or desired()")
    return application


def _import(place: str) -> Any:
    module, _, attribute = place.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise Invalid(f"there is no application at {place}: {error}") from None


def _listing(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
