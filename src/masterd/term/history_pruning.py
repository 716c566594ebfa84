"""Bounds the histories in the store: the records of terms by number, the configurations by number and by bytes."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from masterd.replication.replica import Replica
from nodestore.etcd.session import KV, Op, op_delete

log = logging.getLogger(__name__)

_CONFIGS_EVERY_S, _CONFIGS_RETRY_S = 60.0, 5.0
_DELETES_MAX = 16  # operations in one transaction: the minimum of --max-txn-ops


class HistoryPruning:
    """Deletes the oldest keys of each history, for one term.

    delete: deletes in one fenced transaction. configs_max, configs_min: at most and at least so many configurations are
    kept, as long as they have `config_bytes_max` bytes together.
    """

    def __init__(
        self,
        replica: Replica,
        delete: Callable[[*tuple[Op, ...]], Awaitable[None]],
        *,
        terms_max: int,
        configs_max: int,
        configs_min: int,
        config_bytes_max: int,
    ) -> None:
        self._replica, self._delete = replica, delete
        self._terms_max, self._configs_max, self._configs_min = terms_max, configs_max, configs_min
        self._config_bytes_max = config_bytes_max
        self._config_bytes: dict[tuple[str, int], int] = {}
        """Sizes of configurations, by key and mod_revision."""
        self._pruned_configs: tuple[int, float] | None = None
        """Index of the adoption, and monotonic time, at which the configurations were pruned last."""

    async def prune_terms(self) -> None:
        """Bound the number of the records of terms."""
        await self._delete_after(await self._list_newest(self._replica.keys.terms), self._terms_max)

    async def prune_configs_if_due(self) -> None:
        """Bound the configurations, after each adoption and once a minute."""
        if self._pruned_configs is not None:
            index, at = self._pruned_configs
            if index == self._adopted_index and time.monotonic() < at + _CONFIGS_EVERY_S:
                return
        await self.prune_configs()

    async def prune_configs(self) -> None:
        """Bound the configurations now: first by number, because they are read for their sizes.

        An attempt that fails is repeated after some seconds. Not at once: the check that makes it has other work too.
        """
        index, begun = self._adopted_index, time.monotonic()
        self._pruned_configs = index, begun - _CONFIGS_EVERY_S + _CONFIGS_RETRY_S
        newest = await self._list_newest(self._replica.keys.config_history)
        await self._delete_after(newest, self._configs_max)
        kept = newest[: self._configs_max]
        await self._delete_after(kept, await self._count_fitting(kept))
        self._pruned_configs = index, begun

    @property
    def _adopted_index(self) -> int:
        adopted = self._replica.state.adopted
        return 0 if adopted is None else adopted.index

    async def _count_fitting(self, newest: Sequence[KV]) -> int:
        """How many of these configurations fit into `config_bytes_max`; at least `configs_min`.

        They are read one after another, because all together may be larger than an answer of etcd.
        """
        known, sizes = self._config_bytes, dict[tuple[str, int], int]()
        left = self._config_bytes_max
        for count, kv in enumerate(newest):
            version = kv.key, kv.mod_revision
            if version not in known:
                found = await self._replica.etcd.get(kv.key)
                known[version] = 0 if found is None else len(found.value)
            sizes[version] = known[version]
            left -= known[version]
            if left < 0 and count >= self._configs_min:
                log.info("keeping the newest %d configurations: together they reach the limit in bytes", count)
                return count
        self._config_bytes = sizes
        return len(newest)

    async def _list_newest(self, prefix: str) -> list[KV]:
        """The keys under `prefix` without their values, the newest first."""
        found = await self._replica.etcd.range(prefix, keys_only=True)
        return sorted(found.kvs, key=lambda kv: kv.create_revision, reverse=True)

    async def _delete_after(self, newest: Sequence[KV], kept_max: int) -> None:
        """Delete all keys after the first `kept_max`, the oldest first."""
        old = newest[kept_max:][::-1]
        for start in range(0, len(old), _DELETES_MAX):
            await self._delete(*(op_delete(kv.key) for kv in old[start : start + _DELETES_MAX]))
