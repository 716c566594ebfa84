"""The key layout: what is a prefix, what sorts how, and which names are allowed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodestore.errors import Invalid
from nodestore.schema.keys import PATH_BYTES_MAX, Keys, check_name, check_path, prefix_end

KEYS = Keys("wall")
PREFIXES = [
    KEYS.prefix, KEYS.terms, KEYS.candidates, KEYS.challenges, KEYS.answers, KEYS.journal, KEYS.snapshots, KEYS.state,
    KEYS.desired, KEYS.config_history, KEYS.status, KEYS.alive,
]  # fmt: skip
SINGLE = [KEYS.epoch, KEYS.leader, KEYS.paused, KEYS.head, KEYS.applied, KEYS.config_current]


def test_all_keys_are_under_the_cluster_and_apart() -> None:
    """No key lies in another's prefix, so that a watch or a delete of one kind never meets another kind."""
    assert len({*PREFIXES, *SINGLE}) == len(PREFIXES) + len(SINGLE)
    for key in (*PREFIXES[1:], *SINGLE):
        assert key.startswith("/nodectl/wall/")
        assert not any(key != prefix and key.startswith(prefix) for prefix in PREFIXES[1:])


def test_a_cluster_is_not_part_of_another_whose_name_begins_alike() -> None:
    """The prefix ends in a slash."""
    assert not Keys("wall2").leader.startswith(KEYS.prefix)


def test_keys_of_one_thing() -> None:
    """Each method puts the name behind its prefix."""
    assert KEYS.term("abc") == "/nodectl/wall/terms/abc"
    assert KEYS.candidate("m1") == "/nodectl/wall/candidates/m1"
    assert KEYS.document("nodes/n1") == "/nodectl/wall/state/nodes/n1"
    assert KEYS.desired_of("n1") == "/nodectl/wall/desired/n1"
    assert KEYS.status_of("n1") == "/nodectl/wall/status/n1"
    assert KEYS.alive_of("n1") == "/nodectl/wall/alive/n1"
    assert KEYS.config_version(7) == "/nodectl/wall/config/history/00000007"
    assert KEYS.snapshot(KEYS.snapshot_name(12, "ab")) == "/nodectl/wall/snapshots/0000000000000012-ab/"


@given(st.lists(st.integers(0, 10**16 - 1), unique=True))
def test_entries_sort_by_index(indexes: list[int]) -> None:
    """The order of names is the order of indexes, and the index can be read back."""
    keys = [KEYS.entry(index) for index in indexes]
    assert sorted(keys) == [KEYS.entry(index) for index in sorted(indexes)]
    assert [KEYS.entry_index(key) for key in keys] == indexes


@pytest.mark.parametrize(
    "name", ["", "12", "000000000000001x", "00000000000000001", "٠٠٠٠٠٠٠٠٠٠٠٠٠٠٠١", "-000000000000001"]
)
def test_what_is_no_entry_is_refused(name: str) -> None:
    """A foreign key under journal/ is not taken for an entry."""
    with pytest.raises(ValueError, match="names no journal entry"):
        KEYS.entry_index(KEYS.journal + name)


@pytest.mark.parametrize("name", ["a", "n1", "PC-3_left.back", "0", "a" * 63])
def test_names_that_are_allowed(name: str) -> None:
    assert check_name("node", name) == name


@pytest.mark.parametrize(
    "name", ["", "a/b", "/", ".", "..", "-a", "a-", ".hidden", "a b", "ä", "a\n", "a\0", "a" * 64, "²"]
)
def test_names_that_are_not(name: str) -> None:
    """Above all none that would reach into another part of the tree."""
    with pytest.raises(Invalid, match="node name"):
        check_name("node", name)
    with pytest.raises(Invalid, match="cluster name"):
        Keys(name)


@pytest.mark.parametrize(
    "path", ["a", "nodes/n1", "scenes/Straße 1", "a/b/c", "a/..b/c.", "日本/語", "a" * PATH_BYTES_MAX]
)
def test_paths_that_are_allowed(path: str) -> None:
    assert check_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/a",
        "a/",
        "a//b",
        "a\n",
        "a\x7f",
        "\0",
        "a" * (PATH_BYTES_MAX + 1),
        "é" * 257,
        "..",
        "a/../b",
        "./a",
        "a/.",
    ],
)
def test_paths_that_are_not(path: str) -> None:
    """Empty segments, `.` and `..`, control characters, and more bytes (not characters) than the limit."""
    with pytest.raises(Invalid, match="document path"):
        check_path(path)


@given(st.text(min_size=1).filter(_encodes := lambda text: not any("\ud800" <= char <= "\udfff" for char in text)))
def test_the_end_of_a_prefix_is_behind_all_its_keys(prefix: str) -> None:
    """And before everything else that is behind them: the range holds the prefix's keys and no other."""
    raw, end = prefix.encode(), prefix_end(prefix)
    for tail in (b"", b"\0", b"a", b"\xff" * 8):
        assert raw <= raw + tail < end
    assert not end.startswith(raw)
    assert end[:-1] == raw[: len(end) - 1]


def test_the_end_of_the_empty_prefix_is_etcds_sign_for_everything() -> None:
    assert prefix_end("") == b"\0"
