"""Which documents a command may write whose sender is limited to the nodes of some groups. Pure.

What it writes must not reach other nodes: neither now, by their specs, nor later, when a sender without limits uses it.
So a document that names nodes, such as a scene, may name only nodes of these groups, before the change and after it.
The document of a node is that node's even if its spec does not depend on it yet: the next configuration may change
that. And of a document that no spec depends on and of which the application says nothing, it is not known what it will
be used for: it may not be written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from masterd.application.contract import Application, document_nodes, node_document
from nodestore.errors import Forbidden
from nodestore.schema.models import Inventory
from nodestore.support.jsonio import Document


class GroupLimits:
    """Checks the writes of one command. actor: its author. groups: those whose nodes it may change.

    readers: returns the nodes whose specs depend on a document, by its path.
    """

    def __init__(
        self,
        actor: str,
        groups: Iterable[str],
        config: Inventory,
        application: Application,
        readers: Callable[[str], Iterable[str]],
    ) -> None:
        self._actor, self._groups, self._config, self._application = actor, tuple(groups), config, application
        self._readers = readers

    def check_nodes(self, nodes: Iterable[str]) -> None:
        """Forbidden if one of these nodes, whose specs or actions the command changes, is in none of the groups."""
        for node in sorted(nodes):
            if not self._allows(node):
                raise self._forbidden(f"change node {node}")

    def check_documents(self, writes: Mapping[str, Document | None], before: Callable[[str], Document | None]) -> None:
        """Forbidden if one of these documents concerns other nodes, or may do so. before: the document at a path."""
        owners = {node_document(self._application, node): node for node in self._config.nodes}
        for path, document in writes.items():
            nodes = self._nodes_of(path, (before(path), document), owners)
            if nodes is None:
                raise self._forbidden(f"change the document {path}, of which it is not known which nodes it concerns")
            for node in sorted(nodes):
                if not self._allows(node):
                    raise self._forbidden(f"change the document {path}, which concerns node {node}")

    def _nodes_of(
        self, path: str, documents: tuple[Document | None, Document | None], owners: Mapping[str | None, str]
    ) -> set[str] | None:
        """The nodes that a document concerns; None if that is not known."""
        named = [self._named(path, document) for document in documents if document is not None]
        if path in owners:
            return {owners[path]}.union(*(nodes for nodes in named if nodes is not None))
        if named and None not in named:
            return set().union(*(nodes for nodes in named if nodes is not None))
        return set(self._readers(path)) or None

    def _named(self, path: str, document: Document) -> set[str] | None:
        try:
            return document_nodes(self._application, path, document)
        except Exception:  # noqa: BLE001 - the application's code; without its answer nothing is allowed
            named = f"change the document {path}, of which the application failed to say which nodes it concerns"
            raise self._forbidden(named) from None

    def _allows(self, node: str) -> bool:
        return not set(self._groups).isdisjoint(self._config.groups_of(node))

    def _forbidden(self, what: str) -> Forbidden:
        return Forbidden(
            f"{self._actor} may not {what}: its credential is limited to nodes of {', '.join(self._groups)}; nothing "
            "has changed"
        )
