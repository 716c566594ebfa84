"""The same files give the same bytes, and damage is found."""

from __future__ import annotations

import os
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from nodectl.kits.archive import write_archive
from nodectl.kits.manifest import MANIFEST, SUMS
from nodectl.kits.verify import verify
from nodestore.errors import Invalid, NotFound
from tests.support.kits import make_kit


@pytest.mark.parametrize("name", ["kit.tar.gz", "kit.zip"])
def test_times_order_and_rights_do_not_depend_on_the_pc(tmp_path: Path, name: str) -> None:
    first = make_kit(tmp_path / "one")
    write_archive(first, tmp_path / f"1-{name}")
    second = tmp_path / "two" / first.name
    for file in sorted((path for path in first.rglob("*") if path.is_file()), reverse=True):
        copy = second / file.relative_to(first)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
        copy.chmod(0o700 if os.access(file, os.X_OK) else 0o600)
        os.utime(copy, (1, 1))
    write_archive(second, tmp_path / f"2-{name}")
    assert (tmp_path / f"1-{name}").read_bytes() == (tmp_path / f"2-{name}").read_bytes()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps no right to run a file")
def test_a_tar_keeps_what_may_be_run(tmp_path: Path) -> None:
    kit = make_kit(tmp_path)
    write_archive(kit, tmp_path / "kit.tar.gz")
    with tarfile.open(tmp_path / "kit.tar.gz") as archive:
        modes = {entry.name.partition("/")[2]: (entry.mode, entry.uid, entry.uname) for entry in archive}
    assert modes["python/bin/python3.11"] == (0o755, 0, "")
    assert modes[MANIFEST] == (0o644, 0, "")


@pytest.mark.parametrize("name", ["kit.tar.gz", "kit.zip", ""])
def test_a_whole_kit_is_verified_as_a_file_and_as_a_folder(tmp_path: Path, name: str) -> None:
    kit = make_kit(tmp_path)
    if name:
        write_archive(kit, tmp_path / name)
    verified = verify(tmp_path / name if name else kit)
    assert verified.manifest.release == "1.0-abcd"
    assert verified.files == 4


def test_what_python_compiled_there_is_no_damage(tmp_path: Path) -> None:
    kit = make_kit(tmp_path)
    (kit / "python/__pycache__").mkdir()
    (kit / "python/__pycache__/x.pyc").write_text("")
    verify(kit)


@pytest.mark.parametrize("change", ["altered", "missing", "added"])
def test_a_changed_file_is_named(tmp_path: Path, change: str) -> None:
    kit = make_kit(tmp_path)
    file = kit / ("nodectl" if change != "added" else "new")
    file.unlink() if change == "missing" else file.write_text("other")
    with pytest.raises(Invalid, match=f"not as SHA256SUMS says: {file.name}$"):
        verify(kit)


@pytest.mark.parametrize("name", [MANIFEST, SUMS])
def test_a_folder_without_its_lists_is_no_kit(tmp_path: Path, name: str) -> None:
    kit = make_kit(tmp_path)
    (kit / name).unlink()
    with pytest.raises(Invalid, match=f"is no kit: it has no {name}|damaged"):
        verify(kit)


@pytest.mark.parametrize("name", ["kit.tar.gz", "kit.zip"])
def test_a_file_that_was_cut_is_one_clear_line(tmp_path: Path, name: str) -> None:
    kit, file = make_kit(tmp_path), tmp_path / name
    write_archive(kit, file)
    whole = file.read_bytes()
    for size in range(0, len(whole), 50):
        file.write_bytes(whole[:size])
        with pytest.raises(Invalid):
            verify(file)


def test_a_zip_that_names_a_file_twice_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "kit.zip", "w") as archive:
        archive.writestr(f"kit/{MANIFEST}", "{}")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr(f"kit/{MANIFEST}", "{}")
    with pytest.raises(Invalid, match="a file twice"):
        verify(tmp_path / "kit.zip")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"v": 1}', "[" * 100_000])
def test_a_manifest_that_cannot_be_read_is_one_clear_line(tmp_path: Path, text: str) -> None:
    kit = make_kit(tmp_path)
    (kit / MANIFEST).write_text(text)
    with pytest.raises(Invalid, match="is not the manifest of a kit"):
        verify(kit)


def test_a_manifest_of_a_newer_form_is_refused(tmp_path: Path) -> None:
    kit = make_kit(tmp_path)
    (kit / MANIFEST).write_text('{"v": 2}')
    with pytest.raises(Invalid, match="use a newer one"):
        verify(kit)


def test_a_missing_kit_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        verify(tmp_path / "kit.tar.gz")


def test_another_file_or_folder_is_no_kit(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# text")
    with pytest.raises(Invalid, match="is damaged or no kit"):
        verify(tmp_path / "README.md")
    with pytest.raises(Invalid, match=r"is no kit: it has no kit\.json"):
        verify(tmp_path)
