"""The context of the acts: the cluster, a client, the ledger of all commands, and the promises under test."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nodectl.client import Client
from nodectl.demo import wall
from nodectl.demo.narrator import Narrator
from nodectl.demo.traffic import Ledger
from nodectl.dev.cluster import DevCluster
from nodectl.workload.verdicts import JournalLine, Promise
from nodestore.errors import Garbage
from nodestore.etcd.session import Etcd
from nodestore.etcd.watch import list_at
from nodestore.schema.keys import Keys, prefix_end
from nodestore.schema.models import Entry, decode
from nodestore.support.backoff import Backoff
from nodestore.support.waiting import wait_until

_POLL_S = 0.01


def _promises() -> dict[str, Promise]:
    return {
        "lost": Promise("No acknowledged command is lost"),
        "twice": Promise("No command takes effect twice"),
        "deposed": Promise("A deposed master changes nothing"),
        "takeover": Promise("Another master takes over by itself"),
        "node": Promise("A node that returns converges"),
        "member": Promise("etcd may lose a member"),
        "history": Promise("Anyone can see what happened"),
    }


@dataclass
class Stage:
    """The context of one run of the demo. `leaders_lost`: how many leaders were killed or frozen."""

    cluster: DevCluster
    client: Client
    etcd: Etcd
    narrator: Narrator
    rng: random.Random
    ledger: Ledger
    positions: dict[str, tuple[int, int] | None] = field(default_factory=dict)
    promises: dict[str, Promise] = field(default_factory=_promises)
    leaders_lost: int = 0

    def say(self, text: str) -> None:
        """Print one event."""
        self.narrator.line(text)

    # --- the cluster's state ----------------------------------------------------------------------------------------

    async def journal(self) -> list[JournalLine]:
        """Return every command in the journal, read from etcd itself. Raises Garbage if an entry is malformed."""
        keys = Keys(self.cluster.cluster)
        found = await list_at(self.etcd, keys.journal, end=prefix_end(keys.journal))
        lines = []
        for kv in found.kvs:
            try:
                key = keys.entry_index(kv.key)
            except ValueError as error:
                raise Garbage(str(error)) from None
            entry = decode(Entry, kv.value, kv.key)
            term = (entry.epoch, entry.term)
            lines += [JournalLine(key, item.index, item.id, item.actor, term) for item in entry.commands]
        return lines

    async def scenes(self) -> set[str]:
        """Return the paths of all scenes in the leader's state."""
        return set(await self.client.documents("scenes/"))

    async def look_up_nodes(self) -> None:
        views = await self.client.nodes()
        self.positions = {view["name"]: _position(view["position"]) for view in views}

    @property
    def nodes(self) -> list[str]:
        return list(self.positions)

    # --- the wall ---------------------------------------------------------------------------------------------------

    def nodes_show(self, documents: Mapping[str, Mapping[str, Any]]) -> bool:
        """Return whether every node in `documents` shows its document."""
        return all(wall.tile_shows(self.cluster.work_dir(node), document) for node, document in documents.items())

    def draw(self) -> None:
        tiles = {node: wall.read_tile(self.cluster.work_dir(node)) for node in self.nodes}
        self.narrator.wall(wall.grid(self.positions), tiles)

    # --- waiting ----------------------------------------------------------------------------------------------------

    async def wait_until(self, condition: Callable[[], bool], what: str, timeout_s: float = 20.0) -> float:
        """Wait until `condition()` is true; return the seconds it took. Raises TimedOut with `what` in its message."""

        async def check() -> str | None:
            return None if condition() else "not yet"

        begun = time.monotonic()
        await wait_until(check, what, timeout_s, Backoff(_POLL_S, _POLL_S))
        return time.monotonic() - begun


def _position(found: list[int] | None) -> tuple[int, int] | None:
    return (found[0], found[1]) if found else None
