"""Tables of any text: columns in line, and nothing in a cell acts on the terminal."""

from __future__ import annotations

import io

import pytest
from rich.cells import cell_len

from nodectl.terminal.format import inline, members_table
from nodectl.terminal.output import Table, as_json, escape_misleading, needs_ascii, plain_table
from nodestore.schema.api_types import MemberView, SilentEtcd


@pytest.mark.parametrize(
    "text", ["red", "日本語", "e\u0301\u0301", "🔆", "שלום", "a\u202eb", "x\ny\tz", "\x1b[2J", "\ud800"]
)
def test_the_next_column_begins_where_its_heading_does(text: str) -> None:
    """Counted as a terminal counts, on one line a row."""
    table = Table(("A", "B"))
    table.add(text, "end")
    table.add("a longer cell than that", "end")
    heading, row, _ = plain_table(table).splitlines()
    assert cell_len(row[: row.index("end")]) == cell_len(heading[: heading.index("B")])


@pytest.mark.parametrize(
    "char", ["\x00", "\n", "\x1b", "\x7f", "\x9b", "\u2028", "\u202e", "\u2066", "\ufeff", "\ud800"]
)
def test_what_acts_on_a_terminal_is_written_out(char: str) -> None:
    """In values, in the names of values, and wherever else it comes from."""
    for shown in (escape_misleading(char), inline({char: char})):
        assert char not in shown
        assert "\\" in shown


def test_plain_words_stay_as_they_are() -> None:
    """Letters of all scripts, emoji, and spaces."""
    for text in ("red", "grün", "日本語", "🔆👩\u200d👧", "a\xa0b"):
        assert escape_misleading(text) == text


def test_members_are_listed_by_name_or_id() -> None:
    """A member that has not joined yet has no name; a silent etcd has neither ids nor versions."""
    joining: MemberView = {
        "id": "8e9e", "name": "", "endpoint": "10.0.0.11:2379", "healthy": True, "leader": False, "version": "3.5.30",
        "db_bytes": 2048, "error": None,
    }  # fmt: skip
    silent: SilentEtcd = {"name": "?", "endpoint": "", "healthy": False, "leader": False, "error": "too late"}
    heading, *rows = plain_table(members_table([joining, silent])).splitlines()
    assert heading.split() == ["MEMBER", "HEALTH", "ENDPOINT", "VERSION", "DATABASE", "ERROR"]
    assert [row.split() for row in rows] == [
        ["8e9e", "healthy", "10.0.0.11:2379", "3.5.30", "2", "KiB"], ["?", "down", "0", "KiB", "too", "late"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("platform", "terminal", "ascii_only"), [("win32", False, True), ("win32", True, False), ("linux", False, False)]
)
def test_json_in_a_pipe_of_windows_is_ascii(platform: str, terminal: bool, ascii_only: bool) -> None:
    """Its reader may expect any code page; escapes mean the same in each."""
    stream = io.StringIO()
    stream.isatty = lambda: terminal  # type: ignore[method-assign]
    assert needs_ascii(stream, platform) is ascii_only
    assert as_json({"scene": "Küche"}, ascii_only=ascii_only).isascii() is ascii_only
