"""Password files as editors and shells write them, and what is refused."""

from __future__ import annotations

import codecs
import io
import sys
from pathlib import Path

import pytest

from nodectl.cli.settings import ClusterSettings
from nodestore.daemon.options import Parser, add_common, etcd_settings
from nodestore.errors import Invalid
from nodestore.support import password_file
from nodestore.support.password_file import PASSWORD_FILE_BYTES_MAX, parse_password, read_password

SECRET = "sé cret ✓"


@pytest.mark.parametrize(
    "raw",
    [
        SECRET.encode(),
        f"{SECRET}\n".encode(),
        f"{SECRET}\r\n".encode(),
        f"{SECRET}\r".encode(),
        f"{SECRET}\nsecond\n".encode(),
        codecs.BOM_UTF8 + f"{SECRET}\r\n".encode(),
        codecs.BOM_UTF16_LE + f"{SECRET}\r\n".encode("utf-16-le"),
        codecs.BOM_UTF16_BE + SECRET.encode("utf-16-be"),
        f"{SECRET}\n".encode() + "für etcd\n".encode("latin-1"),
        f"{SECRET}\n".encode() + b"\0" * 10_000,
    ],
)
def test_the_first_line_is_the_password(raw: bytes) -> None:
    """The file may be UTF-8, with or without a byte order mark, or as Notepad and PowerShell write it.

    Only the first line is used.
    """
    assert parse_password(raw) == SECRET


@pytest.mark.parametrize(
    ("raw", "password"),
    [
        (b" a \n", " a "),
        (b"a\tb", "a\tb"),
        ("a\u2028b\x85c\n".encode(), "a\u2028b\x85c"),
        (b"a" * PASSWORD_FILE_BYTES_MAX, "a" * PASSWORD_FILE_BYTES_MAX),
        (b"a" * (PASSWORD_FILE_BYTES_MAX - 1) + b"\nx", "a" * (PASSWORD_FILE_BYTES_MAX - 1)),
        (b"a\n" + "ä".encode() * PASSWORD_FILE_BYTES_MAX, "a"),
    ],
)
def test_only_a_line_end_ends_it(raw: bytes, password: str) -> None:
    """Blanks are part of the password."""
    assert parse_password(raw) == password


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "the first line is empty"),
        (b"\n", "the first line is empty"),
        (b"\r\nsecret\n", "the first line is empty"),
        (codecs.BOM_UTF8, "the first line is empty"),
        (codecs.BOM_UTF16_LE, "the first line is empty"),
        ("für".encode("latin-1"), "the first line is not text in UTF-8"),
        ("secret".encode("utf-16-le"), "the first line is not text in UTF-8, or in UTF-16 with a byte order mark"),
        (codecs.BOM_UTF16_LE + b"a\0b", "the first line is not text"),
        (codecs.BOM_UTF32_LE + "secret".encode("utf-32-le"), "the first line is not text"),
        (b"\x7fELF\x02\x01", "the first line is not text"),
        (b"a" * (PASSWORD_FILE_BYTES_MAX + 1), "the first line is longer than 4096 bytes"),
    ],
)
def test_what_is_no_password(raw: bytes, says: str, tmp_path: Path) -> None:
    """The error is one line that names the file."""
    file = tmp_path / "password"
    file.write_bytes(raw)
    with pytest.raises(Invalid) as caught:
        read_password(file)
    assert str(caught.value).startswith(f"password file {file}: {says}")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """It is named, with the system's reason."""
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(Invalid) as caught:
            read_password(path)
        assert str(caught.value).startswith(f"cannot read password file {path}: ")


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs a file without an end")
def test_no_more_than_needed_is_read() -> None:
    """A file without an end is refused instead of being read for ever."""
    with pytest.raises(Invalid, match="/dev/zero: the first line is longer"):
        read_password(Path("/dev/zero"))


def test_all_programs_read_it_alike(tmp_path: Path) -> None:
    """masterd and noded by their options, nodectl by its settings."""
    file = tmp_path / "password"
    file.write_bytes(codecs.BOM_UTF16_LE + f"{SECRET}\r\n".encode("utf-16-le"))
    parser = Parser("x", "", {})
    add_common(parser)
    given = parser.parse_args(["--cluster=c", "--user=u", f"--password-file={file}"])
    assert etcd_settings(given).password == SECRET
    assert ClusterSettings(password_file=file).password() == SECRET
    file.write_text("")
    for read in (lambda: etcd_settings(given), ClusterSettings(password_file=file).password):
        with pytest.raises(Invalid, match=r"password file .*: the first line is empty"):
            read()


def test_a_password_on_stdin_is_read_once_and_leaves_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """All programs take `-`. A session that reads the password again gets the same one."""
    password_file._password_on_stdin.cache_clear()
    stdin = io.TextIOWrapper(io.BytesIO(f"{SECRET}\nnodes: {{}}\n".encode()))
    monkeypatch.setattr(sys, "stdin", stdin)
    parser = Parser("x", "", {})
    add_common(parser)
    given = parser.parse_args(["--cluster=c", "--user=u", "--password-file=-"])
    assert etcd_settings(given).password == SECRET
    assert ClusterSettings(password_file=Path("-")).password() == SECRET
    assert stdin.buffer.read() == b"nodes: {}\n"
    password_file._password_on_stdin.cache_clear()


@pytest.mark.parametrize("stdin", [None, io.TextIOWrapper(io.BytesIO(b""))])
def test_stdin_without_a_password_is_refused_in_one_line(
    stdin: io.TextIOWrapper | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    password_file._password_on_stdin.cache_clear()
    monkeypatch.setattr(sys, "stdin", stdin)
    with pytest.raises(Invalid, match=r"^the password on stdin: the first line is empty$"):
        read_password(Path("-"))
