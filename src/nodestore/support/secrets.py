"""Replaces secrets in settings and documents before they are shown. Pure.

It keeps secrets off screens and out of logs. It does not hide them from a reader of the configuration.
"""

from __future__ import annotations

import re

from nodestore.support.jsonio import Json

MASK = "***"
_SECRET = re.compile(
    r"pass(?:word|wd|phrase)|secret|credential|authorization|(?:api|access|private|signing|encryption)[_.-]?key|"
    r"(?:^|[_.-])(?:pass|pwd|tokens?|cookie)(?:$|[_.-])",
    re.IGNORECASE,
)
_NOT_SECRET = re.compile(r"[_.-](?:file|path|dir|name|id|url|ttl|s|ms|max|min|bytes|count)$", re.IGNORECASE)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_PASSWORD_IN_URL = re.compile(r"(?<=://)([^/\s:@]*):[^/\s@]+@")
_OPTION = re.compile(r"(?P<name>--?[A-Za-z][\w.-]*|[A-Za-z_]\w*)=.+", re.DOTALL)


def masked(value: Json) -> Json:
    """A copy in which secrets are `***`.

    A secret is a value whose key is named like one, such as `password` or `apiKey`, an element that follows such an
    option in a list (`--token X`), or a password in a URL. The value of `password_file` is kept, since it names a
    file. So is an empty value.
    """
    if isinstance(value, dict):
        return {key: _masked_field(key, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return _masked_list(list(value))
    if isinstance(value, str):
        return _PASSWORD_IN_URL.sub(rf"\1:{MASK}@", value)
    return value


def _masked_field(key: str, value: Json) -> Json:
    if is_secret(key) and value not in (None, "", {}, []) and not isinstance(value, bool):
        return MASK
    return masked(value)


def _masked_list(items: list[Json]) -> list[Json]:
    """A list, such as a command line, without the values of options that are named like a secret."""
    shown, hide_next = [], False
    for item in items:
        option = _OPTION.fullmatch(item) if isinstance(item, str) else None
        if hide_next and isinstance(item, str):
            shown.append(MASK)
        elif option is not None and is_secret(option["name"].lstrip("-")):
            shown.append(f"{option['name']}={MASK}")
        else:
            shown.append(masked(item))
        hide_next = isinstance(item, str) and item.startswith("-") and "=" not in item and is_secret(item.lstrip("-"))
    return shown


def is_secret(key: str) -> bool:
    """Whether a key of this name usually holds a secret."""
    words = _CAMEL.sub("_", key)
    return _SECRET.search(words) is not None and _NOT_SECRET.search(words) is None
