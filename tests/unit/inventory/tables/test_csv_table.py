"""CSV files as spreadsheets write them."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from nodectl.inventory.tables import csv_table
from nodectl.inventory.tables.csv_table import read_csv
from nodectl.inventory.yaml_source import FileError

_TEXT = 'Name;"Größe; Ort"\r\nn1;"a;b\r\nc"\r\n\r\n;\r\nn2;\u00e9\r\n'
_ROWS = ((2, ("n1", "a;b\r\nc")), (5, ("n2", "é")))


@pytest.mark.parametrize(
    ("raw", "encoding"),
    [
        (_TEXT.encode(), None),
        (_TEXT.encode("utf-8-sig"), None),
        (codecs.BOM_UTF16_LE + _TEXT.encode("utf-16-le"), None),
        (codecs.BOM_UTF16_BE + _TEXT.encode("utf-16-be"), None),
        (_TEXT.encode("cp1252"), "cp1252"),
        (_TEXT.encode("utf-8-sig"), "cp1252"),  # the mark decides
        (_TEXT.replace(";", "\t").replace("Größe\t", "Größe;").replace("a\tb", "a;b").encode(), None),
        (_TEXT.replace(";", ",").replace("Größe,", "Größe;").replace("a,b", "a;b").encode(), None),
    ],
)
def test_every_form_gives_the_same_table(tmp_path: Path, raw: bytes, encoding: str | None) -> None:
    """Row numbers are those of the spreadsheet: a cell with a line break is one row, an empty row counts."""
    file = tmp_path / "t.csv"
    file.write_bytes(raw)
    table = read_csv(file, encoding)
    assert table.columns == ("Name", "Größe; Ort")
    assert table.rows == _ROWS


def test_the_line_that_names_the_separator_is_obeyed_and_counts(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("sep=;\nname;a,b,c,d\nn1;x\n")
    assert read_csv(file).columns == ("name", "a,b,c,d")
    assert read_csv(file).rows == ((3, ("n1", "x")),)


@pytest.mark.parametrize(
    ("raw", "encoding", "message"),
    [
        (b"", None, "is empty: its first row"),
        (b"name\nn\xfc1\n", None, 'line 2: not utf-8: save it as "CSV UTF-8", or name its encoding'),
        (b"name\nn1\n", "klingon", "--encoding: 'klingon' is not known"),
        (b"name\nn1\n", "base64", "--encoding: 'base64' is not known"),
        ("name\nn1".encode("utf-16-le"), None, "UTF-16 without a mark"),
        (codecs.BOM_UTF16_LE + b"n", None, "not utf-16"),
        (b'name\n"n1', None, "row 2: not CSV"),
        (b"name,a\nn1,b,c\nn2,d,e,f\n", None, "row 3: has 4 cells, but row 1 names 2 columns"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, raw: bytes, encoding: str | None, message: str) -> None:
    file = tmp_path / "t.csv"
    file.write_bytes(raw)
    with pytest.raises(FileError) as caught:
        read_csv(file, encoding)
    assert message in str(caught.value)


def test_rows_and_bytes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "t.csv"
    file.write_text("name\n" + "n\n" * 10_000)
    assert len(read_csv(file).rows) == 10_000
    file.write_text("name\n" + "n\n" * 10_001)
    with pytest.raises(FileError, match="row 10002: more than 10000 rows"):
        read_csv(file)
    monkeypatch.setattr(csv_table, "BYTES_MAX", 1 << 10)
    with pytest.raises(FileError, match="larger than"):
        read_csv(file)
    with pytest.raises(FileError, match="No such file"):
        read_csv(tmp_path / "none.csv")
