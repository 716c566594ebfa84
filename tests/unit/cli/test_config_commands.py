"""`nodectl config`: no operator undoes another's change unseen, and nothing is applied half or by mistake."""

from __future__ import annotations

import io
import os
import stat
import sys
from pathlib import Path

import pytest
import yaml

from nodectl.cli.exit_codes import ExitCode
from tests.support.cli import CallNodectl
from tests.support.fakes.masterd import FakeCluster

WALL = Path(__file__).parents[3] / "examples" / "wall" / "wall.yaml"

posix = pytest.mark.skipif(sys.platform == "win32", reason="the editors of these tests are shell scripts")


def _answers(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A terminal at which somebody types `text`."""
    terminal = io.StringIO(text)
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdin", terminal)


def _editor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *scripts: str) -> None:
    """$EDITOR: at its first call the first script, in which $1 is the file, then the next."""
    for number, script in enumerate(scripts, 1):
        (tmp_path / f"{number}.sh").write_text(script)
    editor = tmp_path / "editor"
    editor.write_text(
        f"#!/bin/sh\ncd {tmp_path}\nn=$(($(cat count 2>/dev/null || echo 0) + 1))\necho $n > count\n. ./$n.sh\n"
    )
    editor.chmod(0o755)
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", str(editor))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def _kept(tmp_path: Path) -> list[Path]:
    return sorted(tmp_path.glob("nodectl-*/*.yaml"))


# --- two operators ---


def test_the_second_of_two_operators_is_refused(cluster: FakeCluster, nodectl: CallNodectl, tmp_path: Path) -> None:
    """Both took version 1, and each changed something else. Only one change may win without the other being seen."""
    nodectl("config", "apply", str(WALL))
    ann, bob = tmp_path / "ann.yaml", tmp_path / "bob.yaml"
    for file, old, new in ((ann, "10.0.0.18", "10.0.0.88"), (bob, "10.0.0.19", "10.0.0.99")):
        file.write_text(nodectl("config", "show").out.replace(old, new))
    assert nodectl("config", "apply", str(ann)).code == 0
    ran = nodectl("config", "apply", str(bob))
    assert ran.code == ExitCode.CONFLICT
    assert f"{bob} is based on version 1, and version 2 is current" in ran.err
    assert cluster.config["current"]["inventory"]["nodes"]["n8"]["address"] == "10.0.0.88"
    assert nodectl("config", "apply", str(bob), "--expect-version", "2").code == 0
    assert cluster.config["current"]["version"] == 3


def test_a_file_can_be_edited_and_applied_again_and_again(
    cluster: FakeCluster, nodectl: CallNodectl, tmp_path: Path
) -> None:
    """Each time the file names the new version; its permissions stay, and a link to it stays a link."""
    nodectl("config", "apply", str(WALL))
    file, link = tmp_path / "real.yaml", tmp_path / "wall.yaml"
    file.write_bytes(("# ours\n" + nodectl("config", "show").out).replace("\n", "\r\n").encode())
    file.chmod(0o640)
    link.symlink_to(file)
    for version, priority in ((2, 21), (3, 22)):
        text = file.read_bytes().decode()
        file.write_bytes(text.replace(f"priority: {priority - 1}", f"priority: {priority}").encode())
        ran = nodectl("config", "apply", str(link))
        assert ran.code == 0, ran.err
        assert f"{link} is now based on version {version}" in ran.err
    lines = file.read_bytes().decode().split("\r\n")
    assert lines[0] == "# ours"
    assert lines[1].startswith("# nodectl: based on version 3 (")
    assert link.is_symlink()
    if sys.platform != "win32":
        assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert "based on version" not in cluster.config["current"]["source"]


def test_a_file_that_cannot_be_written_does_not_fail_what_took_effect(
    cluster: FakeCluster, nodectl: CallNodectl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line to write is named."""
    nodectl("config", "apply", str(WALL))
    file = tmp_path / "wall.yaml"
    file.write_text(nodectl("config", "show").out.replace("10.0.0.18", "10.0.0.88"))

    def full(path: Path, content: bytes, mode: int | None = None) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nodestore.support.atomic_files.write_atomic", full)
    ran = nodectl("config", "apply", str(file))
    assert ran.code == 0
    assert "still says that it is based on version 1 (No space left on device): write '# nodectl: based on" in ran.err


def test_a_file_without_the_comment_is_applied_as_before(cluster: FakeCluster, nodectl: CallNodectl) -> None:
    """It may come from version control, where it is the only copy."""
    nodectl("config", "apply", str(WALL))
    cluster.config["current"] |= {"version": 9}
    assert nodectl("config", "apply", str(WALL), "--dry-run").code == 0
    assert WALL.read_text().startswith("# A wall")


# --- versions ---


def test_earlier_versions_are_shown_and_compared(cluster: FakeCluster, nodectl: CallNodectl, tmp_path: Path) -> None:
    """With each other, with the current one, and with files."""
    nodectl("config", "apply", str(WALL))
    changed = tmp_path / "wall.yaml"
    changed.write_text(WALL.read_text().replace("10.0.0.19", "10.0.0.99"))
    nodectl("config", "apply", str(changed))
    ran = nodectl("config", "show", "--version", "1")
    assert ran.out.startswith("# nodectl: based on version 1 (")
    assert ran.out.endswith(WALL.read_text())
    assert nodectl("config", "show", "--version", "1", "-o", "json").json()["version"] == 1
    forward, back = nodectl("config", "diff", "1", "2"), nodectl("config", "diff", "1")
    assert forward.out.splitlines()[:2] == ["--- version 1", "+++ version 2"]
    assert back.out.splitlines()[:2] == ["--- version 2", "+++ version 1"]
    assert "+    address: 10.0.0.99" in forward.out
    assert "+    address: 10.0.0.19" in back.out
    assert nodectl("config", "diff", "2", str(changed), "--check").code == 0
    assert nodectl("config", "diff", str(WALL), str(changed), "--check").code == 1
    for args in (["show", "--version", "7"], ["diff", "7"], ["diff", "1", "7"]):
        assert nodectl("config", *args).code == ExitCode.NOT_FOUND


def test_stdin_is_a_file(cluster: FakeCluster, nodectl: CallNodectl, monkeypatch: pytest.MonkeyPatch) -> None:
    """In every command that reads one."""
    for args in (["validate", "-"], ["apply", "-"], ["diff", "-", "--check"], ["diff", "1", "-", "--check"]):
        nodectl("config", "apply", str(WALL))
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(WALL.read_bytes())))
        assert nodectl("config", *args).code == 0
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"nodes: {n1: {x: 1}}")))
    assert "(stdin):1: nodes.n1.x: this field is not known" in nodectl("config", "apply", "-").err


