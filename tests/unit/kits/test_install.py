"""An unpacked kit is copied to its place, once, whole, and in a way that an interruption does not spoil."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from nodectl.__main__ import run
from nodectl.cli.commands.hosts import from_kit, host
from nodectl.cli.exit_codes import ExitCode
from nodectl.etcd_binary.running_kit import running_kit
from nodectl.kits import install as subject
from nodectl.kits.install import CURRENT, install
from nodectl.kits.manifest import SUMS, sums_text
from nodectl.terminal.output import Output
from nodestore.errors import Conflict, Denied, Invalid
from tests.support.kits import make_kit

linux_only = pytest.mark.skipif(sys.platform == "win32", reason="kits of Linux are installed on Linux")
pytestmark = linux_only


def _ignore(line: str) -> None:
    pass


def test_a_release_has_a_folder_of_its_own_and_current_names_the_newest(tmp_path: Path) -> None:
    base = tmp_path / "opt/nodectl"
    old = install(make_kit(tmp_path, "1.0"), base, _ignore)
    new = install(make_kit(tmp_path, "1.1"), base, _ignore)
    assert (old.folder, new.folder) == (base / "1.0", base / "1.1")
    assert (base / CURRENT).resolve() == base / "1.1"
    assert (old.python.is_file(), new.python.is_file(), new.etcd) == (True, True, None)
    assert sorted(path.name for path in base.iterdir()) == ["1.0", "1.1", CURRENT]


def test_an_older_release_is_taken_again_by_its_own_command(tmp_path: Path) -> None:
    base = tmp_path / "nodectl"
    install(make_kit(tmp_path, "1.0"), base, _ignore)
    install(make_kit(tmp_path, "1.1"), base, _ignore)
    assert not install(base / "1.0", base, _ignore).is_new
    assert (base / CURRENT).resolve() == base / "1.0"


def test_modules_are_compiled_for_their_place(tmp_path: Path) -> None:
    folder = install(make_kit(tmp_path), tmp_path / "nodectl", _ignore).folder
    (compiled,) = folder.rglob("__init__*.pyc")
    assert os.fsencode(folder / "python/lib/python3.11/site-packages/nodectl/__init__.py") in compiled.read_bytes()


@pytest.mark.parametrize("step", ["_copy_file", "compileall.compile_dir", "Path.rename", "_set_current"])
def test_an_interruption_after_any_step_is_mended_by_the_next_run(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit, base = make_kit(tmp_path), tmp_path / "nodectl"
    calls = 0

    def interrupted(*args: object, **options: object) -> None:
        nonlocal calls
        calls += 1
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"{subject.__name__}.{step}", interrupted)
        with pytest.raises(KeyboardInterrupt):
            install(kit, base, _ignore)
    assert calls == 1
    assert (base / "1.0-abcd").exists() == (step == "_set_current")
    install(kit, base, _ignore)
    assert (base / CURRENT / "nodectl").is_file()
    assert sorted(path.name for path in base.iterdir()) == ["1.0-abcd", CURRENT]


def test_another_build_with_the_same_name_is_not_replaced(tmp_path: Path) -> None:
    base = tmp_path / "nodectl"
    install(make_kit(tmp_path / "one"), base, _ignore)
    other = make_kit(tmp_path / "two")
    (other / "nodectl").write_text("changed")
    (other / SUMS).write_text(sums_text(other))
    with pytest.raises(Conflict, match="another build with the same name"):
        install(other, base, _ignore)


def test_a_damaged_kit_is_not_installed(tmp_path: Path) -> None:
    kit = make_kit(tmp_path)
    (kit / "nodectl").write_text("changed")
    with pytest.raises(Invalid, match="damaged"):
        install(kit, tmp_path / "nodectl", _ignore)
    assert not (tmp_path / "nodectl").exists()


def test_a_kit_for_another_system_is_not_installed(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="this kit is for windows-amd64, and this PC runs Linux"):
        install(make_kit(tmp_path, platform="windows-amd64"), tmp_path / "nodectl", _ignore)


def test_a_user_who_may_not_write_there_learns_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(source: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied", str(target))

    monkeypatch.setattr(subject, "_copy_file", denied)
    with pytest.raises(Denied, match="run this with sudo"):
        install(make_kit(tmp_path), tmp_path / "nodectl", _ignore)


def test_a_program_knows_the_kit_from_which_it_runs(tmp_path: Path) -> None:
    kit = make_kit(tmp_path)
    assert running_kit(str(kit / "python/bin/python3.11")) == kit
    assert running_kit(sys.executable) is None
    assert running_kit("") is None


def test_a_command_in_an_unpacked_kit_goes_on_from_the_installed_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command of the installed kit installs nothing; neither does one that belongs to no kit."""
    kit, base, started = make_kit(tmp_path), tmp_path / "nodectl", list[list[str]]()
    out = Output()
    monkeypatch.setattr(os, "execv", lambda program, argv: started.append(argv))
    monkeypatch.setattr(sys, "argv", ["nodectl", "host", "init"])
    for place in (None, kit, base / "1.0-abcd"):
        monkeypatch.setattr(from_kit, "running_kit", lambda place=place: place)
        from_kit.continue_installed(out, base)
    assert [argv[0] for argv in started] == [str(base / "1.0-abcd/python/bin/python3.11")]
    assert started[0][-4:] == ["-m", "nodectl", "host", "init"]


def test_the_etcd_of_a_kit_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kit = make_kit(tmp_path)
    monkeypatch.setattr(from_kit, "running_kit", lambda: kit)
    assert from_kit.kit_etcd() is None
    (kit / "etcd").mkdir()
    (kit / "etcd/etcd").write_text("")
    assert from_kit.kit_etcd() == kit / "etcd/etcd"


def test_an_incomplete_token_is_refused_before_the_kit_is_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def installs(out: Output) -> None:
        pytest.fail("the kit is installed first, which takes half a minute")

    monkeypatch.setattr(host, "continue_installed", installs)
    assert run(["host", "join", "10.0.0.1", "--token", "NCT1.abc"]) == ExitCode.USAGE
    assert "the token is not complete" in capsys.readouterr().err
