"""Which application may lead: the recorded one, or the one that an operator's order puts in its place."""

from __future__ import annotations

import pytest

from masterd.application.identity import application_in_force, refusal_to_lead
from nodestore.schema.models import ApplicationOrder


@pytest.mark.parametrize(
    ("recorded", "order", "wanted"),
    [
        (None, None, None),
        ("a", None, "a"),
        ("a", ("b", "a"), "b"),
        ("b", ("b", "a"), "b"),
        ("c", ("b", "a"), "c"),
        (None, ("b", "a"), None),
    ],
    ids=["nothing is recorded", "recorded", "ordered", "executed", "overtaken", "the record is gone"],
)
def test_an_order_counts_only_while_it_replaces_the_recorded_application(
    recorded: str | None, order: tuple[str, str] | None, wanted: str | None
) -> None:
    given = order and ApplicationOrder(name=order[0], replaces=order[1], actor="ann")
    assert application_in_force(recorded, given or None) == wanted
    for own in ("a", "b", "c"):
        refusal = refusal_to_lead(own, recorded, given or None)
        assert (refusal is None) == (wanted in (None, own))
        assert refusal is None or f"nodectl app adopt {own}" in refusal
