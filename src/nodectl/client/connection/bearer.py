"""The bearer token of a client, and the requests with which it is sent."""

from __future__ import annotations

import time
from pathlib import Path
from urllib.parse import urlsplit

from nodestore.errors import Invalid
from nodestore.support.password_file import read_password
from nodestore.support.values import is_loopback

_CHECK_S = 1.0


class BearerToken:
    """A token, given as text or as a file that is read again when it changes.

    It is sent over TLS, and over loopback, where no other PC can read it; never over plain HTTP to another PC.
    """

    def __init__(self, token: str | None = None, file: Path | None = None) -> None:
        """Raises Invalid if the file cannot be read, or if the token cannot be a header."""
        if token is not None and file is not None:
            raise Invalid("give either token or token_file")
        self._file, self._next_check_at, self._changed_at = file, 0.0, 0
        self._token = _checked(token) if token is not None else None
        if file is not None:
            self._token, self._changed_at = _checked(read_password(file)), file.stat().st_mtime_ns
            self._next_check_at = time.monotonic() + _CHECK_S

    def headers(self, url: str) -> dict[str, str]:
        """The headers for a request to `url`."""
        if self._token is None or not _is_private(url):
            return {}
        self._read_again()
        return {"Authorization": f"Bearer {self._token}"}

    def _read_again(self) -> None:
        """Use a renewed file. One that cannot be read, as while it is written, changes nothing."""
        if self._file is None or (now := time.monotonic()) < self._next_check_at:
            return
        self._next_check_at = now + _CHECK_S
        try:
            changed_at = self._file.stat().st_mtime_ns
            if changed_at != self._changed_at:
                self._token, self._changed_at = _checked(read_password(self._file)), changed_at
        except (OSError, Invalid):
            return


def _checked(token: str) -> str:
    text = token.strip()
    if not text.isascii() or not text.isprintable() or " " in text:
        raise Invalid("a token consists of letters, digits, '.', '-' and '_'")
    return text


def _is_private(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
