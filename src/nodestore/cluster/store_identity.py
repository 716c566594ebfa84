"""Recognises whether etcd is still the store that this daemon knows.

A store is identified by etcd's cluster id and the key `epoch`. A daemon remembers both, and the highest revision that
it has seen: together they are its *mark*. etcd may be emptied, or restored to an older state, under running daemons:
then the cluster id is another one, or the revision goes back, or `epoch` is missing. To the daemon this is another
store: its indexes, terms and generations mean something else. A master does not lead in it, a node does not obey it,
and both keep what they have. Only a higher epoch is accepted as the continuation, and only `nodectl recover` begins
one.

Only linearizable reads count. A watch, or a member that lags, may show a lower revision in the same store. An answer is
compared with the mark as it was when the request was sent: a later mark may be ahead of the answer in the same store.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, Protocol

from nodestore.errors import Garbage, NodectlError
from nodestore.etcd.session import Etcd
from nodestore.etcd.types import Reading
from nodestore.schema.keys import Keys
from nodestore.schema.models import Epoch, StoreMark, decode
from nodestore.support.atomic_files import read_bounded, write_atomic
from nodestore.support.logs import RateLimitedLog
from nodestore.support.tasks import background_task

log = logging.getLogger(__name__)

CHECK_EVERY_S = 1.0
_SAVE_EVERY_S = 60.0
_SAVE_WAIT_S = 1.0
_REMEDY = "What is in memory is kept: restart no masterd, and see docs/lost-keys.md (`nodectl recover`)"


class OtherStore(NodectlError):
    """etcd is not the store that this daemon remembers."""

    code = "other_store"


class MarkMemory(Protocol):
    """Where a daemon keeps its mark over restarts: see `MarkFile`."""

    def load(self) -> StoreMark | None: ...

    async def save(self, mark: StoreMark) -> None: ...


class MarkFile:
    """Keeps the mark of one cluster in a file. The file may be deleted; the daemon then remembers nothing."""

    def __init__(self, directory: Path, cluster: str) -> None:
        self._path = directory / f"store-{cluster}.json"

    def load(self) -> StoreMark | None:
        """The mark in the file; None if there is none, or it is unreadable."""
        content = read_bounded(self._path)
        if content is None:
            return None
        try:
            return decode(StoreMark, content, str(self._path))
        except Garbage as error:
            log.error("ignoring the remembered store: %s", error)
            return None

    async def save(self, mark: StoreMark) -> None:
        """Write the file, in a thread. Raises OSError."""
        await asyncio.to_thread(write_atomic, self._path, mark.encode())


def judge(known: StoreMark | None, found: Reading, epoch_key: str) -> tuple[StoreMark | None, str | None]:
    """Return the mark to remember after this reading of `epoch`, and why the store is another one; None if it is not.

    known: what was remembered when the reading was requested.
    """
    try:
        epoch = decode(Epoch, found.kv.value, epoch_key).epoch if found.kv is not None else None
    except Garbage as error:
        return known, _other_store(known, found) or _garbled_epoch(known, error)
    if known is None or (epoch is not None and epoch > known.epoch):
        accepted = StoreMark(cluster_id=found.cluster_id, epoch=epoch or 0, revision=found.revision)
        return (None if epoch is None else accepted), None
    if (other := _other_store(known, found)) is not None:
        return known, other
    if epoch is None:
        return known, f"{epoch_key} is missing, but epoch {known.epoch} had begun: keys were deleted. {_REMEDY}"
    if epoch < known.epoch:
        return known, f"{epoch_key} is {epoch}, but epoch {known.epoch} had begun. {_REMEDY}"
    return known.model_copy(update={"revision": found.revision}), None


def _other_store(known: StoreMark | None, found: Reading) -> str | None:
    if known is None:
        return None
    if found.cluster_id != known.cluster_id:
        return f"etcd is another store: its cluster id is {found.cluster_id}, not {known.cluster_id}. {_REMEDY}"
    if found.revision < known.revision:
        back = f"its revision went back from {known.revision} to {found.revision}"
        return f"etcd is another store: {back}. {_REMEDY}"
    return None


def _garbled_epoch(known: StoreMark | None, error: Garbage) -> str:
    right = "" if known is None else f': set it to {{"v":1,"epoch":{known.epoch}}}'
    return f"{error}; nothing can be committed until the key is repaired{right}"


class StoreIdentity:
    """Remembers the store and checks whether etcd is still that store. memory: None: only this process remembers."""

    def __init__(self, etcd: Etcd, keys: Keys, memory: MarkMemory | None = None) -> None:
        self._etcd, self._keys, self._memory = etcd, keys, memory
        self.mark = memory.load() if memory is not None else None
        """The store that this daemon remembers; None if it remembers none yet."""
        self.remembered_at_start = self.mark is not None
        """Whether this daemon remembered a store when it started."""
        self.problem: str | None = None
        """Why etcd is not the remembered store; None if it is, or if that is not known."""
        self.is_checked = False
        """Whether etcd has answered a check."""
        self.save_problem: str | None = None
        """Why the mark cannot be saved; None if it can."""
        self._saved, self._saved_at = self.mark, -math.inf
        self._saving: asyncio.Task[None] | None = None
        self._subscribers: list[Callable[[], None]] = []
        self._lock = asyncio.Lock()
        self._limited_log = RateLimitedLog(log, 60.0)

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` when `problem`, or the remembered cluster id or epoch, changes; return the unsubscriber."""
        self._subscribers.append(callback)
        return lambda: self._subscribers.remove(callback)

    async def run(self) -> NoReturn:
        """Check once a second and save the mark, until cancelled. Outages are retried."""
        try:
            while True:
                try:
                    await self.check()
                except NodectlError as error:
                    log.debug("the identity of the store was not checked: %s", error)
                await self._save_if_due()
                await asyncio.sleep(CHECK_EVERY_S)
        finally:
            if self._saving is not None:
                self._saving.cancel()
                await asyncio.gather(self._saving, return_exceptions=True)

    async def check(self) -> None:
        """Read `epoch` linearizably and compare the store with the remembered one. Raises Unavailable in an outage."""
        async with self._lock:  # the revision that is compared must have been seen before the request was sent
            known = self.mark
            found = await self._etcd.read(self._keys.epoch)
            mark, problem = judge(known, found, self._keys.epoch)
            is_same = mark is None if known is None else known.is_same_store(mark)
            changed = not is_same or (problem is None) != (self.problem is None)
            self.mark, self.problem, self.is_checked = mark, problem, True
        if changed:
            self._on_change(known)

    def _on_change(self, known: StoreMark | None) -> None:
        if self.problem is not None:
            self._limited_log.log(logging.ERROR, self.problem)
        elif self.mark is not None and known is not None:
            log.warning("the store is that of epoch %d in etcd cluster %s", self.mark.epoch, self.mark.cluster_id)
        if known is not None:
            self._etcd.restart_watches()
        for callback in tuple(self._subscribers):
            callback()

    def raise_if_other(self) -> None:
        """Raise OtherStore if etcd is not the remembered store."""
        if self.problem is not None:
            raise OtherStore(self.problem)

    def check_answer(self, cluster_id: str, revision: int, known: StoreMark | None) -> None:
        """Raise OtherStore if an answer comes from another store. known: the mark when the request was sent."""
        if other := _other_store(known, Reading(cluster_id or (known.cluster_id if known else ""), revision, None)):
            raise OtherStore(other)

    async def wait_other(self) -> NoReturn:
        """Wait until etcd is not the remembered store, then raise OtherStore."""
        changed = asyncio.Event()
        unsubscribe = self.subscribe(changed.set)
        try:
            while True:
                self.raise_if_other()
                await changed.wait()
                changed.clear()
        finally:
            unsubscribe()

    # --- the memory ---

    async def _save_if_due(self) -> None:
        """Save the mark if the store changed, and the revision once a minute. A disk that hangs delays nothing else."""
        mark = self.mark
        if self._memory is None or mark is None or mark == self._saved or self._saving is not None:
            return
        if mark.is_same_store(self._saved) and time.monotonic() < self._saved_at + _SAVE_EVERY_S:
            return
        self._saving = background_task(self._save(self._memory, mark), name="save the store's mark")
        await asyncio.wait({self._saving}, timeout=_SAVE_WAIT_S)

    async def _save(self, memory: MarkMemory, mark: StoreMark) -> None:
        try:
            await memory.save(mark)
            self._saved, self._saved_at, self.save_problem = mark, time.monotonic(), None
        except OSError as error:
            self.save_problem = f"cannot save which store this is: {error.strerror or error}"
            self._limited_log.log(logging.ERROR, self.save_problem)
        finally:
            self._saving = None
