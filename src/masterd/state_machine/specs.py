"""Each node's desired spec, kept up with the documents that it was made from. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from hashlib import sha256

from masterd.application.contract import Application, GivenUp, View
from nodestore.errors import NodectlError
from nodestore.schema.models import Inventory, Spec
from nodestore.support.jsonio import Document, canonical

_HASH_DIGITS = 16


@dataclass(frozen=True, slots=True)
class DerivedSpec:
    """A spec, its hash and its size as JSON; no spec: nothing to do for this node."""

    spec: Spec | None
    hash: str
    size_bytes: int = 0

    @classmethod
    def of(cls, spec: Spec) -> DerivedSpec:
        """By what is in it; fields that an application adds of its own count too."""
        fields: Document = {"driver": spec.driver, "settings": spec.settings, "document": spec.document}
        if spec.model_extra:
            fields.update(spec.model_extra)
        raw = canonical(fields)
        return cls(spec, sha256(raw).hexdigest()[:_HASH_DIGITS], len(raw))


NO_SPEC = DerivedSpec(None, "")


@dataclass(slots=True)
class _ReadTracker:
    """A view that notes what is read through it."""

    view: View
    paths_read: set[str] = field(default_factory=set)
    prefixes_read: set[str] = field(default_factory=set)

    def get(self, path: str) -> Document | None:
        self.paths_read.add(path)
        return self.view.get(path)

    def paths(self, prefix: str) -> list[str]:
        self.prefixes_read.add(prefix)
        return self.view.paths(prefix)


class SpecDeriver:
    """The specs of all nodes over one state, with what each was made from.

    `update` works on any view, that of a batch in progress included; a batch that comes to nothing is undone by
    `rebuild` over the committed state. NodectlError when the application fails; then only a second `update` of the
    same nodes, over a view on which it does not, makes their specs right again.
    """

    def __init__(self, application: Application) -> None:
        self._application = application
        self._derived: dict[str, DerivedSpec] = {}
        self._reads: dict[str, tuple[Collection[str], Collection[str]]] = {}
        self._by_path: dict[str, set[str]] = {}
        self._by_prefix: dict[str, set[str]] = {}

    def __getitem__(self, node: str) -> DerivedSpec:
        return self._derived.get(node, NO_SPEC)

    @property
    def nodes(self) -> tuple[str, ...]:
        return tuple(self._derived)

    def affected(self, paths: Iterable[str]) -> list[str]:
        """The nodes whose spec read one of these paths, sorted."""
        nodes: set[str] = set()
        for path in paths:
            nodes |= self._by_path.get(path, set())
            for prefix, readers in self._by_prefix.items():
                if path.startswith(prefix):
                    nodes |= readers
        return sorted(nodes)

    def update(self, inventory: Inventory, view: View, nodes: Iterable[str]) -> dict[str, DerivedSpec]:
        """Derive these nodes anew; those whose hash changed, with NOTHING for a node that is no more."""
        changed = {}
        for node in nodes:
            before = self._derived.get(node, NO_SPEC)
            after = self._derive(inventory, view, node)
            if after.hash != before.hash:
                changed[node] = after
        return changed

    def rebuild(self, inventory: Inventory, view: View) -> dict[str, DerivedSpec]:
        """Derive every node anew; those whose hash changed."""
        return self.update(inventory, view, sorted({*inventory.nodes, *self._derived}))

    def _derive(self, inventory: Inventory, view: View, node: str) -> DerivedSpec:
        if node not in inventory.nodes:
            self._unlink(node)
            self._derived.pop(node, None)
            return NO_SPEC
        reads = _ReadTracker(view)
        try:
            derived = self._call_application(inventory, reads, node)
        except NodectlError:
            self._unlink(node)
            raise
        self._derived[node] = derived
        self._link(node, reads)
        return derived

    def _link(self, node: str, reads: _ReadTracker) -> None:
        """Note what a node's spec was made from; nearly always the same as before."""
        if self._reads.get(node) == (reads.paths_read, reads.prefixes_read):
            return
        self._unlink(node)
        self._reads[node] = reads.paths_read, reads.prefixes_read
        for path in reads.paths_read:
            self._by_path.setdefault(path, set()).add(node)
        for prefix in reads.prefixes_read:
            self._by_prefix.setdefault(prefix, set()).add(node)

    def _call_application(self, inventory: Inventory, view: View, node: str) -> DerivedSpec:
        try:
            spec = self._application.desired(inventory, view, node)
            return NO_SPEC if spec is None else DerivedSpec.of(spec)
        except (NodectlError, GivenUp):
            raise
        except BaseException as error:  # whatever an application raises refuses the command, and never ends the leader
            raise NodectlError(f"the application failed to say what node {node} must be: {error!r}") from error

    def _unlink(self, node: str) -> None:
        paths, prefixes = self._reads.pop(node, ((), ()))
        for names, readers_of in ((paths, self._by_path), (prefixes, self._by_prefix)):
            for name in names:
                readers_of[name].discard(node)
                if not readers_of[name]:
                    del readers_of[name]
