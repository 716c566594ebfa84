"""Which values are secrets: by the names of their keys, in options of command lines, and in URLs."""

# ruff: noqa: E501 -- tables of cases, one a line

from __future__ import annotations

from typing import Any

import pytest

from nodestore.support.secrets import MASK, is_secret, masked


@pytest.mark.parametrize(
    "key",
    ["password", "PASSWORD", "db_password", "dbPassword", "passwd", "passphrase", "pwd", "secret", "client_secret", "token",
     "auth-token", "accessToken", "tokens", "api_key", "API_KEY", "apiKey", "api-key", "private_key", "credentials",
     "Authorization", "cookie"],
)  # fmt: skip
def test_names_of_secrets(key: str) -> None:
    assert is_secret(key)
    assert masked({key: "x"}) == {key: MASK}


@pytest.mark.parametrize(
    "key",
    ["colour", "text", "key", "keyboard", "passenger", "compass", "tokenizer", "password_file", "token-path", "secretId",
     "key_bindings", "author", "bypass", "cookies_max"],
)  # fmt: skip
def test_other_names(key: str) -> None:
    """A file that holds a password is not the password."""
    assert not is_secret(key)
    assert masked({key: "x"}) == {key: "x"}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({"env": {"TOKEN": "a", "HOME": "/"}}, {"env": {"TOKEN": MASK, "HOME": "/"}}),
        ({"secrets": {"a": 1}, "password": "", "token": None, "cookie": True}, {"secrets": MASK, "password": "", "token": None, "cookie": True}),
        (["show", "--token", "abc", "--port", "5"], ["show", "--token", MASK, "--port", "5"]),
        (["show", "--password=abc", "TOKEN=abc", "x=y"], ["show", f"--password={MASK}", f"TOKEN={MASK}", "x=y"]),
        (["--password-file", "/etc/p"], ["--password-file", "/etc/p"]),
        ({"url": "postgres://ann:hunter2@db/x"}, {"url": f"postgres://ann:{MASK}@db/x"}),
        ({"url": "http://[::1]:80/a@b"}, {"url": "http://[::1]:80/a@b"}),
        ({"list": [{"pin": 1, "password": 5}]}, {"list": [{"pin": 1, "password": MASK}]}),
        ("plain", "plain"), (5, 5), (None, None),
    ],
)  # fmt: skip
def test_where_secrets_are(value: Any, shown: Any) -> None:
    """The value itself is unchanged."""
    before = repr(value)
    assert masked(value) == shown
    assert repr(value) == before
