"""A probe of the cores' speed: `python -m bench.harness.speed_probe`. It ends when its stdout is closed.

Every 20 ms it does the same work, as a master does it (JSON, many small objects, a socket), and prints the time at
which that ended and the CPU milliseconds that it took. The same work takes up to twice as much CPU time while other
programs empty the caches, or use the other half of a core.
"""

from __future__ import annotations

import json
import socket
import sys
import time

_PAUSE_S = 0.02
_DOCUMENTS = 3_000
_ROUNDS = 60
_STRIDE = 37


def _documents() -> list[dict[str, object]]:
    return [
        {"id": f"{n}-x", "args": {"node": f"n{n}", "values": {"text": f"bench {n}" * 5, "n": [1, 2, 3] * 10}}}
        for n in range(_DOCUMENTS)
    ]


def main() -> None:
    documents, (one, other), at = _documents(), socket.socketpair(), 0
    while True:
        time.sleep(_PAUSE_S)
        begun_s = time.thread_time()
        for _ in range(_ROUNDS):
            at = (at + _STRIDE) % _DOCUMENTS
            one.send(json.dumps(documents[at]).encode())
            documents[at] = json.loads(other.recv(4_096))
        took_ms = (time.thread_time() - begun_s) * 1e3
        sys.stdout.write(f"{time.monotonic():.6f} {took_ms:.4f}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
