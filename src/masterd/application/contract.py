"""Loads the application that masterd runs, and re-exports the contract of `nodesdk.application` for masterd.

An application is a `nodesdk.App`, or an instance of a class with the methods of `Application`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Iterable
from importlib.metadata import entry_points
from typing import Any

from nodesdk.application import (
    Application,
    Command,
    ConfigChange,
    GivenUp,
    HasDocumentNodes,
    HasNodeDocuments,
    HearsConfig,
    HearsNodes,
    NodeSeen,
    Transaction,
    View,
)
from nodestore.errors import Invalid
from nodestore.support.jsonio import Document

__all__ = [
    "Application",
    "Command",
    "ConfigChange",
    "GivenUp",
    "HasDocumentNodes",
    "HasNodeDocuments",
    "HearsConfig",
    "HearsNodes",
    "NodeSeen",
    "Transaction",
    "View",
    "document_nodes",
    "load_application",
    "node_document",
]


def node_document(application: Application, node: str) -> str | None:
    """Path of the document that belongs to `node`; None if the application names none."""
    # getattr: isinstance with a protocol takes about 10 us, and this runs for every node of every view.
    method: Callable[[str], str | None] | None = getattr(application, "node_document", None)
    return None if method is None else method(node)


def document_nodes(application: Application, path: str, document: Document) -> set[str] | None:
    """The nodes that a document concerns; None if the application does not say. Raises what the application raises."""
    method: Callable[[str, Document], Collection[str] | None] | None = getattr(application, "document_nodes", None)
    found = None if method is None else method(path, document)
    return None if found is None else set(found)


def load_application(name: str) -> Application:
    """Load an application. `name` is `module:attribute`, or an entry point of an installed package in the group
    `nodectl.apps`. What it refers to is an application, or a class or function that returns one when it is called
    without arguments. Raises Invalid if there is no such application."""
    if ":" in name:
        where = name
        module, _, attribute = name.partition(":")
        found = _load(where, lambda: getattr(importlib.import_module(module), attribute))
    else:
        offered = {entry.name: entry for entry in entry_points(group="nodectl.apps")}
        if name not in offered:
            raise Invalid(f"no application {name!r} is installed; there are: {_listing(offered)}")
        where = f"{name!r} ({offered[name].value})"
        found = _load(where, offered[name].load)
    application = found if _is_instance(found) else _create(where, found)
    if not isinstance(application, Application):
        raise Invalid(f"application {where} lacks name, commands() or desired()")
    return application


def _load(where: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except Exception as error:
        why = str(error) if isinstance(error, (ImportError, AttributeError, Invalid)) else repr(error)
        raise Invalid(f"there is no application at {where}: {why}") from error


def _is_instance(found: Any) -> bool:
    # isinstance() alone would also accept a class, because a class has the attributes of the protocol.
    return not isinstance(found, type) and isinstance(found, Application)


def _create(where: str, factory: Any) -> Any:
    try:
        return factory()
    except Exception as error:
        raise Invalid(f"application {where} cannot be created: {error!r}") from error


def _listing(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
