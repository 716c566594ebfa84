"""Files that other users must not read: modes on POSIX; on Windows access lists, which a fake writes down here."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from noded.reconcile.last_applied import LastApplied
from nodestore.pki.private_files import make_private_directory, write_private, write_public
from nodestore.schema.models import Desired, Spec
from nodestore.support.files import owner_only
from nodestore.support.files.owner_only import DIRECTORY_LIST, FILE_LIST, restrict


class Windows:
    """What access lists were set: the name of the file, its content at that time, and the list."""

    def __init__(self) -> None:
        self.lists: list[tuple[str, bytes | None, str]] = []

    def set_access_list(self, path: Path, access_list: str) -> None:
        content = None if path.is_dir() else path.read_bytes()
        self.lists.append((path.name, content, access_list))


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> Windows:
    made = Windows()
    monkeypatch.setattr(owner_only, "HAS_ACCESS_LISTS", True)
    monkeypatch.setattr(owner_only, "set_access_list", made.set_access_list)
    return made


def test_a_private_file_has_its_list_before_its_content(windows: Windows, tmp_path: Path) -> None:
    """Also in a directory that others may read."""
    write_private(tmp_path / "pc1.key", b"secret")
    write_public(tmp_path / "pc1.crt", b"public")
    ((name, content, access_list),) = windows.lists
    assert (name.startswith(".pc1.key."), content, access_list) == (True, b"", FILE_LIST)
    assert (tmp_path / "pc1.key").read_bytes() == b"secret"


def test_a_new_directory_passes_its_list_on(windows: Windows, tmp_path: Path) -> None:
    make_private_directory(tmp_path / "pki")
    make_private_directory(tmp_path / "pki")  # one that exists is left as it is
    assert windows.lists == [("pki", None, DIRECTORY_LIST)]


def test_files_of_earlier_releases_are_restricted(windows: Windows, tmp_path: Path) -> None:
    file, directory = tmp_path / "document.json", tmp_path / ".noded"
    file.write_bytes(b"{}")
    directory.mkdir()
    restrict(file)
    restrict(directory)
    assert windows.lists == [("document.json", b"{}", FILE_LIST), (".noded", None, DIRECTORY_LIST)]


def test_the_desired_state_of_a_node(windows: Windows, tmp_path: Path) -> None:
    saved = LastApplied(tmp_path)
    desired = Desired(epoch=1, term=2, generation=3, spec=Spec(driver="fake"))
    saved.save(desired)
    assert [(content, access_list) for _, content, access_list in windows.lists] == [
        (None, DIRECTORY_LIST), (b"", FILE_LIST),
    ]  # fmt: skip
    saved.save(desired)  # unchanged: of an earlier release, perhaps
    assert windows.lists[-1][::2] == ("applied.json", FILE_LIST)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has access lists instead of modes")
def test_modes(tmp_path: Path) -> None:
    write_private(tmp_path / "a", b"")
    (tmp_path / "b").write_bytes(b"")
    (tmp_path / "b").chmod(0o664)
    restrict(tmp_path / "b")
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in "ab"] == [0o600, 0o600]
