"""A client sends its token where no stranger can read it, and reads a renewed file."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodectl.client.connection.bearer import BearerToken
from nodestore.errors import Invalid


@pytest.mark.parametrize(
    "url", ["https://10.0.0.1:8401/v1/x", "http://127.0.0.1:1/", "http://localhost", "http://[::1]:1"]
)
def test_it_is_sent_privately(url: str) -> None:
    assert BearerToken("NCT1.a.b").headers(url) == {"Authorization": "Bearer NCT1.a.b"}


@pytest.mark.parametrize(
    "url", ["http://10.0.0.1:8401/", "http://pc1/", "http://127.0.0.1.evil.example/", "ws://127.1"]
)
def test_it_is_never_sent_in_the_clear(url: str) -> None:
    assert BearerToken("NCT1.a.b").headers(url) == {}


def test_without_a_token_nothing_is_sent() -> None:
    assert BearerToken().headers("https://pc1") == {}


def test_a_file_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("nodectl.client.connection.bearer.time.monotonic", lambda: now[0])
    file = tmp_path / "token"
    file.write_text("first\n", "utf-8")
    token = BearerToken(file=file)
    file.write_text("second\n", "utf-8")
    assert token.headers("https://pc1") == {"Authorization": "Bearer first"}
    now[0] += 1.5
    assert token.headers("https://pc1") == {"Authorization": "Bearer second"}
    file.unlink()
    now[0] += 1.5
    assert token.headers("https://pc1") == {"Authorization": "Bearer second"}


@pytest.mark.parametrize("text", ["a b", "a\nb", "\u00e4", "a\x00"])
def test_what_cannot_be_a_token(text: str) -> None:
    with pytest.raises(Invalid, match="a token consists of"):
        BearerToken(text)


def test_text_and_file_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="either token or token_file"):
        BearerToken("a", tmp_path)
    with pytest.raises(Invalid, match="cannot read"):
        BearerToken(file=tmp_path / "missing")
