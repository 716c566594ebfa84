"""Reads password files: the first line is the password, in UTF-8, or in UTF-16 as Windows writes it. `-` is stdin."""

from __future__ import annotations

import codecs
import re
import sys
from functools import cache
from pathlib import Path

from nodestore.errors import Invalid

STDIN = "-"
PASSWORD_FILE_BYTES_MAX = 4_096
_LINE_END = re.compile(r"[\r\n]")
_NOT_TEXT = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ufffd]")


def read_password(path: Path) -> str:
    """The password in the file at `path`, or on stdin if it is `-`. Raises Invalid, with its name, if there is none.

    From stdin one line is read once. So a password that is read again later is the same, and what follows the line is
    left for another argument that is `-`.
    """
    if str(path) == STDIN:
        return _password_on_stdin()
    try:
        with path.open("rb") as file:
            raw = file.read(PASSWORD_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise Invalid(f"cannot read password file {path}: {error.strerror or error}") from None
    try:
        return parse_password(raw)
    except Invalid as error:
        raise Invalid(f"password file {path}: {error}") from None


@cache
def _password_on_stdin() -> str:
    try:
        raw = b"" if sys.stdin is None else sys.stdin.buffer.readline(PASSWORD_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise Invalid(f"cannot read the password from stdin: {error.strerror or error}") from None
    try:
        return parse_password(raw)
    except Invalid as error:
        raise Invalid(f"the password on stdin: {error}") from None


def parse_password(raw: bytes) -> str:
    """The first line of a file's content, without its line break. Raises Invalid if it is empty, too long or not text.

    Only the first 4,096 bytes are examined.
    """
    # An undecodable byte of a later line, or a character that the limit cuts in two, must not make the file invalid.
    line, *others = _LINE_END.split(raw[:PASSWORD_FILE_BYTES_MAX].decode(_encoding(raw), "replace"), maxsplit=1)
    if not others and len(raw) > PASSWORD_FILE_BYTES_MAX:
        raise Invalid(f"the first line is longer than {PASSWORD_FILE_BYTES_MAX} bytes")
    if not line:
        raise Invalid("the first line is empty")
    if _NOT_TEXT.search(line):
        raise Invalid("the first line is not text in UTF-8, or in UTF-16 with a byte order mark")
    return line


def _encoding(raw: bytes) -> str:
    """The codec for these bytes, which also removes a byte order mark."""
    return "utf-16" if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
