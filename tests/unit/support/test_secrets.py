"""Which values are secrets: by the names of their keys, in options of command lines, and in URLs."""

# ruff: noqa: E501 -- tables of cases, one a line

from __future__ import annotations

from typing import Any

import pytest

from nodestore.support.secrets import MASK, SecretFields, is_secret, masked, without_secrets


@pytest.mark.parametrize(
    "key",
    ["password", "PASSWORD", "db_password", "dbPassword", "passwd", "passphrase", "pwd", "secret", "client_secret", "token",
     "auth-token", "accessToken", "tokens", "api_key", "API_KEY", "apiKey", "api-key", "private_key", "credentials",
     "Authorization", "cookie", f"{'x' * 100}_password"],
)  # fmt: skip
def test_names_of_secrets(key: str) -> None:
    assert is_secret(key)
    assert masked({key: "x"}) == {key: MASK}


@pytest.mark.parametrize(
    "key",
    ["colour", "text", "key", "keyboard", "passenger", "compass", "tokenizer", "password_file", "token-path", "secretId",
     "key_bindings", "author", "bypass", "cookies_max", f"{'x' * 100}_password_file"],
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


MARKED = SecretFields(("pin", "player.stream"))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({"pin": 4321, "spin": 1, "pins": 2}, {"pin": MASK, "spin": 1, "pins": 2}),
        ({"player": {"stream": "x", "volume": 3}, "stream": "y"}, {"player": {"stream": MASK, "volume": 3}, "stream": "y"}),
        ({"left.player": {"stream": "x"}, "xplayer": {"stream": "y"}}, {"left.player": {"stream": MASK}, "xplayer": {"stream": "y"}}),
        ({"doors": [{"pin": 1}, {"pin": 0}]}, {"doors": [{"pin": MASK}, {"pin": MASK}]}),
        ({"argv": ["show", "--pin", "4321", "--pin=4321"]}, {"argv": ["show", "--pin", MASK, f"--pin={MASK}"]}),
        ({"pin": {"a": 1}, "password": "p"}, {"pin": MASK, "password": MASK}),
        ({"pin": True}, {"pin": MASK}), ({"pin": ""}, {"pin": ""}), ({"pin": None}, {"pin": None}),
    ],
)  # fmt: skip
def test_marked_fields(value: Any, shown: Any) -> None:
    """A mark is a name, or the end of a path of names."""
    assert MARKED.masked(value) == shown


def test_secrets_in_texts() -> None:
    """An error message may quote a secret of any kind. Very short ones are not searched."""
    document = {"pin": {"a": 98765, "b": ["long one", "long"]}, "url": "http://a:hunter2@x/", "password": "abc"}
    texts = MARKED.texts(document, ["--token", "T0KEN", "--pin=opt1"])
    assert texts == ("long one", "hunter2", "98765", "T0KEN", "long", "opt1")
    value = {"error": "cannot log in as a:hunter2 with long one", "code": 98765, "n": [1, None, True]}
    assert without_secrets(value, texts) == {
        "error": "cannot log in as a:*** with ***",
        "code": MASK,
        "n": [1, None, True],
    }
    assert MARKED.texts(MARKED.masked(document)) == ()


def test_further_marks() -> None:
    assert MARKED.with_marks(("pin", "code")).marks == ("pin", "player.stream", "code")