# --- removing many nodes ---


def _few(tmp_path: Path, count: int) -> Path:
    data = yaml.safe_load(WALL.read_text())
    data["nodes"] = dict(list(data["nodes"].items())[:count])
    data["groups"] = {}
    file = tmp_path / f"{count}.yaml"
    file.write_text(yaml.safe_dump(data))
    return file


def test_removing_many_nodes_is_asked_about(
    cluster: FakeCluster, nodectl: CallNodectl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By apply and by rollback: a typing error must not darken the wall. A third and a dry run are not asked about."""
    nodectl("config", "apply", str(_few(tmp_path, 3)))
    nodectl("config", "apply", str(WALL))
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert nodectl("config", "apply", str(_few(tmp_path, 3)), "--dry-run").code == 0
    for args in (["apply", str(_few(tmp_path, 3))], ["rollback", "1"]):
        ran = nodectl("config", *args)
        assert (ran.code, cluster.config["current"]["version"]) == (ExitCode.USAGE, 2)
        assert "--yes" in ran.err
        _answers(monkeypatch, "n\n")
        ran = nodectl("config", *args)
        assert (ran.code, cluster.config["current"]["version"]) == (ExitCode.FAILED, 2)
        assert "This removes 6 of 9 nodes (n4, n5, n6, n7, n8, n9)" in ran.err
        monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert nodectl("config", "apply", str(_few(tmp_path, 6))).code == 0
    assert nodectl("config", "rollback", "1", "--yes").code == 0
    _answers(monkeypatch, "y\n")
    assert nodectl("config", "apply", str(_few(tmp_path, 0))).code == 0
    assert cluster.config["current"]["inventory"]["nodes"] == {}


# --- drivers ---


def test_a_mistake_in_a_driver_s_settings_is_found_before_anything_is_applied(
    cluster: FakeCluster, nodectl: CallNodectl, tmp_path: Path
) -> None:
    """All of them at once. A driver that is not installed here is a warning."""
    file = tmp_path / "wall.yaml"
    file.write_text(WALL.read_text().replace("argv:", "arg:"))
    for verb in ("validate", "apply"):
        ran = nodectl("config", verb, str(file))
        assert ran.code == ExitCode.USAGE
        assert "this setting of driver process is not known; did you mean 'argv'?" in ran.err
        assert "defaults.driver.settings.argv: is missing: driver process needs it" in ran.err
    assert cluster.config["current"] is None
    assert nodectl("config", "apply", str(file), "--skip-driver-check").code == 0
    file.write_text(WALL.read_text().replace("process", "relay"))
    ran = nodectl("config", "validate", str(file), "-o", "json")
    assert (ran.code, len(ran.json()["warnings"])) == (0, 1)
    assert "driver 'relay' is not installed on this PC" in ran.err


# --- editing ---


@posix
def test_an_edit_is_applied(
    cluster: FakeCluster, nodectl: CallNodectl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the editor's file is removed."""
    nodectl("config", "apply", str(WALL))
    _editor(monkeypatch, tmp_path, 'sed -i.bak s/10.0.0.19/10.0.0.99/ "$1"')
    ran = nodectl("config", "edit", "--wait", "-o", "json")
    assert (ran.code, ran.json()["version"], ran.json()["changes"]) == (0, 2, ["change node n9"])
    assert cluster.config["current"]["source"] == WALL.read_text().replace("10.0.0.19", "10.0.0.99")
    assert _kept(tmp_path) == []


@posix
def test_an_edit_that_changes_nothing_applies_nothing(
    cluster: FakeCluster, nodectl: CallNodectl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodectl("config", "apply", str(WALL))
    _editor(monkeypatch, tmp_path, "true")
    ran = nodectl("config", "edit")
    assert (ran.code, ran.err) == (0, "nothing was changed\n")
    assert cluster.config["current"]["version"] == 1
    assert _kept(tmp_path) == []


@posix
def test_mistakes_are_edited_again(
    cluster: FakeCluster, nodectl: CallNodectl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until there is none. An operator who gives up has applied nothing and keeps the text."""
    nodectl("config", "apply", str(WALL))
    spoil = 'sed -i.bak s/priority:/prio:/ "$1"'
    mend = 'sed -i.bak "s/prio: 20/priority: 5/; s/prio:/priority:/" "$1"'
    _editor(monkeypatch, tmp_path, spoil, mend, spoil)
    _answers(monkeypatch, "y\n")
    ran = nodectl("config", "edit")
    assert ran.code == 0, ran.err
    assert "masters.m1.prio: this field is not known" in ran.err
    assert cluster.config["current"]["inventory"]["masters"]["m1"]["priority"] == 5
    _answers(monkeypatch, "n\n")
    ran = nodectl("config", "edit")
    assert (ran.code, cluster.config["current"]["version"]) == (ExitCode.FAILED, 2)
    (kept,) = _kept(tmp_path)
    assert f"your text is kept in {kept}" in ran.err
    assert "prio: 5" in kept.read_text()


@posix
@pytest.mark.parametrize("script", ["s/10.0.0.19/10.0.0.99/", "1d; s/10.0.0.19/10.0.0.99/"])
def test_a_version_that_was_applied_during_the_edit_is_not_undone(
    cluster: FakeCluster, nodectl: CallNodectl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    """Not even if the editor has deleted the comment. The text is kept."""
    nodectl("config", "apply", str(WALL))
    _editor(monkeypatch, tmp_path, f'sed -i.bak "{script}" "$1"')

    def edit_meanwhile(argv: list[str]) -> int:
        cluster.config["current"] |= {"version": 2}
        return os.waitstatus_to_exitcode(os.system(f"'{argv[0]}' '{argv[1]}'"))  # noqa: S605 - as an editor is run

    monkeypatch.setattr("nodestore.processes.foreground.run_foreground", edit_meanwhile)
    ran = nodectl("config", "edit")
    assert (ran.code, cluster.config["current"]["version"]) == (ExitCode.CONFLICT, 2)
    assert "your text is kept in" in ran.err
    assert "10.0.0.99" in _kept(tmp_path)[0].read_text()


@posix
@pytest.mark.parametrize(
    ("script", "complaint"), [("exit 3", "ended with exit code 3: nothing was applied"), ("kill -9 $$", "exit code -9")]
)
def test_an_editor_that_fails_applies_nothing(
    cluster: FakeCluster,
    nodectl: CallNodectl,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    complaint: str,
) -> None:
    nodectl("config", "apply", str(WALL))
    _editor(monkeypatch, tmp_path, f'sed -i.bak s/20/21/ "$1"\n{script}')
    ran = nodectl("config", "edit")
    assert (ran.code, cluster.config["current"]["version"]) == (ExitCode.FAILED, 1)
    assert complaint in ran.err


def test_an_editor_that_does_not_exist(
    cluster: FakeCluster, nodectl: CallNodectl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line says what to set; without a configuration there is nothing to edit."""
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", "/no/such/editor")
    assert nodectl("config", "edit").code == ExitCode.NOT_FOUND
    nodectl("config", "apply", str(WALL))
    ran = nodectl("config", "edit")
    assert (ran.code, ran.err.splitlines()[-1]) == (
        ExitCode.USAGE, "error: cannot run the editor '/no/such/editor': No such file or directory: set EDITOR",
    )  # fmt: skip
