"""Decodes whole snapshots for tests."""

from __future__ import annotations

from collections.abc import Iterable

from masterd.replication.images import Image, load_chunk
from masterd.state_machine.state import State


def decode_image(chunks: Iterable[bytes], where: str) -> Image:
    """Decode the image in these chunks. Raises Garbage if they are not one."""
    state = State()
    for raw in chunks:
        load_chunk(state, raw, where)
    return Image.of(state)
