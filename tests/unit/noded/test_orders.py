"""What noded obeys."""

from __future__ import annotations

import json
from typing import Any

import pytest

from noded.reconcile.orders import Orders
from nodestore.schema.models import Desired, Spec


def order(epoch: int, term: int, generation: int, **document: Any) -> bytes:
    spec = Spec(driver="process", document=document)
    return Desired(epoch=epoch, term=term, generation=generation, spec=spec).encode()


def test_nothing_is_known_before_etcd_was_read() -> None:
    """Absent and not yet read are two things."""
    orders = Orders("key")
    assert not orders.is_known
    orders.observe(None)
    assert orders.is_known
    assert orders.desired is None


@pytest.mark.parametrize(
    ("lower", "obeyed"),
    [
        ((1, 5, 8), False),
        ((1, 4, 9), False),
        ((0, 9, 99), False),
        ((1, 5, 9), True),
        ((1, 6, 1), True),
        ((2, 1, 1), True),
    ],
)
def test_order_is_epoch_then_term_then_generation(lower: tuple[int, int, int], obeyed: bool) -> None:
    """Lower than what was obeyed is ignored, equal or higher is obeyed."""
    orders = Orders("key")
    orders.observe(order(1, 5, 9, scene="first"))
    orders.observe(order(*lower, scene="second"))
    assert orders.desired is not None
    assert (orders.desired.spec.document["scene"] == "second") is obeyed
    assert (orders.problem is None) is obeyed


def test_a_lower_order_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """A stale order that shows up again and again does not fill the log."""
    orders = Orders("key")
    orders.observe(order(1, 5, 9))
    for _ in range(3):
        orders.observe(order(1, 4, 9))
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_deletion_is_obeyed_but_forgets_no_order() -> None:
    """After a deletion, what is lower than what was obeyed before it stays lower."""
    orders = Orders("key")
    orders.observe(order(1, 5, 9))
    orders.observe(None)
    assert orders.desired is None
    orders.observe(order(1, 4, 99))
    assert orders.desired is None
    orders.observe(order(1, 5, 10))
    assert orders.desired is not None


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"epoch": 1}',
        json.dumps({"v": 2, "epoch": 9, "term": 9, "generation": 9, "spec": {"driver": "process"}}).encode(),
        b'{"epoch":9,"term":9,"generation":9,"spec":{"driver":"process","document":{"x":NaN}}}',
    ],
)
def test_garbage_leaves_the_last_one_in_force(garbage: bytes) -> None:
    """A value that cannot be read is reported, and the last valid one stays in force."""
    orders = Orders("key")
    orders.observe(order(1, 5, 9, scene="first"))
    before = orders.desired
    orders.observe(garbage)
    assert orders.desired == before
    assert orders.problem is not None
    orders.observe(order(1, 5, 10))
    assert orders.problem is None
