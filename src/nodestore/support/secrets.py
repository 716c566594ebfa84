"""Replaces secrets in settings and documents before they are shown. Pure.

It keeps secrets off screens and out of logs. It does not hide them from a reader of the configuration.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar, cast

from nodestore.support.jsonio import Json

T = TypeVar("T")

MASK = "***"
_SECRET = re.compile(
    r"pass(?:word|wd|phrase)|secret|credential|authorization|(?:api|access|private|signing|encryption)[_.-]?key|"
    r"(?:^|[_.-])(?:pass|pwd|tokens?|cookie)(?:$|[_.-])",
    re.IGNORECASE,
)
_NOT_SECRET = re.compile(r"[_.-](?:file|path|dir|name|id|url|ttl|s|ms|max|min|bytes|count)$", re.IGNORECASE)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_PASSWORD_IN_URL = re.compile(r"(?<=://)([^/\s:@]*):([^/\s@]+)@")
_OPTION = re.compile(r"(?P<name>--?[A-Za-z][\w.-]*|[A-Za-z_]\w*)=(?P<value>.+)", re.DOTALL)
_HIDDEN_IN_TEXT_CHARS_MIN = 4
"""Shorter secrets are not searched in texts: they would be found in words that have nothing to do with them."""
_CACHED_NAMES_MAX, _CACHED_CHARS_MAX = 2_048, 64

Found = Callable[[Json], None]
"""Is called with each secret."""


def _ignore(_: Json) -> None:
    pass


@dataclass(frozen=True, slots=True)
class SecretFields:
    """Decides which fields are secret: those that are named like a secret, and those that are marked.

    marks: names of fields, such as `pin`, or the ends of their paths, such as `player.pin`: the field `pin` directly in
    a field `player`. Elements of lists do not count as a part of a path.
    """

    marks: tuple[str, ...] = ()

    def with_marks(self, marks: Iterable[str]) -> SecretFields:
        """These, and further marks."""
        return SecretFields(tuple(dict.fromkeys((*self.marks, *marks))))

    def masked(self, value: Json, found: Found = _ignore) -> Json:
        """A copy in which secrets are `***`. found: is called with each of them.

        A secret is a value whose key is marked or named like one, such as `password` or `apiKey`, an element that
        follows such an option in a list (`--token X`), or a password in a URL. The value of `password_file` is kept,
        since it names a file. So is an empty value.
        """
        return self._masked(value, "", found)

    def texts(self, *values: Json) -> tuple[str, ...]:
        """The secrets in `values` as they would be found in a text, the longest first."""
        texts: set[str] = set()
        for value in values:
            self.masked(value, lambda secret: texts.update(_leaves(secret)))
        long_enough = (text for text in texts if len(text) >= _HIDDEN_IN_TEXT_CHARS_MIN and text != MASK)
        return tuple(sorted(long_enough, key=lambda text: (-len(text), text)))

    def _masked(self, value: Json, path: str, found: Found) -> Json:
        if isinstance(value, dict):
            return {key: self._masked_field(key, item, f"{path}.{key}", found) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return self._masked_list(list(value), path, found)
        if isinstance(value, str) and "://" in value:
            return _masked_url(value, found)
        return value

    def _masked_field(self, key: str, value: Json, path: str, found: Found) -> Json:
        is_marked = self._is_marked(path)
        named = is_marked or (not isinstance(value, bool) and is_secret(key))
        if named and value not in (None, "", {}, []):
            found(value)
            return MASK
        return self._masked(value, path, found)

    def _is_marked(self, path: str) -> bool:
        """path: the keys, each with a dot before it."""
        return any(path.endswith(mark) and path[-len(mark) - 1] == "." for mark in self.marks)

    def _is_secret_option(self, option: str, path: str) -> bool:
        name = option.lstrip("-")
        return is_secret(name) or self._is_marked(f"{path}.{name}")

    def _masked_list(self, items: list[Json], path: str, found: Found) -> list[Json]:
        """A list, such as a command line, without the values of options that are secret."""
        shown, hide_next = [], False
        for item in items:
            option = _OPTION.fullmatch(item) if isinstance(item, str) else None
            if hide_next and isinstance(item, str):
                found(item)
                shown.append(MASK)
            elif option is not None and self._is_secret_option(option["name"], path):
                found(option["value"])
                shown.append(f"{option['name']}={MASK}")
            else:
                shown.append(self._masked(item, path, found))
            is_option = isinstance(item, str) and item.startswith("-") and "=" not in item
            hide_next = is_option and self._is_secret_option(item, path)
        return shown


_BY_NAME = SecretFields()


def masked(value: Json) -> Json:
    """A copy in which the values that are named like a secret are `***`: see `SecretFields.masked`."""
    return _BY_NAME.masked(value)


def without_secrets(value: T, secrets: tuple[str, ...]) -> T:
    """A copy whose texts contain none of `secrets`, which `SecretFields.texts` returned."""
    return cast(T, _without(value, secrets)) if secrets else value


def _without(value: Json, secrets: tuple[str, ...]) -> Json:
    if isinstance(value, dict):
        return {key: _without(item, secrets) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without(item, secrets) for item in value]
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, MASK)
        return value
    return MASK if value is not None and not isinstance(value, bool) and str(value) in secrets else value


def _masked_url(text: str, found: Found) -> str:
    def replace(match: re.Match[str]) -> str:
        found(match[2])
        return f"{match[1]}:{MASK}@"

    return _PASSWORD_IN_URL.sub(replace, text)


def _leaves(value: Json) -> list[str]:
    """The texts and numbers in a secret, as texts."""
    if isinstance(value, dict):
        return [text for item in value.values() for text in _leaves(item)]
    if isinstance(value, list | tuple):
        return [text for item in value for text in _leaves(item)]
    return [] if value is None or isinstance(value, bool) else [str(value)]


def is_secret(key: str) -> bool:
    """Whether a key of this name usually holds a secret."""
    return _is_secret_cached(key) if len(key) <= _CACHED_CHARS_MAX else _is_secret_name(key)


@lru_cache(_CACHED_NAMES_MAX)
def _is_secret_cached(key: str) -> bool:
    """For short names only: clients choose names, and the cache must stay small. An answer about 1,000 nodes asks the
    same few names thousands of times."""
    return _is_secret_name(key)


def _is_secret_name(key: str) -> bool:
    words = _CAMEL.sub("_", key)
    return _SECRET.search(words) is not None and _NOT_SECRET.search(words) is None
