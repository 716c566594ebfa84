"""The clocks of the PCs, as their programs publish them, and the median of them.

A masterd publishes a reading of its wall clock in its candidacy, at least every 10 seconds; a noded in `time` of its
status, at least every five minutes. The offset of a clock is the published reading minus the monotonic time at which
this masterd received it. A reading may have been received late, which only makes the offset smaller; so the largest
offset of the last three readings counts. A status from a listing is not used, because it may be days old. A candidacy
from a listing is used: its lease shows that its masterd lives, and so has written it in the last 10 seconds.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable

from masterd.replication.cluster_view import ClusterView

CLOCK_EVERY_S = 10.0
"""A masterd publishes its clock at least this often."""
_READINGS = 3
_MEDIAN_CLOCKS_MIN = 3
_READING_AGE_MAX_S = 900.0  # three times the period of noded


class ClockSource:
    """The readings of one published clock, by the PC that it belongs to."""

    def __init__(self, host: str) -> None:
        self.host = host
        self._offsets: deque[float] = deque(maxlen=_READINGS)
        self._offset = -math.inf
        self._last = 0.0
        self.counts_until = -math.inf
        """The monotonic time after which the last reading is too old."""

    def add(self, reading: float, at: float) -> None:
        """Add a reading received at the monotonic time `at`. A reading that was received before is ignored."""
        if reading != self._last:
            self._last = reading
            self._offsets.append(reading - at)
            self._offset, self.counts_until = max(self._offsets), at + _READING_AGE_MAX_S

    def offset(self, at: float) -> float | None:
        """Wall clock minus monotonic clock; None if the last reading is too old."""
        return None if at > self.counts_until else self._offset


class PcClocks:
    """Collects the clocks of all PCs. Each PC counts once. For this masterd's PC, its own wall clock counts."""

    def __init__(
        self,
        cluster_view: ClusterView,
        own_host: str,
        wall_clock: Callable[[], float],
        monotonic: Callable[[], float] = lambda: time.monotonic(),
    ) -> None:
        self._view, self._own_host = cluster_view, own_host
        self._wall_clock, self._monotonic = wall_clock, monotonic
        self._sources: dict[tuple[str, str], ClockSource] = {}
        self._others: list[float] = []
        """The offsets of the other PCs' clocks. Kept, because each commit needs the target and there may be a thousand
        PCs."""
        self._others_until = -math.inf
        """The monotonic time up to which `_others` is right, if no reading is received before."""
        cluster_view.candidates.subscribe(self._on_candidate)
        cluster_view.status.subscribe(self._on_status)

    def _on_candidate(self, name: str) -> None:
        candidate = self._view.candidates.items.get(name)
        if candidate is None or candidate.clock is None:
            self._remove(("master", name))
        else:
            self._add(("master", name), candidate.host, candidate.clock)

    def _on_status(self, name: str) -> None:
        status = self._view.status.items.get(name)
        if status is None:
            self._remove(("node", name))
        elif status.time > 0 and not self._view.status.is_listing:
            self._add(("node", name), status.host, status.time)

    def _add(self, name: tuple[str, str], host: str, reading: float) -> None:
        source = self._sources.get(name)
        if source is None or source.host != host:
            self._sources[name] = source = ClockSource(host)
        source.add(reading, self._monotonic())
        self._others_until = -math.inf

    def _remove(self, name: tuple[str, str]) -> None:
        self._sources.pop(name, None)
        self._others_until = -math.inf

    def target(self) -> float:
        """The median of the PCs' clocks now. With fewer than three PCs, the clock of this one."""
        at, own = self._monotonic(), self._wall_clock()
        if at > self._others_until:
            self._collect_others(at)
        clocks = [*(at + offset for offset in self._others), own]
        return statistics.median(clocks) if len(clocks) >= _MEDIAN_CLOCKS_MIN else own

    def _collect_others(self, at: float) -> None:
        by_host: dict[str, float] = {}
        for (kind, _), source in self._sources.items():
            if (offset := source.offset(at)) is not None and (kind == "master" or source.host not in by_host):
                by_host[source.host] = offset
        by_host.pop(self._own_host, None)
        self._others = sorted(by_host.values())
        ends = (source.counts_until for source in self._sources.values())
        self._others_until = min((end for end in ends if end >= at), default=math.inf)
