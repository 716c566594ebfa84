"""A generated file: written whole, and never over a different one unless forced."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from nodectl.etcd_setup.text_file import write_text
from nodestore.errors import Conflict, Invalid, NodectlError


def test_a_new_file_is_written_with_the_same_bytes_on_every_system(tmp_path: Path) -> None:
    assert write_text(tmp_path / "a", "één\n")
    assert (tmp_path / "a").read_bytes() == "één\n".encode()


def test_the_same_text_leaves_the_file_alone(tmp_path: Path) -> None:
    file = tmp_path / "a"
    write_text(file, "x\n")
    before = file.stat()
    assert not write_text(file, "x\n")
    assert not write_text(file, "x\n", force=True)
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_different_file_is_replaced_by_force_only(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"\xff not text")
    with pytest.raises(Conflict, match="is different; --force replaces it"):
        write_text(file, "x\n")
    assert file.read_bytes() == b"\xff not text"
    assert write_text(file, "x\n", force=True)
    assert file.read_text() == "x\n"
    assert list(tmp_path.iterdir()) == [file]


def test_a_directory_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="is not a regular file"):
        write_text(tmp_path, "x\n", force=True)


def test_a_missing_directory_is_named_with_the_file(tmp_path: Path) -> None:
    file = tmp_path / "none" / "a"
    with pytest.raises(NodectlError) as raised:
        write_text(file, "x\n")
    assert str(raised.value).startswith(f"{file} cannot be written: ")


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links need a privilege there")
def test_a_symbolic_link_stays_and_its_target_is_written(tmp_path: Path) -> None:
    link, target = tmp_path / "link", tmp_path / "target"
    target.write_text("old\n")
    link.symlink_to(target)
    assert write_text(link, "new\n", force=True)
    assert link.is_symlink()
    assert target.read_text() == "new\n"
