"""The desired states of the nodes as etcd holds them, read when an answer about nodes needs them.

They are not watched: nearly every commit changes some, and etcd would deliver each change to every masterd. That took a
quarter of the CPU time of a single command.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import NamedTuple

from nodestore.errors import Garbage, NodectlError
from nodestore.etcd.session import KV, Etcd
from nodestore.etcd.watch import list_at
from nodestore.schema.keys import Keys, prefix_end
from nodestore.schema.models import Desired, decode

log = logging.getLogger(__name__)

_READ_S = 0.25
"""Time limit for etcd. A local read is answered without etcd as well, and must not take long then."""


class _Decoded(NamedTuple):
    mod_revision: int
    desired: Desired


class DesiredStates:
    """The desired states as they were read last. garbage: receives an error message for each unreadable key."""

    def __init__(self, etcd: Etcd, keys: Keys, garbage: dict[str, str]) -> None:
        self._etcd, self._prefix, self._garbage = etcd, keys.desired, garbage
        self._decoded: dict[str, _Decoded] = {}
        self._restarts: int | None = None
        self.items: dict[str, Desired] | None = None
        """By node; None before they were read once."""
        self.is_current = False
        """Whether the last `refresh` reached etcd."""
        self._reading = asyncio.Lock()
        self._begun = self._ended = 0
        """Numbers of the last read that began, and of the last one that succeeded."""

    async def refresh(self) -> None:
        """Read what etcd holds now. If etcd does not answer within a quarter of a second, the last values remain.

        Concurrent callers share a read that began after their call.
        """
        try:
            async with asyncio.timeout(_READ_S):
                await self._read_since(self._begun + 1)
        except (TimeoutError, NodectlError) as error:
            self.is_current = False
            log.debug("the desired states remain as they were read last: %s", error or "etcd did not answer in time")

    async def _read_since(self, wanted: int) -> None:
        """Return once a read with this number or a later one has succeeded."""
        async with self._reading:
            if self._ended >= wanted:
                return
            self._begun = number = self._begun + 1
            listing = await list_at(self._etcd, self._prefix, end=prefix_end(self._prefix))
            self.replace(listing.kvs)
            self.is_current, self._ended = True, number

    def replace(self, kvs: Iterable[KV]) -> None:
        """Replace all values by those of a listing. Only those that changed are decoded."""
        if self._restarts != self._etcd.watch_restarts:  # another store may use the same revisions for other values
            self._decoded, self._restarts = {}, self._etcd.watch_restarts
        for key in [key for key in self._garbage if key.startswith(self._prefix)]:
            del self._garbage[key]
        decoded: dict[str, _Decoded] = {}
        for kv in kvs:
            before = self._decoded.get(kv.key)
            if before is not None and before.mod_revision == kv.mod_revision:
                decoded[kv.key] = before
            elif (desired := self._decode(kv)) is not None:
                decoded[kv.key] = _Decoded(kv.mod_revision, desired)
        self._decoded = decoded
        self.items = {key.removeprefix(self._prefix): item.desired for key, item in decoded.items()}

    def _decode(self, kv: KV) -> Desired | None:
        try:
            return decode(Desired, kv.value, kv.key)
        except Garbage as error:
            self._garbage[kv.key] = str(error)
            return None
