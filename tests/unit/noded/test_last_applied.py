"""The spec that a node last applied outlives noded, and a damaged file is ignored."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from noded.reconcile.last_applied import LastApplied
from nodestore.schema.models import Desired, Spec

DESIRED = Desired(epoch=1, term=2, generation=3, spec=Spec(driver="process", document={"scene": "Küche ✓"}))


def test_what_is_kept_is_loaded(tmp_path: Path) -> None:
    """A restarted noded knows what was applied last."""
    LastApplied(tmp_path).save(DESIRED)
    assert LastApplied(tmp_path).load() == DESIRED


def test_nothing_kept_is_nothing_loaded(tmp_path: Path) -> None:
    """A wiped or new directory remembers nothing, and forgetting twice is no error."""
    last = LastApplied(tmp_path / "gone")
    assert last.load() is None
    last.save(None)
    last.save(DESIRED)
    last.save(None)
    assert last.load() is None


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\x00\xff", b'{"v": 99}'])
def test_a_damaged_file_is_as_good_as_none(tmp_path: Path, content: bytes) -> None:
    """Garbage on disk neither stops noded nor is obeyed."""
    (tmp_path / ".noded").mkdir()
    (tmp_path / ".noded" / "applied.json").write_bytes(content)
    assert LastApplied(tmp_path).load() is None


def test_the_same_is_not_written_again(tmp_path: Path) -> None:
    """An equal value is not written again, because flash memory wears out."""
    last = LastApplied(tmp_path)
    last.save(DESIRED)
    before = (tmp_path / ".noded" / "applied.json").stat().st_ino
    last.save(DESIRED)
    assert (tmp_path / ".noded" / "applied.json").stat().st_ino == before


def test_after_a_wipe_it_is_written_again(tmp_path: Path) -> None:
    """Keeping what is known already puts a lost file right."""
    last = LastApplied(tmp_path)
    last.save(DESIRED)
    shutil.rmtree(tmp_path / ".noded")
    last.save(DESIRED)
    assert last.load() == DESIRED


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    """It may hold secrets. A file of an earlier release is restricted when the same state is kept again."""
    last, file = LastApplied(tmp_path), tmp_path / ".noded" / "applied.json"
    last.save(DESIRED)
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    file.chmod(0o644)
    last.save(DESIRED)
    assert file.stat().st_mode & 0o777 == 0o600
