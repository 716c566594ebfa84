"""Which version a configuration will have: one more than the newest, even where `config/current` cannot be read."""

from __future__ import annotations

import contextlib

from nodestore.errors import Garbage
from nodestore.etcd import KV, Etcd
from nodestore.keys import Keys
from nodestore.models import ConfigRecord, decode


async def version_of(etcd: Etcd, keys: Keys, current: KV | None) -> int:
    """The version of `config/current` as found; the newest in the history when it holds garbage or was deleted, so that
    what is applied over it is newer than all before. 0: there is none."""
    if current is not None:
        with contextlib.suppress(Garbage):
            return decode(ConfigRecord, current.value, current.key).version
    kept = await etcd.range(keys.config_history, keys_only=True)
    names = [kv.key.removeprefix(keys.config_history) for kv in kept.kvs]
    return max((int(name) for name in names if name.isascii() and name.isdigit() and len(name) < 16), default=0)
