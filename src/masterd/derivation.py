"""Each node's desired spec, kept up with the documents that it was made from. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from masterd.app import Application, View
from nodestore.jsonio import Document, digest
from nodestore.models import Inventory, Spec


@dataclass(frozen=True, slots=True)
class Derived:
    """A spec and its hash; no spec: nothing to do for this node."""

    spec: Spec | None
    hash: str


def spec_hash(spec: Spec) -> str:
    """By what is in it; fields that an application adds of its own count too."""
    fields = {"driver": spec.driver, "settings": spec.settings, "document": spec.document}
    return digest({**fields, **(spec.model_extra or {})})


NOTHING = Derived(None, "")


@dataclass(slots=True)
class _Reads:
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


class Derivation:
    """The specs of all nodes over one state, with what each was made from.

    `update` works on any view, that of a batch in progress included; a batch that comes to nothing is undone by
    `rebuild` over the committed state.
    """

    def __init__(self, application: Application) -> None:
        self._application = application
        self._derived: dict[str, Derived] = {}
        self._reads: dict[str, _Reads] = {}
        self._by_path: dict[str, set[str]] = {}
        self._by_prefix: dict[str, set[str]] = {}

    def __getitem__(self, node: str) -> Derived:
        return self._derived.get(node, NOTHING)

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

    def update(self, inventory: Inventory, view: View, nodes: Iterable[str]) -> dict[str, Derived]:
        """Derive these nodes anew; those whose hash changed, with NOTHING for a node that is no more."""
        changed = {}
        for node in nodes:
            before = self._derived.get(node, NOTHING)
            after = self._derive(inventory, view, node)
            if after.hash != before.hash:
                changed[node] = after
        return changed

    def rebuild(self, inventory: Inventory, view: View) -> dict[str, Derived]:
        """Derive every node anew; those whose hash changed."""
        return self.update(inventory, view, sorted({*inventory.nodes, *self._derived}))

    def _derive(self, inventory: Inventory, view: View, node: str) -> Derived:
        self._unlink(node)
        if node not in inventory.nodes:
            self._derived.pop(node, None)
            return NOTHING
        reads = _Reads(view)
        spec = self._application.desired(inventory, reads, node)
        derived = NOTHING if spec is None else Derived(spec, spec_hash(spec))
        self._derived[node] = derived
        self._reads[node] = reads
        for path in reads.paths_read:
            self._by_path.setdefault(path, set()).add(node)
        for prefix in reads.prefixes_read:
            self._by_prefix.setdefault(prefix, set()).add(node)
        return derived

    def _unlink(self, node: str) -> None:
        reads = self._reads.pop(node, None)
        if reads is None:
            return
        for path in reads.paths_read:
            self._by_path[path].discard(node)
        for prefix in reads.prefixes_read:
            self._by_prefix[prefix].discard(node)
