"""One process of a PySyncObj cluster: `python -I pysyncobj_node.py JOURNAL SYNC TICK_S PATIENCE_S OWN OTHER...`.

It runs with a Python that has PySyncObj, and imports nothing else. JOURNAL: `-` for memory only. SYNC: `synced` if each
entry is written to the disk before it counts, as etcd does it; PySyncObj itself leaves that to the kernel.

Its commands on stdin and its answers on stdout are lines: `leads` is answered with 1 or 0, `load CALLERS SECONDS` with
a line of JSON, `gap SECONDS` with the longest pause between acknowledged commands in milliseconds.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable

from pysyncobj import SyncObj, SyncObjConf, replicated
from pysyncobj.journal import FileJournal

_DRAIN_S = 30.0
_RETRY_S = 0.5
_CALLERS = 2


class Wall(SyncObj):  # type: ignore[misc]
    """The replicated state: a value for each node, as a command of the built-in application sets it."""

    def __init__(self, own: str, others: list[str], config: SyncObjConf) -> None:
        super().__init__(own, others, config)
        self.values: dict[str, dict[str, str]] = {}

    @replicated  # type: ignore[untyped-decorator]
    def set_value(self, node: str, values: dict[str, str]) -> int:
        self.values[node] = values
        return len(self.values)


def sync_each_entry() -> None:
    """Let the journal write each entry to the disk before it is acknowledged."""
    add = FileJournal.add

    def add_and_sync(self: FileJournal, command: bytes, index: int, term: int) -> None:
        add(self, command, index, term)
        self.flush()

    FileJournal.add = add_and_sync


def set_value(wall: Wall, number: int, done: Callable[[object, int], None]) -> None:
    wall.set_value(f"n{number % 9 + 1}", {"text": f"bench {number}"}, callback=done)


def load(wall: Wall, callers: int, seconds: float) -> str:
    """Let each caller send one command after another; the next one when the last is acknowledged."""
    took_ms: list[float] = []
    ended = threading.Semaphore(0)
    begun = time.perf_counter()

    def send(number: int) -> None:
        sent = time.perf_counter()

        def done(_: object, failure: int) -> None:
            now = time.perf_counter()
            if not failure:
                took_ms.append((now - sent) * 1e3)
            if now < begun + seconds:
                send(number + callers)
            else:
                ended.release()

        set_value(wall, number, done)

    for caller in range(callers):
        send(caller)
    for _ in range(callers):
        if not ended.acquire(timeout=_DRAIN_S):
            raise SystemExit("a command was never answered")
    return json.dumps({"seconds": time.perf_counter() - begun, "latencies_ms": sorted(took_ms)})


def longest_gap_ms(wall: Wall, seconds: float) -> float:
    """Return the longest pause between acknowledgements. A command that is not answered in time is sent again."""
    ends, acknowledged = time.perf_counter() + seconds, [time.perf_counter()]

    def caller(number: int) -> None:
        while time.perf_counter() < ends:
            answered = threading.Event()

            def done(_: object, failure: int, answered: threading.Event = answered) -> None:
                if not failure:
                    acknowledged.append(time.perf_counter())
                answered.set()

            set_value(wall, number, done)
            answered.wait(_RETRY_S)
            number += _CALLERS

    callers = [threading.Thread(target=caller, args=(number,), daemon=True) for number in range(_CALLERS)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join(seconds + _DRAIN_S)
    times = sorted(acknowledged)
    return max(after - before for before, after in zip(times, [*times[1:], time.perf_counter()], strict=True)) * 1e3


def main() -> None:
    journal, is_synced, tick, patience, own, *others = sys.argv[1:]
    more: dict[str, str | float] = {} if journal == "-" else {"journalFile": journal}
    if is_synced == "synced":
        sync_each_entry()
    if float(patience):
        more |= {"raftMinTimeout": float(patience), "raftMaxTimeout": 2 * float(patience), "appendEntriesPeriod": 0.02}
    wall = Wall(own, others, SyncObjConf(autoTickPeriod=float(tick), connectionRetryTime=0.2, **more))
    for line in sys.stdin:
        word, *numbers = line.split()
        if word == "leads":
            answer = str(int(bool(wall.isReady() and wall._isLeader())))
        elif word == "load":
            answer = load(wall, int(numbers[0]), float(numbers[1]))
        else:
            answer = str(longest_gap_ms(wall, float(numbers[0])))
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
