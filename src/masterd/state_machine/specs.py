"""Derives the spec of each node. If a document from which it was derived changes, derives it again. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from msgspec import Struct

from masterd.application.contract import Application, GivenUp, View
from masterd.application.secret_fields import declared_fields
from nodestore.errors import NodectlError
from nodestore.schema.models import Inventory, Spec
from nodestore.support.jsonio import Document, canonical_if_plain, sha256

_HASH_DIGITS = 16
SECRET_FIELDS_MAX = 100
"""How many marks of secret fields a desired state holds."""


class DerivedSpec(Struct, frozen=True):
    """A spec with its hash and its size as JSON. spec: None if the node has nothing to run."""

    spec: Spec | None
    hash: str
    size_bytes: int = 0

    @classmethod
    def of(cls, spec: Spec) -> DerivedSpec:
        """`spec` with its hash and size. The hash covers its content and any additional fields of the application."""
        fields: Document = {"driver": spec.driver, "settings": spec.settings, "document": spec.document}
        if spec.model_extra:
            fields.update(spec.model_extra)
        raw = canonical_if_plain(fields)
        return cls(spec, sha256(raw).hex()[:_HASH_DIGITS], len(raw))


NO_SPEC = DerivedSpec(None, "")


class _ReadTracker:
    """Gives read access like `view`, and records the paths and prefixes that were read."""

    __slots__ = ("paths_read", "prefixes_read", "view")

    def __init__(self, view: View) -> None:
        self.view = view
        self.paths_read: set[str] = set()
        self.prefixes_read: set[str] = set()

    def get(self, path: str) -> Document | None:
        self.paths_read.add(path)
        return self.view.get(path)

    def paths(self, prefix: str) -> list[str]:
        self.prefixes_read.add(prefix)
        return self.view.paths(prefix)


class SpecDeriver:
    """The specs of all nodes over one state, and the documents that each one was derived from.

    The argument `view` of `update` gives access to documents: the committed ones, or those of a batch in progress. If
    that batch is not committed, call `rebuild` with the committed state. `update` and `rebuild` raise NodectlError if
    the application fails. Then the specs of all nodes of that call are invalid until an `update` of the same nodes
    succeeds.

    tolerant: a node for which the application fails is recorded in `failed` instead, and keeps the spec that was
    recorded last. From then on no command is refused because of this node, until its spec can be derived again.

    hung: by node, why the application is not asked for its spec: it did not return when it was asked before. For such a
    node the application counts as failed, and `update` is always tolerant. Another thread may remove nodes from the
    mapping at any time, also during an `update`; then such a node is derived by the next one.
    """

    def __init__(self, application: Application, hung: Mapping[str, str] | None = None) -> None:
        self._application, self._hung = application, {} if hung is None else hung
        self._deriving: str | None = None
        self.failed: dict[str, str] = {}
        """By node: why its spec cannot be derived. Such a node keeps its last order."""
        self._derived: dict[str, DerivedSpec] = {}
        self._reads: dict[str, tuple[Collection[str], Collection[str]]] = {}
        self._by_path: dict[str, set[str]] = {}
        self._by_prefix: dict[str, set[str]] = {}
        self.total_bytes = 0
        """Sum of the sizes of all specs."""
        self.secret_fields: tuple[str, ...] = ()
        """The marks of secret fields: those of the configuration of the last update, and those that the application
        declares. Bounded, because each desired state holds them."""

    def __getitem__(self, node: str) -> DerivedSpec:
        return self._derived.get(node, NO_SPEC)

    def node_in_progress(self) -> str | None:
        """The node for which the application is being asked at this moment. May be called in any thread."""
        return self._deriving

    @property
    def nodes(self) -> tuple[str, ...]:
        return tuple(self._derived)

    @property
    def dependencies(self) -> tuple[Mapping[str, frozenset[str]], Mapping[str, frozenset[str]]]:
        """Two mappings: by path, the nodes whose spec was derived from the document at that path; by prefix, the nodes
        whose spec was derived from the list of paths with that prefix."""
        by_path = {path: frozenset(nodes) for path, nodes in self._by_path.items()}
        return by_path, {prefix: frozenset(nodes) for prefix, nodes in self._by_prefix.items()}

    def affected(self, paths: Iterable[str]) -> list[str]:
        """The nodes whose spec was derived from one of these paths, sorted."""
        nodes: set[str] = set()
        for path in paths:
            nodes |= self._by_path.get(path, set())
            for prefix, readers in self._by_prefix.items():
                if path.startswith(prefix):
                    nodes |= readers
        return sorted(nodes)

    def update(
        self,
        inventory: Inventory,
        view: View,
        nodes: Iterable[str],
        *,
        tolerant: bool = False,
        before_each: Callable[[], None] = lambda: None,
    ) -> dict[str, DerivedSpec]:
        """Derive these nodes again; return those whose hash changed, with NO_SPEC for a node that was removed.

        before_each: called before each node. An exception that it raises ends the update.
        """
        changed = {}
        self.secret_fields = self.secret_fields_of(inventory)
        for node in nodes:
            before_each()
            before = self._derived.get(node, NO_SPEC)
            hung_reason = self._hung.get(node)  # read once: another thread may remove it
            try:
                after = self._derive(inventory, view, node, hung_reason)
            except NodectlError as error:
                if not tolerant and node not in self.failed and hung_reason is None:
                    raise
                self.failed[node] = str(error)
                continue
            had_failed = bool(self.failed) and self.failed.pop(node, None) is not None
            if after.hash != before.hash or had_failed:  # what is recorded for a node that had failed is not known here
                changed[node] = after
        return changed

    def secret_fields_of(self, inventory: Inventory) -> tuple[str, ...]:
        """The marks of secret fields while a configuration is in force."""
        declared = declared_fields(self._application)
        if not (inventory.secret_fields or declared):
            return ()
        return tuple(dict.fromkeys((*inventory.secret_fields, *declared)))[:SECRET_FIELDS_MAX]

    def rebuild(
        self,
        inventory: Inventory,
        view: View,
        *,
        tolerant: bool = False,
        before_each: Callable[[], None] = lambda: None,
    ) -> dict[str, DerivedSpec]:
        """Derive every node again; return those whose hash changed."""
        nodes = sorted({*inventory.nodes, *self._derived, *self.failed})
        return self.update(inventory, view, nodes, tolerant=tolerant, before_each=before_each)

    def _derive(self, inventory: Inventory, view: View, node: str, hung_reason: str | None) -> DerivedSpec:
        if node not in inventory.nodes:
            self._unlink(node)
            self.total_bytes -= self._derived.pop(node, NO_SPEC).size_bytes
            return NO_SPEC
        if hung_reason is not None:
            raise NodectlError(hung_reason)
        reads = _ReadTracker(view)
        try:
            derived = self._call_application(inventory, reads, node)
        except NodectlError:
            self._link(node, reads)  # so that a command that mends one of these documents derives the node again
            raise
        self.total_bytes += derived.size_bytes - self._derived.get(node, NO_SPEC).size_bytes
        self._derived[node] = derived
        self._link(node, reads)
        return derived

    def _link(self, node: str, reads: _ReadTracker) -> None:
        """Record what a node's spec was derived from. Returns early if that is unchanged, which is the usual case."""
        if self._reads.get(node) == (reads.paths_read, reads.prefixes_read):
            return
        self._unlink(node)
        self._reads[node] = reads.paths_read, reads.prefixes_read
        for path in reads.paths_read:
            self._by_path.setdefault(path, set()).add(node)
        for prefix in reads.prefixes_read:
            self._by_prefix.setdefault(prefix, set()).add(node)

    def _call_application(self, inventory: Inventory, view: View, node: str) -> DerivedSpec:
        self._deriving = node
        try:
            spec = self._application.desired(inventory, view, node)
            return NO_SPEC if spec is None else DerivedSpec.of(spec)
        except (NodectlError, GivenUp):
            raise
        except BaseException as error:  # SystemExit too: it must fail the command, not the leader
            raise NodectlError(
                f"the application failed to derive the desired state of node {node}: {error!r}"
            ) from error
        finally:
            self._deriving = None

    def _unlink(self, node: str) -> None:
        paths, prefixes = self._reads.pop(node, ((), ()))
        for names, readers_of in ((paths, self._by_path), (prefixes, self._by_prefix)):
            for name in names:
                readers_of[name].discard(node)
                if not readers_of[name]:
                    del readers_of[name]
