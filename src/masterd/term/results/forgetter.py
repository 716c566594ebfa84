"""Forgets remembered results without waiting for new commands, by an entry that only raises the floor.

Usually each commit raises the floor as far as the limit requires. That is not enough in two cases:

- A term begins with more results than its limit, because entries of an old version set no limit in bytes.
- etcd is short of space and commands are refused. Then no commit comes, and snapshots stay as large as they are. So the
  limit is lowered to a quarter for as long as that lasts.

After such an entry two new snapshots are due: until then etcd keeps the two that hold the forgotten results.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable

from masterd.replication.replica import Replica
from masterd.term.committer import Committer
from masterd.term.retention import JournalRetention
from nodestore.errors import Garbage, LeadershipLost, NodectlError, OutcomeUnknown
from nodestore.support.logs import RateLimitedLog

log = logging.getLogger(__name__)

_SHORT_OF_SPACE_PART = 4
_AGAIN_S = 5.0
"""Pause after an attempt, so that attempts that fail do not keep the commit loop busy."""


class ResultForgetter:
    """Forgets results for one term. is_short_of_space: whether commands are refused because etcd is nearly full."""

    def __init__(
        self,
        master: str,
        ids_bytes_max: int,
        replica: Replica,
        committer: Committer,
        retention: JournalRetention,
        is_short_of_space: Callable[[], bool],
    ) -> None:
        self._master, self._ids_bytes_max = master, ids_bytes_max
        self._replica, self._committer, self._retention = replica, committer, retention
        self._is_short_of_space = is_short_of_space
        self._not_before = 0.0
        self._limited_log = RateLimitedLog(log)

    def check(self) -> bool:
        """Pass the present limit on to the committer; return whether an entry is needed to forget results."""
        self._committer.ids_bytes_max = self._limit_bytes
        return self._exceeds_limit and time.monotonic() >= self._not_before

    @property
    def next_check_in_s(self) -> float | None:
        """Seconds until the next attempt, if one is needed; else None."""
        return max(self._not_before - time.monotonic(), 0.01) if self._exceeds_limit else None

    @property
    def _limit_bytes(self) -> int:
        return self._ids_bytes_max // (_SHORT_OF_SPACE_PART if self._is_short_of_space() else 1)

    @property
    def _exceeds_limit(self) -> bool:
        """Whether an entry would forget results, and the limit is exceeded by more than a quarter: the commands of the
        last batch alone may exceed it by less."""
        limit, state = self._limit_bytes, self._replica.state
        return state.ids_bytes > limit + limit // 4 and state.floor_within(limit) > state.floor

    async def forget(self) -> None:
        """Commit an entry that raises the floor. Raises the errors that end the term; others are logged."""
        self._not_before = time.monotonic() + _AGAIN_S
        nonce = secrets.token_hex(8)
        try:
            batch, _ = await self._committer.run_batch(
                lambda batch, _: batch.forget(self._master, nonce), 1.0, inline=True
            )
            await self._committer.commit(batch)
        except (LeadershipLost, OutcomeUnknown, Garbage):
            raise
        except NodectlError as error:
            self._limited_log.log(logging.WARNING, f"cannot forget results yet: {error}; trying again")
            return
        state = self._replica.state
        log.info("results up to index %d are forgotten: %d bytes are left", state.floor, state.ids_bytes)
        self._retention.request_snapshots()
