"""Reads a table or the answer of a query from an SQL database, by the URL of SQLAlchemy (the extra `import`)."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from nodectl.inventory.tables.mapping import Mapping
from nodectl.inventory.tables.table import BYTES_MAX, ROWS_MAX, SourceTable
from nodectl.inventory.yaml_source import FileError
from nodestore.errors import Invalid

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, Engine, Executable

_URL_BYTES_MAX = 4_096
_CONNECT_S = 10
_BATCH = 500
_WITH_CONNECT_TIMEOUT = ("psycopg", "psycopg2", "pymysql", "mysqldb")


def read_url(path: Path) -> str:
    """The URL in a file, which may have a password. Raises FileError."""
    try:
        with path.open("rb") as file:
            raw = file.read(_URL_BYTES_MAX + 1)
        url = raw.decode("utf-8-sig").strip()
    except OSError as error:
        raise FileError([f"{path}: {error.strerror or error}"]) from None
    except UnicodeDecodeError:
        raise FileError([f"{path}: not UTF-8: save the file with that encoding"]) from None
    if len(raw) > _URL_BYTES_MAX or "://" not in url or len(url.splitlines()) != 1:
        raise FileError([f"{path}: expected one line with the URL of a database, such as sqlite:///players.db"])
    return url


def read_sql(text: str, mapping: Mapping, *, is_argument: bool) -> SourceTable:
    """Read what `mapping` names from the database at this URL. Rows are counted from 1.

    is_argument: the URL is an argument of the program, so that other users of the PC can see it. Then a password in it
    is refused. Raises FileError if the table cannot be read; no message contains the password.
    """
    url = _url(text)
    if is_argument and _secrets(url):
        raise Invalid(
            "the URL has a password, and other users of this PC can see arguments: write the URL into a file that "
            "only you can read, and give it with --url-file"
        )
    if not (mapping.table or mapping.query):
        raise FileError(
            [f"{mapping.source.name}: `table` or `query` is missing: what is to be read from the database?"]
        )
    name = f"{url.get_backend_name()} {mapping.table or 'query'}"
    with _explained(name, url), _connected(url) as connection:
        answer = connection.execute(_statement(mapping))
        columns = tuple(str(key).strip() for key in answer.keys())  # noqa: SIM118 - no dict
        return SourceTable(name, columns, tuple(_bounded(name, answer.partitions(_BATCH))))


def _bounded(name: str, parts: Iterator[Sequence[Any]]) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Number and cells of each row. Raises FileError beyond the limits of a table, before it reads on."""
    number = size = 0
    for part in parts:
        for row in part:
            number += 1
            size += sum(len(cell) for cell in row if isinstance(cell, str | bytes))
            if number > ROWS_MAX or size > BYTES_MAX:
                limit = f"{ROWS_MAX:,} rows" if number > ROWS_MAX else f"{BYTES_MAX >> 20} MiB"
                raise FileError([f"{name}: row {number}: more than {limit}: give a `query` that selects less"])
            yield number, tuple(row)


def _url(text: str) -> URL:
    try:
        from sqlalchemy import make_url
        from sqlalchemy.exc import ArgumentError
    except ModuleNotFoundError:
        raise Invalid("a database needs the package SQLAlchemy: pip install 'nodectl[import]'") from None
    try:
        return make_url(text)
    except (ArgumentError, ValueError):
        raise Invalid("this is not the URL of a database, such as sqlite:///players.db") from None


def _secrets(url: URL) -> list[str]:
    """The parts of a URL that are or may hold a password."""
    values = {key.lower(): value if isinstance(value, str) else " ".join(value) for key, value in url.query.items()}
    found = [value for key, value in values.items() if "pass" in key or "pwd" in f"{key}{value}".lower()]
    return [secret for secret in (str(url.password or ""), *found) if secret]


@contextmanager
def _explained(name: str, url: URL) -> Iterator[None]:
    """Raise FileError with one line, without passwords, for each error of SQLAlchemy and of the database's driver."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except ModuleNotFoundError as error:
        raise FileError([f"{name}: the package {error.name} is missing: install it with pip"]) from None
    except (SQLAlchemyError, sqlite3.Error, ImportError, OSError, TypeError, ValueError) as error:
        reason = " ".join(str(getattr(error, "orig", None) or error).split())
        for secret in _secrets(url):
            reason = reason.replace(secret, "***")
        raise FileError([f"{name}: {reason[:500]}"]) from None


@contextmanager
def _connected(url: URL) -> Iterator[Connection]:
    """A connection whose transaction is rolled back at the end: an import changes nothing in the database."""
    engine = _engine(url)
    try:
        with engine.connect() as connection:
            # Without it, drivers such as psycopg fetch the whole answer before its first row is counted.
            yield connection.execution_options(stream_results=True, max_row_buffer=_BATCH)
    finally:
        engine.dispose()


def _engine(url: URL) -> Engine:
    from sqlalchemy import create_engine

    if url.get_backend_name() == "sqlite":
        path = Path(url.database or "")
        if not path.is_file():
            raise FileError([f"sqlite: there is no file {str(path)!r}"])
        # Without mode=ro, SQLite would create a file that does not exist, and a query could change the database.
        address = f"file:{quote(path.resolve().as_posix())}?mode=ro"
        return create_engine("sqlite://", creator=lambda: sqlite3.connect(address, uri=True, timeout=_CONNECT_S))
    if url.get_driver_name() in _WITH_CONNECT_TIMEOUT:
        return create_engine(url, connect_args={"connect_timeout": _CONNECT_S})
    return create_engine(url)


def _statement(mapping: Mapping) -> Executable:
    from sqlalchemy import literal_column, select, table, text

    if mapping.query:
        return text(mapping.query.replace(":", r"\:"))  # a colon names no parameter here
    schema, _, name = (mapping.table or "").rpartition(".")
    return select(literal_column("*")).select_from(table(name, schema=schema or None)).limit(ROWS_MAX + 1)
