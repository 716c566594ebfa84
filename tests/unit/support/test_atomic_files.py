"""Files are replaced as a whole, and read up to a bound."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nodestore.support import atomic_files
from nodestore.support.atomic_files import FILE_BYTES_MAX, read_bounded, write_atomic


def test_a_failed_write_leaves_the_old_file_and_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader never sees half a file."""
    path = tmp_path / "document.json"
    write_atomic(path, b"old")

    def fail(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic_files, "replace_file", fail)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_drafts_of_the_killed_are_removed(tmp_path: Path) -> None:
    """Only drafts of processes that ended are removed; other files stay."""
    dead, alive = 2**22 + 1, os.getppid()
    for name in (f".a[1].conf.{dead}.new", f".a[1].conf.{alive}.new", ".a[1].conf.x.new", f".b.conf.{dead}.new"):
        (tmp_path / name).touch()
    write_atomic(tmp_path / "a[1].conf", b"x")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["a[1].conf", f".a[1].conf.{alive}.new", ".a[1].conf.x.new", f".b.conf.{dead}.new"]
    )


@pytest.mark.skipif(os.name == "nt", reason="needs links")
def test_a_draft_follows_no_link(tmp_path: Path) -> None:
    """If the draft's path is a symbolic link, its target is not written."""
    other = tmp_path / "other"
    other.write_bytes(b"theirs")
    (tmp_path / f".a.{os.getpid()}.new").symlink_to(other)
    write_atomic(tmp_path / "a", b"ours")
    assert (other.read_bytes(), (tmp_path / "a").read_bytes()) == (b"theirs", b"ours")


@pytest.mark.parametrize(("surplus", "expected"), [(0, FILE_BYTES_MAX), (1, None)])
def test_a_read_is_bounded(tmp_path: Path, surplus: int, expected: int | None) -> None:
    """A file of the largest size is read; a larger one is treated as absent."""
    path = tmp_path / "large"
    path.write_bytes(b"x" * (FILE_BYTES_MAX + surplus))
    content = read_bounded(path)
    assert (None if content is None else len(content)) == expected


def test_an_absent_file_has_no_content(tmp_path: Path) -> None:
    """Absent and unreadable files have no content."""
    assert read_bounded(tmp_path / "gone") is None
    assert read_bounded(tmp_path) is None


def test_a_file_is_replaced(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("old")
    new.write_text("new")
    atomic_files.replace_file(new, old)
    assert old.read_text() == "new"
    assert not new.exists()
