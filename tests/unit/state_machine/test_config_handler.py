"""What an application writes when a configuration is adopted is part of the entry that adopts it."""

from __future__ import annotations

from typing import Any

import pytest

from masterd.state_machine.batch import CONFIG_ADOPT, Batch, BatchLimits
from masterd.state_machine.specs import SpecDeriver
from masterd.state_machine.state import State
from nodesdk import App, ConfigChange, Inventory, Refused, Spec, Transaction, View
from nodestore.errors import TooLarge
from nodestore.schema.entry_codec import encode_entry
from nodestore.schema.models import ConfigRecord, Entry, decode

TERM = (1, 7)


def application(**behaviour: Any) -> App:
    """It keeps the document `seats`, which every node shows. behaviour: `raises` an error, or writes `size` bytes."""
    app = App("seats")

    @app.desired
    def desired(config: Inventory, view: View, node: str) -> Spec | None:
        return Spec(driver="d", document=view.get("seats") or {})

    @app.on_config_change
    def changed(tx: Transaction, change: ConfigChange) -> None:
        before = tx.get("seats") or {"added": [], "removed": [], "changed": []}
        new = {"added": change.added, "removed": change.removed, "changed": change.changed}
        tx.put("seats", {key: [*before[key], *nodes] for key, nodes in new.items()} | {"now": sorted(tx.config.nodes)})
        tx.put("filler", {"x": "x" * behaviour.get("size", 0)})
        for node in change.added:
            tx.act(node, "restart")
        if "raises" in behaviour:
            raise behaviour["raises"]

    return app


class Journal:
    """An application, its state, and the entries of its journal."""

    def __init__(self, app: App, limits: BatchLimits | None = None) -> None:
        self.app, self.state, self.limits = app, State(), limits or BatchLimits()
        self.specs = SpecDeriver(app)
        self.faults: list[tuple[str, str]] = []
        self.entries: list[bytes] = []

    def batch(self) -> Batch:
        return Batch(
            self.state, self.app, self.specs, 1000.0, self.limits,
            on_fault=lambda name, error: self.faults.append((name, str(error))),
        )  # fmt: skip

    def adopt(self, *nodes: str, **labels: str) -> None:
        version = len(self.entries) + 1
        inventory = {"nodes": {node: {"labels": labels} for node in nodes}}
        record = ConfigRecord(version=version, actor="admin", time=0.0, inventory=inventory)
        changes = self.batch().run_config_handler(record)
        batch = self.batch()
        batch.adopt(record, version, changes)
        self.entries.append(encode_entry(*TERM, "nonce", batch.encoded))
        self.state.apply(decode(Entry, self.entries[-1], "entry"))

    def document(self, path: str) -> dict[str, Any] | None:
        found = self.state.documents.get(path)
        return None if found is None else found.value


def test_its_writes_specs_and_actions_are_in_the_entry_that_adopts() -> None:
    """One command, one index; a replica that reads the entry back has all of it."""
    journal = Journal(application())
    journal.adopt("a", "b")
    (record,) = decode(Entry, journal.entries[0], "entry").commands
    assert (record.name, record.config is not None, sorted(record.writes)) == (CONFIG_ADOPT, True, ["filler", "seats"])
    assert sorted(record.actions) == sorted(record.specs) == ["a", "b"]
    shown = journal.specs["a"].spec
    assert shown is not None
    assert shown.document == {"added": ["a", "b"], "removed": [], "changed": [], "now": ["a", "b"]}
    assert {node: pending[0].index for node, pending in journal.state.actions.items()} == {"a": 1, "b": 1}


def test_it_gets_the_nodes_that_came_left_and_changed() -> None:
    """A node that left the inventory is reported although it is no longer there."""
    journal = Journal(application())
    journal.adopt("a", "b")
    journal.adopt("b", "c", room="1")
    journal.adopt("b", "c", room="1")
    assert journal.document("seats") == {
        "added": ["a", "b", "c"], "removed": ["a"], "changed": ["b"], "now": ["b", "c"],
    }  # fmt: skip
    assert sorted(journal.state.actions) == ["b", "c"]


@pytest.mark.parametrize("error", [ZeroDivisionError("as asked"), Refused("as asked"), SystemExit("as asked")])
def test_what_it_raises_leaves_out_its_writes_alone(error: BaseException) -> None:
    """The configuration is adopted; the fault is reported."""
    journal = Journal(application(raises=error))
    journal.adopt("a")
    assert (sorted(journal.state.inventory.nodes), journal.state.documents, journal.state.actions) == (["a"], {}, {})
    assert journal.faults == [(CONFIG_ADOPT, "as asked")]


def test_an_entry_that_would_be_too_large_is_refused_with_its_writes_alone() -> None:
    """The leader then adopts the configuration without them."""
    journal = Journal(application(size=5000), BatchLimits(entry_bytes_max=4000))
    record = ConfigRecord(version=1, actor="admin", time=0.0, inventory={"nodes": {"a": {}}})
    changes = journal.batch().run_config_handler(record)
    assert changes is not None
    batch = journal.batch()
    with pytest.raises(TooLarge, match="limit is 4000"):
        batch.adopt(record, 1, changes)
    batch.undo_derivation()
    assert journal.batch().adopt(record, 1).writes == {}


def test_an_application_without_a_handler_writes_nothing() -> None:
    """Nor does one whose handler writes nothing."""
    silent = App("silent")
    record = ConfigRecord(version=1, actor="admin", time=0.0, inventory={"nodes": {"a": {}}})
    assert Journal(silent).batch().run_config_handler(record) is None
    silent.on_config_change(lambda tx, change: None)
    assert Journal(silent).batch().run_config_handler(record) is None
