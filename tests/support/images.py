"""Snapshots as tests look at them: whole, in one go."""

from __future__ import annotations

from collections.abc import Iterable

from masterd.replication.snapshots import Image, load_chunk
from masterd.state_machine.state import State


def decode_image(chunks: Iterable[bytes], where: str) -> Image:
    """The image in these chunks. Garbage when they are none."""
    state = State()
    for raw in chunks:
        load_chunk(state, raw, where)
    return Image.of(state)
