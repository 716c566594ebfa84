"""Counts how often another noded claims a node. Two nodeds with one name take the claim from each other for ever."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from masterd.replication.cluster_view import KeyMirror
from nodestore.schema.models import Alive

_WINDOW_S = 300.0
_CHANGES_MIN = 4
_KEPT_MAX = 64
_NODES_MAX = 2_000


class ClaimChanges:
    """The recent changes of the nodes' claims, as this masterd has seen them. clock: monotonic seconds."""

    def __init__(self, alive: KeyMirror[Alive], clock: Callable[[], float] = time.monotonic) -> None:
        self._alive, self._clock = alive, clock
        self._nonces: dict[str, str] = {}
        """By node: the nonce of the noded that claimed it last."""
        self._changes: dict[str, deque[tuple[float, str]]] = {}
        alive.subscribe(self._on_change)

    def frequent(self) -> dict[str, list[str]]:
        """By node: the hosts of the nodeds that claimed it within 5 minutes, if there were four changes or more."""
        since = self._clock() - _WINDOW_S
        recent = {node: [host for at, host in changes if at >= since] for node, changes in self._changes.items()}
        return {node: hosts for node, hosts in recent.items() if len(hosts) >= _CHANGES_MIN}

    def _on_change(self, node: str) -> None:
        claim = self._alive.items.get(node)
        if claim is None or self._nonces.get(node) == claim.nonce:
            return
        is_first = node not in self._nonces
        self._nonces[node] = claim.nonce
        if not is_first:
            self._changes.setdefault(node, deque(maxlen=_KEPT_MAX)).append((self._clock(), claim.host))
        while len(self._nonces) > _NODES_MAX:  # names of nodeds are not limited by the configuration
            oldest = next(iter(self._nonces))
            del self._nonces[oldest]
            self._changes.pop(oldest, None)
