"""When configurations are pruned: after each adoption, once a minute, and soon again after an attempt that failed."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from masterd.term.history_pruning import HistoryPruning
from nodestore.errors import Unavailable
from nodestore.etcd.session import Op


class _Etcd:
    """Lists no configurations. is_down: does not answer."""

    def __init__(self) -> None:
        self.is_down, self.listings = False, 0

    async def range(self, prefix: str, *, keys_only: bool) -> Any:
        self.listings += 1
        if self.is_down:
            raise Unavailable("down")
        return SimpleNamespace(kvs=[])


async def _delete(*ops: Op) -> None:
    raise AssertionError("there is nothing to delete")


async def test_an_attempt_that_failed_is_repeated_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    etcd, now = _Etcd(), 1_000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    replica: Any = SimpleNamespace(
        etcd=etcd, state=SimpleNamespace(adopted=None), keys=SimpleNamespace(config_history="/config/history/")
    )
    pruning = HistoryPruning(replica, _delete, terms_max=1, configs_max=1, configs_min=1, config_bytes_max=1)
    etcd.is_down = True
    with pytest.raises(Unavailable):
        await pruning.prune_configs_if_due()
    await pruning.prune_configs_if_due()  # the rest of retention is not held up meanwhile
    assert etcd.listings == 1
    etcd.is_down, now = False, now + 5.0
    await pruning.prune_configs_if_due()
    assert etcd.listings == 2
    now += 59.0
    await pruning.prune_configs_if_due()
    assert etcd.listings == 2
    now += 1.0
    await pruning.prune_configs_if_due()
    assert etcd.listings == 3
