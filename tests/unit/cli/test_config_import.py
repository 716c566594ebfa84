"""`nodectl config import`: a table becomes a version of the configuration, or nothing is changed."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
import yaml

from nodectl.cli.exit_codes import ExitCode
from tests.support.cli import CallNodectl
from tests.support.fakes.masterd import FakeCluster

WALL = Path(__file__).parents[3] / "examples" / "wall" / "wall.yaml"
_ROWS = "\ufeffPC;IP\r\n" + "".join(f"n{number};10.1.0.{number}\r\n" for number in range(1, 10))


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    table, mapping = tmp_path / "players.csv", tmp_path / "mapping.yaml"
    table.write_text(_ROWS, "utf-8")
    mapping.write_text("name: PC\naddress: IP\n")
    return table, mapping


def _call(nodectl: CallNodectl, files: tuple[Path, Path], *options: str) -> tuple[int, str, str]:
    ran = nodectl("config", "import", str(files[0]), "--mapping", str(files[1]), *options)
    return ran.code, ran.out, ran.err


def _version(cluster: FakeCluster) -> int:
    current = cluster.config["current"]
    return int(current["version"]) if current else 0


def _masked(record: dict[str, Any]) -> dict[str, Any]:
    return {**record, "inventory": {**record["inventory"], "settings": {"password": "***"}}}


def test_a_table_is_the_first_configuration(
    cluster: FakeCluster, nodectl: CallNodectl, files: tuple[Path, Path]
) -> None:
    code, _, err = _call(nodectl, files)
    assert code == 0, err
    assert "add node n9" in err
    assert cluster.config["current"]["inventory"]["nodes"]["n9"] == {"address": "10.1.0.9"}
    assert _call(nodectl, files)[2].startswith("nothing to do: version 1 is the same")


def test_a_table_changes_the_nodes_and_keeps_the_rest(
    cluster: FakeCluster, nodectl: CallNodectl, files: tuple[Path, Path], tmp_path: Path
) -> None:
    nodectl("config", "apply", str(WALL))
    assert _call(nodectl, files)[0] == 0
    expected = yaml.safe_load(WALL.read_text())
    for number in range(1, 10):
        expected["nodes"][f"n{number}"]["address"] = f"10.1.0.{number}"
    assert cluster.config["current"]["inventory"] == expected
    shown = tmp_path / "shown.yaml"
    shown.write_text(nodectl("config", "show").out)
    assert "nothing to do" in nodectl("config", "apply", str(shown)).err


def test_a_dry_run_prints_the_differences_and_changes_nothing(
    cluster: FakeCluster, nodectl: CallNodectl, files: tuple[Path, Path]
) -> None:
    nodectl("config", "apply", str(WALL))
    code, out, err = _call(nodectl, files, "--dry-run")
    assert code == 0
    assert "+++ " in out
    assert "10.1.0.9" in out
    assert "--dry-run: nothing was changed" in err
    assert cluster.config["current"]["version"] == 1
    assert '"diff"' in _call(nodectl, files, "--dry-run", "-o", "json")[1]


def test_many_removed_nodes_need_a_confirmation(
    cluster: FakeCluster, nodectl: CallNodectl, files: tuple[Path, Path]
) -> None:
    nodectl("config", "apply", str(WALL))
    wall = cluster.config["current"]["inventory"]
    files[0].write_text("PC;IP\nn1;10.1.0.1\n")
    code, _, err = _call(nodectl, files)
    assert code == ExitCode.USAGE, err
    assert "needs a confirmation" in err
    assert cluster.config["current"]["inventory"] == wall
    assert _call(nodectl, files, "--keep-others")[0] == 0
    assert len(cluster.config["current"]["inventory"]["nodes"]) == 9
    assert _call(nodectl, files, "--yes")[0] == 0
    assert list(cluster.config["current"]["inventory"]["nodes"]) == ["n1"]


def test_another_version_in_between_is_a_conflict(
    cluster: FakeCluster, nodectl: CallNodectl, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another operator applies a version after the import has read the current one, and before it writes."""
    from nodectl.inventory.tables import build

    nodectl("config", "apply", str(WALL))
    original = build.inventory_of

    def overtaken(*args: object, **options: object) -> object:
        cluster.config["current"] = {**cluster.config["current"], "version": 2}
        return original(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(build, "inventory_of", overtaken)
    code, _, err = _call(nodectl, files)
    assert code == ExitCode.CONFLICT, err
    assert cluster.config["current"]["inventory"]["nodes"]["n9"]["address"] == "10.0.0.19"


def test_an_expected_version_and_masked_secrets_are_checked(
    cluster: FakeCluster, nodectl: CallNodectl, files: tuple[Path, Path]
) -> None:
    assert _call(nodectl, files, "--expect-version", "3")[0] == ExitCode.CONFLICT
    assert _version(cluster) == 0
    assert _call(nodectl, files, "--expect-version", "0")[0] == 0
    cluster.config = {**cluster.config, "current": _masked(cluster.config["current"])}
    code, _, err = _call(nodectl, files)
    assert code == ExitCode.FAILED
    assert "you may not see secrets" in err
    assert _version(cluster) == 1


def test_mistakes_are_listed_and_nothing_is_applied(
    cluster: FakeCluster, nodectl: CallNodectl, files: tuple[Path, Path]
) -> None:
    files[0].write_text("PC;IP\nn1;\nn1;\n;x\n")
    code, _, err = _call(nodectl, files)
    assert code == ExitCode.USAGE
    assert "players.csv: row 3: column 'PC': node 'n1' is given twice, first in row 2" in err
    assert "players.csv: row 4: column 'PC': is empty" in err
    assert cluster.config["current"] is None


def test_a_database_is_named_by_an_argument_or_a_file(
    cluster: FakeCluster, nodectl: CallNodectl, files: tuple[Path, Path], tmp_path: Path
) -> None:
    with sqlite3.connect(tmp_path / "p.db") as connection:
        connection.execute("create table players as select 'n1' as PC, '10.2.0.1' as IP")
    connection.close()
    files[1].write_text("name: PC\naddress: IP\ntable: players\n")
    url_file = tmp_path / "url"
    url_file.write_text(f"sqlite:///{tmp_path}/p.db\n")
    options = ["--mapping", str(files[1])]
    assert nodectl("config", "import", url_file.read_text().strip(), *options).code == 0
    assert cluster.config["current"]["inventory"] == {"nodes": {"n1": {"address": "10.2.0.1"}}}
    assert "nothing to do" in nodectl("config", "import", "--url-file", str(url_file), *options).err
    assert nodectl("config", "import", *options).code == ExitCode.USAGE
    assert nodectl("config", "import", "a.csv", "--url-file", str(url_file), *options).code == ExitCode.USAGE
