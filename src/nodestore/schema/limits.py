"""Limits of the texts that requests may contain. Pure.

Texts are checked where they enter: by the HTTP API, by a client that writes to etcd itself, and by the leader for its
own commands. What is read from etcd has no limit, so that old entries stay readable and every replica replays them.
"""

from __future__ import annotations

from nodestore.errors import Invalid

ID_CHARS_MAX = 128
"""The maximum length of a command's id, in characters."""
ACTOR_BYTES_MAX = 256
COMMAND_NAME_BYTES_MAX = 128
COMMAND_ID_BYTES_MAX = 4 * ID_CHARS_MAX
TEXT_BYTES_MAX = 1 << 10
"""Limit of a reason, and of every other text that has no limit of its own."""


def check_text(text: str, what: str, bytes_max: int) -> str:
    """Return `text`. Invalid, naming `what`, if it has more than `bytes_max` bytes in UTF-8."""
    if len(text) * 4 > bytes_max and _size(text) > bytes_max:
        raise Invalid(f"{what}: {_size(text)} bytes of text; the limit is {bytes_max}")
    return text


def shortened(text: str, bytes_max: int) -> str:
    """`text`, cut to at most `bytes_max` bytes in UTF-8, for a text that must not be refused."""
    if len(text) * 4 <= bytes_max or _size(text) <= bytes_max:
        return text
    return text.encode("utf-8", "replace")[: bytes_max - 3].decode("utf-8", "ignore") + "..."


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))
