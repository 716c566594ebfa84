"""Reads what nodes must be from the views in etcd, for the answers of the API.

The views hold the desired state of each node, whatever the application is, and reading them runs none of its code.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

from masterd.api.read_sources import ReadSources
from masterd.api.secret_views.hiding import NodeSecrets
from nodestore.errors import Garbage, TooLarge, Unavailable
from nodestore.etcd.session import KV
from nodestore.schema.api_types import NodeSpec, NodeView
from nodestore.schema.keys import prefix_end
from nodestore.schema.models import Desired, decode
from nodestore.support.time_slices import TimeSlice

_READ_S = 0.7
"""Time limit for etcd. It is below one second, because clients wait one second at most for a local read."""
_PAGE = 50
_BYTES_MAX = 8 << 20
"""Maximum size of all specs of one answer; the nodes beyond it are shown without one."""


async def add_specs(sources: ReadSources, views: Sequence[NodeView]) -> None:
    """Add to each view what the node must be: None if it has nothing to run, or if etcd does not answer in time."""
    found: dict[str, NodeSpec] = {}
    secrets = await sources.secrets()
    try:
        async with asyncio.timeout(_READ_S):
            if len(views) == 1:
                await _read_one(sources, secrets, views[0]["name"], found)
            else:
                await _read_all(sources, secrets, found)
    except (TimeoutError, Unavailable, TooLarge):
        pass  # the rest of the answer comes from memory, so it is given without specs
    for view in views:
        view["spec"] = found.get(view["name"])


async def _read_one(sources: ReadSources, secrets: NodeSecrets, node: str, found: dict[str, NodeSpec]) -> None:
    kv = await sources.etcd.get(sources.keys.desired_of(node))
    if kv is not None and (spec := _spec(kv, secrets)) is not None:
        found[node] = spec


async def _read_all(sources: ReadSources, secrets: NodeSecrets, found: dict[str, NodeSpec]) -> None:
    time_slice, size_bytes, begin = TimeSlice(), 0, sources.keys.desired.encode()
    while size_bytes < _BYTES_MAX:
        page = await sources.etcd.range(begin, end=prefix_end(sources.keys.desired), limit=_PAGE)
        for kv in page.kvs:
            size_bytes += len(kv.value)
            if (spec := _spec(kv, secrets)) is not None:
                found[kv.key.removeprefix(sources.keys.desired)] = spec
            await time_slice.yield_if_used_up()
        if not page.has_more:
            return
        begin = page.next_start


def _spec(kv: KV, secrets: NodeSecrets) -> NodeSpec | None:
    try:
        spec = decode(Desired, kv.value, kv.key).spec
    except Garbage:
        return None
    settings, document = secrets.fields.masked(spec.settings), secrets.content(spec.document)
    return cast(NodeSpec, {"driver": spec.driver, "settings": settings, "document": document})
