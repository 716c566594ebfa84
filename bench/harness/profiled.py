"""masterd under a profiler: `python -m bench.harness.profiled ...` takes masterd's options.

It writes the profile to the file that NODECTL_BENCH_PROFILE names (default: `profiled.stats`).
"""

from __future__ import annotations

import cProfile
import os
import pstats
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from masterd import __main__ as program
from masterd.application import worker

Shares = list[tuple[str, float]]

_PLACES = (
    ("aiohttp", "aiohttp"), ("grpc", "grpc"), ("pydantic", "pydantic"), ("masterd/api", "masterd: api"),
    ("masterd/", "masterd: commands"), ("nodestore/etcd", "session with etcd"),
    ("nodestore/", "nodestore"), ("asyncio", "asyncio"), ("threading", "asyncio"), ("json", "JSON"),
)  # fmt: skip
_IDLE = ("select.epoll", "select.poll", "acquire", "SimpleQueue")


def shares(path: Path) -> Shares:
    """Return the share of CPU time of each layer, largest first."""
    took: defaultdict[str, float] = defaultdict(float)
    stats: dict[tuple[str, int, str], tuple[int, int, float, float, Any]] = pstats.Stats(str(path)).stats  # type: ignore[attr-defined]
    for (file, _, function), (_, _, own_s, _, _) in stats.items():
        if not any(word in function for word in _IDLE):
            took[_layer(file.replace(os.sep, "/"), function)] += own_s
    total = sum(took.values()) or 1.0
    return sorted(((name, used / total) for name, used in took.items()), key=lambda item: -item[1])[:8]


def _layer(file: str, function: str) -> str:
    where = file if file != "~" else function
    return next((layer for part, layer in _PLACES if part in where), "Python's built-ins" if file == "~" else "other")


def main() -> int:
    profiles = [cProfile.Profile()]
    if sys.version_info < (3, 12):  # from 3.12 on there is one profiler for all threads
        _profile_thread(profiles)
    profiles[0].enable()
    try:
        return program.main()
    finally:
        profiles[0].disable()
        found = pstats.Stats(*profiles)
        found.dump_stats(os.environ.get("NODECTL_BENCH_PROFILE", "profiled.stats"))


def _profile_thread(profiles: list[cProfile.Profile]) -> None:
    """Profile the thread that runs the commands as well."""
    thread: Any = worker.WorkerThread
    real = thread._run

    def run(self: Any) -> None:
        profile = cProfile.Profile()
        profiles.append(profile)
        profile.runcall(real, self)

    thread._run = run


if __name__ == "__main__":
    sys.exit(main())
