"""masterd that kills itself at a chosen transaction, as SIGKILL at that moment would.

`python -m tests.faults.cut_masterd` imports everything, then waits for one line of JSON on stdin:
{"argv": [...], "cut": "commit:2:before" | null, "small": bool}. `cut`: it dies before it sends, or after the reply of,
the n-th transaction of a class (see `class_of`). `small`: snapshots of many chunks, retention without pauses, and a
journal that is truncated as far as its snapshots allow.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NoReturn

import masterd.daemon  # noqa: F401 - loaded while this process waits
from masterd import __main__, settings
from masterd.replication import images
from masterd.term.retention import RetentionSettings
from nodestore.etcd.session import Etcd, Op

SMALL_CHUNK_BYTES = 1_000
LOOK_EVERY_S = 0.05


def die() -> NoReturn:
    """End this process at once, without cleanup (SIGKILL, or TerminateProcess)."""
    if sys.platform == "win32":
        ctypes.windll.kernel32.TerminateProcess(ctypes.windll.kernel32.GetCurrentProcess(), 9)
    else:
        os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def class_of(ops: Iterable[Op]) -> str | None:
    """Return the class of a transaction with these operations; None if it only reads, or has no class."""
    puts = {_name(op.request_put.key): op.request_put.value for op in ops if op.HasField("request_put")}
    deletes = {_name(op.request_delete_range.key) for op in ops if op.HasField("request_delete_range")}
    if "leader" in puts:
        return "takeover"
    if "leader" in deletes:
        return "resign"
    if "head" in puts:
        entry = next((value for name, value in puts.items() if name.startswith("journal/")), None)
        if entry is None:
            return "noop"
        return "adopt" if b'"name":"config.adopt"' in entry else "commit"
    if "applied" in puts:
        return "chunk"
    for name in (*puts, *deletes):
        if name.startswith("snapshots/"):
            whole = "manifest" if name.endswith("/manifest") else "snapshot-chunk"
            return "snapshot-delete" if name in deletes else whole
        if name.startswith("journal/"):
            return "truncate"
        if name.startswith("config/"):
            return "config"
        if name == "paused":
            return "resume" if name in deletes else "pause"
    return None


def _name(key: bytes) -> str:
    """Return the key without /nodectl/<cluster>/."""
    return key.decode().split("/", 3)[-1]


class Cut:
    """Counts the transactions of one class, and dies at the n-th."""

    def __init__(self, text: str) -> None:
        self._class, number, self._when = text.split(":")
        self._number = int(number)
        self._seen: Counter[str | None] = Counter()

    def reached(self, kind: str | None) -> bool:
        self._seen[kind] += 1
        return kind == self._class and self._seen[kind] == self._number

    def install(self) -> None:
        txn, by_two = Etcd.txn, Etcd.txn_hedged

        async def cut_txn(etcd: Etcd, compares: Any, then: Sequence[Op] = (), *rest: Any, **more: Any) -> Any:
            return await self._cut(class_of(then), txn, etcd, compares, then, *rest, **more)

        async def cut_by_two(etcd: Etcd, compares: Any, then: Sequence[Op] = (), *rest: Any, **more: Any) -> Any:
            return await self._cut(class_of(then), by_two, etcd, compares, then, *rest, **more)

        Etcd.txn = cut_txn  # type: ignore[method-assign, assignment]
        Etcd.txn_hedged = cut_by_two  # type: ignore[method-assign, assignment]

    async def _cut(self, kind: str | None, call: Any, *arguments: Any, **more: Any) -> Any:
        reached = self.reached(kind)
        if reached and self._when == "before":
            die()
        result = await call(*arguments, **more)
        if reached:
            die()
        return result


def _end_with_parent() -> None:
    """Make this process die with the test run, however that ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def main() -> int:
    _end_with_parent()
    line = sys.stdin.readline()
    if not line:
        return 0  # the test run has ended without using this process
    request = json.loads(line)
    if request["small"]:
        small = partial(RetentionSettings, keep_ids=False, check_every_s=LOOK_EVERY_S)
        vars(settings)["RetentionSettings"] = small
        images.encode_image.__defaults__ = (SMALL_CHUNK_BYTES,)
    if request["cut"] is not None:
        Cut(request["cut"]).install()
    sys.argv[1:] = request["argv"]
    return __main__.main()


if __name__ == "__main__":
    sys.exit(main())
