"""Finds malformed and unknown keys by reading every key under the prefix, on request (GET /v1/status).

Other parts of masterd report and skip garbage in the keys that they read. Only a scan finds the garbage that they never
read: in a view of a document that no program reads, in a key of an unknown kind, or in a journal entry that was
overwritten after all replicas had read it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping

from nodestore.errors import Garbage, NodectlError
from nodestore.etcd.session import KV, Etcd
from nodestore.schema.keys import Keys, prefix_end
from nodestore.schema.models import (
    AccessControl,
    Acted,
    Actions,
    Alive,
    Answer,
    ApplicationOrder,
    Applied,
    BrowserSession,
    Candidate,
    Challenge,
    ConfigRecord,
    CredentialUse,
    Desired,
    DocumentView,
    Epoch,
    Grant,
    Head,
    JoinToken,
    LeaderRecord,
    Manifest,
    MoveCode,
    Paused,
    Status,
    Stored,
    TermRecord,
    Waiting,
    decode,
)
from nodestore.support.tasks import background_task

log = logging.getLogger(__name__)

CACHE_S = 10.0
_SCAN_TIMEOUT_S = 2.0
_PAGE_KEYS = 500
_KEYS_MAX = 20_000
_PROBLEMS_MAX = 50
_UNKNOWN_KEYS_MAX = 3
_CHUNK_DIGITS = 6


class StoreScan:
    """Scans the keys of one cluster; a result is reused for `fresh_s` seconds."""

    def __init__(self, etcd: Etcd, keys: Keys, fresh_s: float = CACHE_S) -> None:
        self._etcd, self._keys, self._fresh_s = etcd, keys, fresh_s
        self._at: float | None = None
        self._problems: dict[str, str] = {}
        self._scan_task: asyncio.Task[None] | None = None
        self._models: Mapping[str, type[Stored]] = {
            keys.epoch: Epoch, keys.application: ApplicationOrder,
            keys.head: Head, keys.leader: LeaderRecord, keys.paused: Paused, keys.applied: Applied,
            keys.config_current: ConfigRecord, keys.candidates: Candidate, keys.terms: TermRecord,
            keys.config_history: ConfigRecord, keys.status: Status, keys.alive: Alive, keys.desired: Desired,
            keys.actions: Actions, keys.acted: Acted, keys.challenges: Challenge, keys.answers: Answer,
            keys.state: DocumentView, keys.waiting: Waiting, keys.access_control: AccessControl, keys.grants: Grant,
            keys.joins: JoinToken, keys.uses: CredentialUse,
            keys.browser_sessions: BrowserSession, keys.move_codes: MoveCode,
        }  # fmt: skip

    async def find_problems(self, wait_s: float = _SCAN_TIMEOUT_S) -> dict[str, str]:
        """Return what is wrong, by key: at most 50 problems, from the first 20,000 keys of each kind.

        A scan ends after two seconds at the latest. If it has not ended within `wait_s` seconds, the result of the
        previous scan is returned. If it times out or etcd fails, its problems are added to that result.
        """
        if self._scan_task is None and (self._at is None or time.monotonic() - self._at >= self._fresh_s):
            self._scan_task = background_task(self._scan(), name="store scan")
        if self._scan_task is not None:
            await asyncio.wait({self._scan_task}, timeout=wait_s)
        return self._problems

    async def close(self) -> None:
        """Cancel a running scan and wait for its end."""
        if self._scan_task is not None:
            self._scan_task.cancel()
            await asyncio.wait({self._scan_task})

    async def _scan(self) -> None:
        found: dict[str, str] = {}
        try:
            async with asyncio.timeout(_SCAN_TIMEOUT_S):
                async for key, problem in self._all():
                    found[key] = problem
                    if len(found) >= _PROBLEMS_MAX:
                        break
            self._problems = found
        except (TimeoutError, NodectlError) as error:
            log.debug("the scan of the store ended early: %s", error)
            self._problems = {**self._problems, **found}
        finally:
            self._at, self._scan_task = time.monotonic(), None

    async def _all(self) -> AsyncIterator[tuple[str, str]]:
        async for kv in self._unknown_keys():
            yield kv.key, f"{kv.key}: unknown key"
        for start, model in self._models.items():
            async for kv in self._keys_under(start):
                if (problem := _decode_problem(model, kv)) is not None:
                    yield kv.key, problem
        async for kv in self._keys_under(self._keys.snapshots, keys_only=True):
            if (problem := await self._snapshot_problem(kv.key)) is not None:
                yield kv.key, problem
        async for kv in self._keys_under(self._keys.journal, keys_only=True):
            if (problem := self._entry_problem(kv)) is not None:
                yield kv.key, problem

    async def _keys_under(self, start: str, *, keys_only: bool = False) -> AsyncIterator[KV]:
        """The key `start`; or, if it ends in a slash, all keys that begin with it."""
        begin = start.encode()
        end = prefix_end(start) if start.endswith("/") else begin + b"\0"
        for _ in range(_KEYS_MAX // _PAGE_KEYS):
            page = await self._etcd.range(begin, end=end, limit=_PAGE_KEYS, keys_only=keys_only)
            for kv in page.kvs:
                yield kv
            if not page.has_more:
                return
            begin = page.next_start

    async def _unknown_keys(self) -> AsyncIterator[KV]:
        """The first keys in each gap between the known keys and prefixes."""
        known = [value for value in vars(self._keys).values() if value.startswith(self._keys.prefix)]
        known.remove(self._keys.prefix)
        begin = self._keys.prefix.encode()
        for name in [*sorted(known), ""]:
            end = name.encode() or prefix_end(self._keys.prefix)
            page = await self._etcd.range(begin, end=end, limit=_UNKNOWN_KEYS_MAX, keys_only=True)
            for kv in page.kvs:
                yield kv
            begin = prefix_end(name) if name.endswith("/") else end + b"\0"

    async def _snapshot_problem(self, key: str) -> str | None:
        name, _, part = key.removeprefix(self._keys.snapshots).partition("/")
        if name and part == "manifest":
            found = await self._etcd.get(key)
            return None if found is None else _decode_problem(Manifest, found)
        if name and len(part) == _CHUNK_DIGITS and part.isascii() and part.isdigit():
            return None  # the content of a chunk is covered by the hash in the manifest
        return f"{key}: not a part of a snapshot"

    def _entry_problem(self, kv: KV) -> str | None:
        try:
            self._keys.entry_index(kv.key)
        except ValueError as error:
            return f"{kv.key}: {error}"
        return None if kv.version == 1 else f"{kv.key}: this journal entry was written over after its commit"


def _decode_problem(model: type[Stored], kv: KV) -> str | None:
    try:
        decode(model, kv.value, kv.key)
    except Garbage as error:
        return str(error)
    return None
