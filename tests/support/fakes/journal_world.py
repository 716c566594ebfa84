"""A journal in a fake etcd and a masterd that follows it, for tests of what reads the journal."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, cast

from masterd.api.read_sources import ReadSources
from masterd.replication.replica import Replica
from masterd.state_machine.state import State
from nodestore.errors import TimedOut
from nodestore.etcd.pb import etcd_pb2 as pb
from nodestore.etcd.session import Etcd
from nodestore.schema.models import CommandRecord, Entry
from tests.support.fakes.etcd import SETTINGS, FakeEtcd
from tests.support.fakes.masterd_parts import KEYS, offline_parts


class FakeReplica:
    """A replica that has applied every entry of the journal."""

    def __init__(self) -> None:
        self.problem: str | None = None
        self.epoch: int | None = 1
        self.index = 0
        self.state = State()
        self.recent: list[Entry] | None = None
        """What is in memory; None: etcd must be read."""

    def recent_after(self, index: int, entries_max: int) -> list[Entry] | None:
        return None if self.recent is None else [entry for entry in self.recent if entry.last > index][:entries_max]

    async def wait_for(self, index: int, timeout_s: float) -> None:
        for _ in range(round(timeout_s / 0.005)):
            if self.index >= index:
                return
            await asyncio.sleep(0.005)
        raise TimedOut("no entry arrives")


class JournalWorld:
    """The journal. Commands are appended by `commit`, one entry each."""

    def __init__(self) -> None:
        self.server, self.replica = FakeEtcd(), FakeReplica()
        self.epoch = 1

    @contextlib.asynccontextmanager
    async def sources(self) -> AsyncIterator[ReadSources]:
        """What a masterd that follows this journal reads."""
        async with Etcd(SETTINGS, connect=self.server.connect) as etcd:
            offline = offline_parts().read_sources
            yield replace(offline, etcd=etcd, replica=cast(Replica, self.replica))
            await offline.etcd.close()

    def commit(self, count: int = 1, **more: Any) -> None:
        """Append entries of one command each."""
        for index in range(self.replica.index + 1, self.replica.index + count + 1):
            fields = {"id": f"c{index}", "actor": "ann", "time": float(index), "name": "node.set", "args": {}, **more}
            command = CommandRecord(index=index, **fields)
            entry = Entry(epoch=self.epoch, term=5, nonce=f"n{index}", commands=(command,))
            self.put(KEYS.entry(index), entry.encode())
        self.replica.index += count

    def put(self, key: str, value: bytes) -> None:
        self.server.handle("KV/Put", pb.PutRequest(key=key.encode(), value=value))

    def truncate(self, up_to: int) -> None:
        """Delete the entries up to this index."""
        self.server.handle(
            "KV/DeleteRange",
            pb.DeleteRangeRequest(key=KEYS.journal.encode(), range_end=KEYS.entry(up_to + 1).encode()),
        )

    def restore(self, index: int) -> None:
        """Go back to a backup that was made at this index, in a new epoch."""
        self.server.handle(
            "KV/DeleteRange",
            pb.DeleteRangeRequest(key=KEYS.entry(index + 1).encode(), range_end=(KEYS.journal + "a").encode()),
        )
        self.epoch += 1
        self.replica.epoch, self.replica.index = self.epoch, index
