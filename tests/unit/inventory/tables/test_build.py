"""An inventory made from a table: what is set, what stays, and mistakes with their rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nodectl.inventory.file import InventoryFile
from nodectl.inventory.tables.build import inventory_of
from nodectl.inventory.tables.csv_table import read_csv
from nodectl.inventory.tables.mapping import load_mapping
from nodectl.inventory.yaml_source import FileError, YamlSource

_MAPPING = """
name: Name
address: IP
position: {row: Row, column: Col}
groups: Groups
labels: {room: Room}
driver: {settings: {argv: {column: Argv, type: json}}}
document:
  colour: Colour
  player.volume: {column: Volume, type: integer}
  source: {value: {from: table}}
"""
_HEAD = "Name;IP;Row;Col;Groups;Room;Argv;Colour;Volume\n"
_CURRENT: dict[str, Any] = {
    "masters": {"m1": {"address": "10.0.0.1"}},
    "nodes": {
        "n1": {"address": "10.0.0.1", "labels": {"room": "x", "floor": "1"}, "document": {"colour": "old", "own": 1}},
        "gone": {},
    },
    "groups": {"all-old": {"nodes": ["n1", "gone"], "match": {"floor": "1"}}},
    "defaults": {"driver": {"name": "process", "settings": {"argv": ["true"]}}},
}


def _import(
    tmp_path: Path, rows: str, current: dict[str, Any] | None = None, mapping: str = _MAPPING, **options: bool
) -> InventoryFile:
    table, columns = tmp_path / "t.csv", tmp_path / "m.yaml"
    table.write_text(rows, "utf-8")
    columns.write_text(mapping, "utf-8")
    return inventory_of(load_mapping(columns), read_csv(table), current, **options)


def _problems(tmp_path: Path, rows: str, current: dict[str, Any] | None = None, mapping: str = _MAPPING) -> list[str]:
    with pytest.raises(FileError) as caught:
        _import(tmp_path, rows, current, mapping)
    return [problem.replace(f"{tmp_path}/", "") for problem in caught.value.problems]


def test_the_table_sets_what_the_mapping_names_and_nothing_else(tmp_path: Path) -> None:
    before = repr(_CURRENT)
    loaded = _import(tmp_path, _HEAD + 'n1;;0;1;"left, top";;;#fff;7\nn2;10.0.0.2;;;left;1e5;"[""a""]";;\n', _CURRENT)
    assert loaded.data["nodes"] == {
        "n1": {
            "labels": {"floor": "1"},
            "position": [0, 1],
            "document": {"own": 1, "colour": "#fff", "player": {"volume": 7}, "source": {"from": "table"}},
        },
        "n2": {
            "address": "10.0.0.2",
            "labels": {"room": "1e5"},
            "driver": {"name": "process", "settings": {"argv": ["a"]}},
            "document": {"source": {"from": "table"}},
        },
    }
    assert loaded.data["groups"] == {
        "all-old": {"nodes": [], "match": {"floor": "1"}},
        "left": {"nodes": ["n1", "n2"]},
        "top": {"nodes": ["n1"]},
    }
    assert loaded.data["masters"] == _CURRENT["masters"]
    assert loaded.data["defaults"] == _CURRENT["defaults"]
    assert YamlSource("again", loaded.source).value == loaded.data  # `config show` gives a file that can be applied
    assert repr(_CURRENT) == before


def test_nodes_that_the_table_does_not_name_are_kept_on_request(tmp_path: Path) -> None:
    rows = "Name\nn1\nn2\n"
    assert list(_import(tmp_path, rows, _CURRENT, "name: Name").data["nodes"]) == ["n1", "n2"]
    kept = _import(tmp_path, rows, _CURRENT, "name: Name", keep_others=True).data
    assert list(kept["nodes"]) == ["n1", "gone", "n2"]
    assert kept["nodes"]["n1"] == _CURRENT["nodes"]["n1"]
    assert kept["groups"] == _CURRENT["groups"]


def test_settings_of_another_driver_do_not_stay(tmp_path: Path) -> None:
    current = {"nodes": {"n1": {"driver": {"name": "file", "settings": {"path": "/a"}}}}}
    mapping = "name: Name\ndriver: {name: Driver, settings: {url: Url}}"
    loaded = _import(tmp_path, "Name,Driver,Url\nn1,theirs,u\n", current, mapping)
    assert loaded.data["nodes"]["n1"]["driver"] == {"name": "theirs", "settings": {"url": "u"}}
    assert "driver" not in _import(tmp_path, "Name,Driver,Url\nn1,,\n", current, mapping).data["nodes"]["n1"]


@pytest.mark.parametrize(
    "text", ["1e5", "0x1f", "~", "null", "yes", "12:30", "=a", "<<", "- x", "a: b", "#x", "x\ny", "é"]
)
def test_text_stays_text_in_the_stored_file(tmp_path: Path, text: str) -> None:
    loaded = _import(tmp_path, f'Name,T\nn1,"{text}"\n', None, "name: Name\ndocument: {t: T}")
    assert loaded.data["nodes"]["n1"]["document"] == {"t": text}
    assert YamlSource("again", loaded.source).value == loaded.data


def test_all_mistakes_are_listed_with_their_rows(tmp_path: Path) -> None:
    rows = [
        "n1;;0;0;;;;;x",  # 2
        "n1;;1;1;;;;;",  # 3
        ";;0;1;;;;;",  # 4
        "../n;;;;;;;;",  # 5
        "n4;;0;;;;;;",  # 6
        "n5;;a;0;;;;;",  # 7
        "n6;;5;5;../g;;{;;",  # 8
        "n7;;6;6;;;;;",  # 9
        "n8;;6;6;;;5;;",  # 10
    ]
    problems = _problems(tmp_path, _HEAD + "\n".join(rows), _CURRENT)
    expected = [
        "row 2: column 'Volume': expected a whole number, got 'x'",
        "row 3: column 'Name': node 'n1' is given twice, first in row 2",
        "row 4: column 'Name': is empty",
        "row 5: column 'Name': ",
        "row 6: column 'Col': is empty: a position has a row and a column",
        "row 7: column 'Row': expected a whole number, got 'a'",
        "row 8: column 'Argv': expected JSON, got '{'",
        "row 8: column 'Groups': ",
        "row 10: nodes.n8.driver.settings.argv",
        "row 10: nodes.n8.position: [6, 6] is already the position of node n7 (row 9) (column 'Row')",
    ]
    for text in expected:
        assert any(problem.startswith(f"t.csv: {text}") for problem in problems), (text, problems)
    assert len(problems) == len(expected), problems


def test_a_mistake_in_the_rest_of_the_configuration_names_no_row(tmp_path: Path) -> None:
    current = {"masters": {"m1": {"priority": "high"}}}
    problems = _problems(tmp_path, "Name\nn1\n", current, "name: Name")
    assert problems == ["the rest of the configuration: masters.m1.priority: expected a whole number, got 'high'"]


@pytest.mark.parametrize("json", [r'"\ud800"', "1e999", "NaN", "[" * 50_000])
def test_json_that_no_configuration_can_hold_is_refused(tmp_path: Path, json: str) -> None:
    rows = 'Name\tJ\nn1\t"' + json.replace('"', '""') + '"\n'
    assert _problems(tmp_path, rows, None, "name: Name\ndocument: {j: {column: J, type: json}}")


@pytest.mark.parametrize("chars", [22_000, 100_000])
def test_a_configuration_that_is_too_large_for_a_file_is_refused(tmp_path: Path, chars: int) -> None:
    rows = "Name,T\n" + "".join(f"n{number},{'x' * chars}\n" for number in range(50))
    [problem] = _problems(tmp_path, rows, None, "name: Name\ndocument: {t: T}")
    assert "limit: 1,048,576" in problem


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ("", "m.yaml: expected fields"),
        ("adress: IP", "m.yaml:1: adress: this field is not known; did you mean 'address'?"),
        ("address: IP", "m.yaml:1: `name` is missing"),
        ("name: Nam", "m.yaml:1: name: t.csv has no column 'Nam'; did you mean 'Name'?"),
        ("name: Name\nlabels: {a: Twice}", "m.yaml:2: labels.a: t.csv has 2 columns 'Twice': rename them"),
        ("name: Name\ndocument: {a: {column: IP, type: int}}", "m.yaml:2: document.a.type: expected one of text, "),
        ("name: Name\ndocument: {a: IP, a.b: IP}", "m.yaml:2: document.a.b: document.a is mapped too"),
        ("name: Name\ndocument: {a..b: IP}", "m.yaml:2: document.a..b: a name between dots is empty"),
        ("name: Name\nposition: {row: IP}", "m.yaml:2: position: `column` is missing"),
        ("name: 5", "m.yaml:1: name: expected the name of a column"),
        ("name: Name\nlabels: IP", "m.yaml:2: labels: expected fields, each with its column"),
        ("name: Name\ndriver: IP", "m.yaml:2: driver: expected `name` and `settings`"),
        ("name: Name\ntable: a\nquery: b", "m.yaml:3: query: give either `table` or `query`"),
    ],
)
def test_mistakes_in_the_mapping_have_their_lines(tmp_path: Path, mapping: str, message: str) -> None:
    problems = _problems(tmp_path, "Name,IP,Twice,Twice\nn1,,,\n", None, mapping)
    assert any(problem.startswith(message) for problem in problems), problems


def test_the_example_of_the_documents_works(tmp_path: Path) -> None:
    text = (Path(__file__).parents[4] / "docs" / "import.md").read_text("utf-8")
    rows, mapping = (text.split(f"```{kind}\n")[1].split("```")[0] for kind in ("csv", "yaml"))
    data = _import(tmp_path, rows, None, mapping).data
    assert data["nodes"]["n1"] == {
        "address": "10.0.0.11",
        "position": [0, 0],
        "labels": {"room": "hall"},
        "driver": {"name": "process", "settings": {"argv": ["/usr/bin/player", "--full"]}},
        "document": {"colour": "#20242c", "player": {"brightness": 60}},
    }
    assert data["nodes"]["n2"]["document"] == {"player": {"brightness": 80}}
    assert data["groups"] == {"top": {"nodes": ["n1", "n2"]}, "corners": {"nodes": ["n1"]}}
