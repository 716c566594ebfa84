"""Views: the changes by entries, all views of a state, the difference, and chunks in key order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masterd.state_machine.specs import SECRET_FIELDS_MAX
from masterd.state_machine.views import (
    TxnBudget,
    ViewChanges,
    all_views,
    changes_of,
    chunks,
    desired_view,
    difference,
    fits,
    marked_again,
    size_of,
)
from nodestore.schema.keys import Keys
from nodestore.schema.models import Desired, DocumentView, Entry, Inventory, SpecMark, Term, decode
from tests.support.toy_app import Line, inventory

KEYS = Keys("test")
TERM = Term(2, 30)

VIEWS = st.dictionaries(st.text(st.sampled_from("abä/"), max_size=6), st.binary(max_size=12), max_size=12)


def test_what_records_change() -> None:
    """Changes hold the last write of each key, deletions, and desired documents with term and generation."""
    line = Line("n1", "n2")
    batch = line.batch()
    batch.execute(line.request("put", path="nodes/n1", document={"x": 1}))
    batch.execute(line.request("put", path="nodes/n1", document={"x": 2}))
    batch.execute(line.request("put", path="nodes/n2", document={}))
    batch.execute(line.request("delete", path="nodes/n2"))
    changes = changes_of(KEYS, TERM, batch.records, batch.changed_specs)
    assert set(changes) == {KEYS.document(f"nodes/n{n}") for n in (1, 2)} | {KEYS.desired_of(f"n{n}") for n in (1, 2)}
    assert changes[KEYS.document("nodes/n2")] is None
    assert changes[KEYS.desired_of("n2")] is None
    document, desired = changes[KEYS.document("nodes/n1")], changes[KEYS.desired_of("n1")]
    assert document is not None
    assert desired is not None
    shown = decode(DocumentView, document, "state")
    assert (shown.index, shown.document) == (3, {"x": 2})
    wanted = decode(Desired, desired, "desired")
    assert (wanted.order, wanted.spec.document) == ((2, 30, 3), {"x": 2})


def test_changes_applied_one_after_another_are_all_views() -> None:
    """The views that commits publish equal all views of the state at any index."""
    line = Line("n1", "n2")
    shown: dict[str, bytes] = {}

    def publish_and_check(batch_changes: ViewChanges) -> None:
        for key, value in batch_changes.items():
            if value is None:
                shown.pop(key, None)
            else:
                shown[key] = value
        assert shown == all_views(KEYS, TERM, line.state, line.derivation)

    for requests in (
        [line.request("put", path="nodes/n1", document={"see": "d"}), line.request("put", path="d", document={"x": 1})],
        [line.request("put", path="nodes/n2", document={"count": 1}), line.request("delete", path="d")],
        [line.request("delete", path="nodes/n1"), line.request("put", path="list/a", document={})],
    ):
        batch = line.batch()
        for request in requests:
            batch.execute(request)
        line.commit(batch)
        publish_and_check(changes_of(KEYS, TERM, batch.records, batch.changed_specs))
    line.adopt(inventory("n1"))
    entry = decode(Entry, line.entries[-1], "entry")
    publish_and_check(changes_of(KEYS, TERM, entry.commands, {"n2": line.derivation["n2"]}))
    assert KEYS.desired_of("n2") not in shown


def marked(*marks: str) -> Inventory:
    return Inventory.model_validate({"nodes": {"n1": {}, "n2": {}}, "secret_fields": marks})


def test_a_desired_state_holds_the_marks_of_secret_fields() -> None:
    """Without marks it is as before. Other marks change each desired state, but no spec and no order."""
    line = Line()
    line.adopt(marked())
    line.run(*(line.request("put", path=f"nodes/{node}", document={"x": 1}) for node in ("n1", "n2")))
    before = all_views(KEYS, TERM, line.state, line.derivation)
    assert all(b"secret_fields" not in value for value in before.values())
    state = line.state
    assert line.derivation.secret_fields_of(marked("pin")) == ("pin",)
    line.adopt(marked("pin"))
    assert line.derivation.secret_fields == ("pin",)
    changes = marked_again(KEYS, TERM, state, line.derivation, {})
    after = all_views(KEYS, TERM, line.state, line.derivation)
    assert changes == {key: after[key] for key in (KEYS.desired_of("n1"), KEYS.desired_of("n2"))}
    for key, value in changes.items():
        assert value is not None
        assert key in before
        new, old = decode(Desired, value, key), decode(Desired, before[key], key)
        assert new.secret_fields == ("pin",)
        assert new.model_copy(update={"secret_fields": ()}) == old
    assert marked_again(KEYS, TERM, state, line.derivation, changes) == {}


def test_a_desired_state_holds_a_bounded_number_of_marks() -> None:
    line = Line()
    line.adopt(marked(*(f"m{number}" for number in range(150))))
    assert len(line.derivation.secret_fields) == SECRET_FIELDS_MAX


def test_nothing_to_do_has_no_desired_state() -> None:
    """A node without a spec has no desired state."""
    line = Line("n1")
    with pytest.raises(ValueError, match="no desired state"):
        desired_view(TERM, SpecMark(generation=1, hash=""), line.derivation["n1"])


@given(VIEWS, VIEWS)
def test_the_difference_makes_one_into_the_other(wanted: dict[str, bytes], found: dict[str, bytes]) -> None:
    """The difference turns one set of views into the other and holds no unnecessary change."""
    changes = difference(wanted, found)
    result = {key: value for key, value in (found | changes).items() if value is not None}
    assert result == wanted
    assert all(found.get(key) != value for key, value in changes.items())


@given(VIEWS, st.integers(1, 5), st.integers(1, 120))
def test_chunks_hold_everything_in_key_order(views: dict[str, bytes], ops: int, size_bytes: int) -> None:
    """Chunks hold all changes in byte order of the keys, and each one fits or is a single change."""
    room = TxnBudget(ops, size_bytes)
    parts = list(chunks(views, room))
    assert all(part and (fits(part, room) or len(part) == 1) for part in parts)
    keys = [key for part in parts for key in part]
    assert keys == sorted(views, key=str.encode)
    assert {key: value for part in parts for key, value in part.items()} == views


@pytest.mark.parametrize(
    ("changes", "room", "expected"),
    [
        ({}, TxnBudget(0, 0), True),
        ({"k": b"v"}, TxnBudget(1, 18), True),
        ({"k": b"v"}, TxnBudget(1, 17), False),
        ({"k": b"v"}, TxnBudget(0, 100), False),
        ({"k": None, "l": None}, TxnBudget(2, 34), True),
        ({"k": None, "l": None}, TxnBudget(1, 100), False),
    ],
)
def test_what_fits(changes: ViewChanges, room: TxnBudget, expected: bool) -> None:
    """Changes fit by operations and by bytes, and a deletion counts as an operation."""
    assert fits(changes, room) is expected
    assert size_of(changes) == sum(len(key) + len(value or b"") + 16 for key, value in changes.items())
