"""When a snapshot is due."""

from __future__ import annotations

import pytest

from masterd.term.retention import RetentionSettings, is_snapshot_due

_SETTINGS = RetentionSettings(snapshot_every_commands=100, snapshot_every_bytes=10_000, journal_bytes_max=48 << 20)


@pytest.mark.parametrize(
    ("commands", "journal_bytes", "snapshot_bytes", "due"),
    [
        (99, 9_999, 0, False),
        (100, 5_000, 0, True),
        (1, 10_000, 0, True),
        (0, 0, 0, False),
        (100, 5_000, 1 << 20, True),  # a small one costs nothing
        (5_000, 4 << 20, 20 << 20, False),  # it would be five times what it saves
        (5_000, 10 << 20, 12 << 20, False),
        (5_000, 12 << 20, 12 << 20, True),
        (5_000, 15 << 20, 500 << 20, False),
        (5_000, 16 << 20, 500 << 20, True),  # the journal has its bound all the same
    ],
)
def test_a_snapshot_is_due_when_it_is_worth_it(
    commands: int, journal_bytes: int, snapshot_bytes: int, due: bool
) -> None:
    """After so many commands or bytes; a large one not before the journal has grown by its size."""
    assert is_snapshot_due(_SETTINGS, commands, journal_bytes, snapshot_bytes) is due
