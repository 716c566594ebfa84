"""Another program deletes or garbles keys: nothing acknowledged is lost, and docs/lost-keys.md says what happens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from masterd.term.repair.store_repair import StoreRepair
from masterd.term.retention import JournalRetention
from tests.simulation.stores.lost_keys import DAMAGES, KINDS, SITUATIONS, Kind, outcome_of, page_with, table

PAGE = Path(__file__).parents[3] / "docs" / "lost-keys.md"


@pytest.fixture(scope="module")
def outcomes() -> dict[tuple[str, str], set[str]]:
    return {}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name.replace("`", ""))
def test_nothing_is_lost(outcomes: dict[tuple[str, str], set[str]], kind: Kind, damage: str) -> None:
    """Idle, with a commit open that lands before or after the damage, and in epoch 2."""
    outcomes[kind.name, damage] = {outcome_of(kind, damage, situation) for situation in SITUATIONS}
    row = next(line for line in PAGE.read_text("utf-8").splitlines() if line.startswith(f"| {kind.name} |"))
    shown = dict(zip(DAMAGES, row.split(" | ")[1:3], strict=True))
    assert shown[damage] == max(outcomes[kind.name, damage], key=len), "make lostkeys"


def test_the_page_has_a_row_for_each_kind() -> None:
    """The texts of the rows are those of the kinds: `make lostkeys` writes them."""
    text = PAGE.read_text("utf-8")
    cells = {line.split(" | ")[0].removeprefix("| "): line.split(" | ") for line in text.splitlines() if "|" in line}
    shown = {(kind.name, damage): {cells[kind.name][at]} for kind in KINDS for at, damage in enumerate(DAMAGES, 1)}
    assert page_with(text, table(shown)) == text


def test_without_the_check_of_the_journal_its_loss_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The case fails if the leader does not notice that journal and snapshots are gone."""

    async def nothing(self: JournalRetention) -> None:
        return None

    monkeypatch.setattr(JournalRetention, "cover_state", nothing)
    kind = next(kind for kind in KINDS if "`journal/`, " in kind.name)
    with pytest.raises(AssertionError):
        outcome_of(kind, "deleted", "idle")


def test_without_the_repair_of_views_their_loss_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The case fails if the leader compares no views with the state."""

    async def nothing(self: StoreRepair, *_: Any) -> None:
        return None

    monkeypatch.setattr(StoreRepair, "_compare_views", nothing)
    with pytest.raises(AssertionError):
        outcome_of(next(kind for kind in KINDS if kind.name == "`applied`, `state/`"), "deleted", "idle")
