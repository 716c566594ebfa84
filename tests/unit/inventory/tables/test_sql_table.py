"""Tables and queries of a database, read by URL. SQLite stands for all databases."""

from __future__ import annotations

import sqlite3
from decimal import Decimal
from pathlib import Path

import pytest

from nodectl.inventory.tables import sql_table
from nodectl.inventory.tables.build import inventory_of
from nodectl.inventory.tables.cells import plain
from nodectl.inventory.tables.mapping import Mapping, load_mapping
from nodectl.inventory.tables.sql_table import read_sql, read_url
from nodectl.inventory.yaml_source import FileError
from nodestore.errors import Invalid


@pytest.fixture
def database(tmp_path: Path) -> Path:
    file = tmp_path / "my players.db"
    connection = sqlite3.connect(file)
    connection.execute("create table players (name text, row integer, col integer, volume real, extra blob)")
    rows = [("n1", 0, 1, 0.5, None), ("n2", 0, 2, None, None), ("n3", 1, 0, 7.0, b"x")]
    connection.executemany("insert into players values (?, ?, ?, ?, ?)", rows)
    connection.commit()
    connection.close()
    return file


def _mapping(tmp_path: Path, text: str) -> Mapping:
    file = tmp_path / "m.yaml"
    file.write_text(text)
    return load_mapping(file)


_FIELDS = "name: name\nposition: {row: row, column: col}\nlabels: {col: col}\ndocument: {volume: volume}\n"


def test_a_table_gives_nodes_whose_values_have_the_types_of_the_database(tmp_path: Path, database: Path) -> None:
    mapping = _mapping(tmp_path, _FIELDS + "table: players")
    table = read_sql(f"sqlite:///{database}", mapping, is_argument=True)
    assert table.name == "sqlite players"
    assert inventory_of(mapping, table, None).data["nodes"] == {
        "n1": {"position": [0, 1], "labels": {"col": "1"}, "document": {"volume": 0.5}},
        "n2": {"position": [0, 2], "labels": {"col": "2"}},
        "n3": {"position": [1, 0], "labels": {"col": "0"}, "document": {"volume": 7.0}},
    }


def test_a_query_is_read_as_it_is_written(tmp_path: Path, database: Path) -> None:
    query = (
        "query: \"select 'x:y' as name, name as n from players where name <> ':a' and name like 'n%' order by 2 desc\""
    )
    table = read_sql(f"sqlite:///{database}", _mapping(tmp_path, f"name: n\n{query}"), is_argument=True)
    assert table.columns == ("name", "n")
    assert table.rows[0] == (1, ("x:y", "n3"))


def test_a_mistake_names_the_row_of_the_answer(tmp_path: Path, database: Path) -> None:
    mapping = _mapping(tmp_path, "name: name\ndocument: {extra: extra}\ntable: players")
    table = read_sql(f"sqlite:///{database}", mapping, is_argument=True)
    with pytest.raises(FileError, match="sqlite players: row 3: column 'extra': a value of the type bytes cannot"):
        inventory_of(mapping, table, None)


@pytest.mark.parametrize(
    "query", ["delete from players", "insert into players (name) values ('n4')", "drop table players"]
)
def test_a_query_cannot_change_the_database(tmp_path: Path, database: Path, query: str) -> None:
    before = database.read_bytes()
    with pytest.raises(FileError, match="readonly"):
        read_sql(f"sqlite:///{database}", _mapping(tmp_path, f"name: n\nquery: {query}"), is_argument=True)
    assert database.read_bytes() == before


def test_what_cannot_be_read_is_one_clear_line(tmp_path: Path, database: Path) -> None:
    url, named = f"sqlite:///{database}", _mapping(tmp_path, "name: n\ntable: none_such")
    with pytest.raises(FileError, match="sqlite none_such: no such table: none_such"):
        read_sql(url, named, is_argument=True)
    with pytest.raises(FileError, match="there is no file"):
        read_sql(f"sqlite:///{tmp_path}/none.db", named, is_argument=True)
    assert not (tmp_path / "none.db").exists()
    with pytest.raises(FileError, match="there is no file"):
        read_sql("sqlite://", named, is_argument=True)
    with pytest.raises(FileError, match="nosuchbase"):
        read_sql("nosuchbase://h/d", named, is_argument=True)
    with pytest.raises(Invalid, match="not the URL of a database"):
        read_sql("://", named, is_argument=True)
    with pytest.raises(FileError, match="`table` or `query` is missing"):
        read_sql(url, _mapping(tmp_path, "name: n"), is_argument=True)
    (tmp_path / "text.db").write_text("no database" * 100)
    with pytest.raises(FileError, match="file is not a database"):
        read_sql(f"sqlite:///{tmp_path}/text.db", named, is_argument=True)


def test_rows_and_bytes_are_bounded(tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer without an end is not read to its end."""
    numbers = "with recursive c(n) as (select 1 union all select n + 1 from c) select n, 'xxxxxxxx' as t from c"
    mapping = _mapping(tmp_path, f"name: n\nquery: {numbers}")
    with pytest.raises(FileError, match="row 10001: more than 10,000 rows"):
        read_sql(f"sqlite:///{database}", mapping, is_argument=True)
    monkeypatch.setattr(sql_table, "BYTES_MAX", 1 << 10)
    with pytest.raises(FileError, match="row 129: more than"):
        read_sql(f"sqlite:///{database}", mapping, is_argument=True)


@pytest.mark.parametrize(
    "url", ["nosuch://u:geheim@127.0.0.1/d", "nosuch://h/d?PassWord=geheim", "nosuch:///?odbc_connect=PWD%3Dgeheim"]
)
def test_a_password_is_refused_as_an_argument_and_shown_in_no_message(tmp_path: Path, url: str) -> None:
    mapping = _mapping(tmp_path, "name: n\ntable: t")
    with pytest.raises(Invalid, match="--url-file") as refused:
        read_sql(url, mapping, is_argument=True)
    with pytest.raises(FileError) as failed:  # there is no such database
        read_sql(url, mapping, is_argument=False)
    assert "geheim" not in f"{refused.value} {failed.value}"


def test_a_file_with_a_url_has_one_line(tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_bytes(b"\xef\xbb\xbfsqlite:///a.db\r\n")
    assert read_url(file) == "sqlite:///a.db"
    for raw in (b"", b"a.db", b"sqlite:///a\nsqlite:///b", b"\xff://", b"x://" + b"y" * 5_000):
        file.write_bytes(raw)
        with pytest.raises(FileError):
            read_url(file)
    with pytest.raises(FileError, match="No such file"):
        read_url(tmp_path / "none")


def test_exact_numbers_become_numbers_of_json() -> None:
    assert plain([Decimal("5.00"), {"a": (Decimal("0.5"), None)}]) == [5, {"a": [0.5, None]}]
    with pytest.raises(ValueError, match="finite"):
        plain(Decimal("NaN"))
