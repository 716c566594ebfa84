"""A counter service: the smallest application, and the one that shows what exactly-once means.

    masterd --app examples.apps.counter:app ...
    nodectl command counter.add '{"name": "visitors", "by": 1}'

Adding is not idempotent: a command that ran twice would show. A client whose answer was lost repeats it with the same
id and gets the first result; the value does not change. Documents: `counters/<name>` = {"value": n}.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from nodesdk import App, Refused, Transaction

app = App("counter", version="1.0")

CounterName = Annotated[str, Field(min_length=1, max_length=40, pattern=r"^[a-z-]+$")]


@app.command
def add(tx: Transaction, name: CounterName, by: int = 1) -> int:
    """Add to a counter; a new one begins at 0."""
    path = f"counters/{name}"
    value = int((tx.get(path) or {"value": 0})["value"]) + by
    tx.put(path, {"value": value})
    return value


@app.command
def reset(tx: Transaction, name: str) -> int:
    """Set a counter to 0, unless it is 0 already; the value that it had."""
    found = tx.get(f"counters/{name}")
    if found is None or found["value"] == 0:
        raise Refused(f"counter {name!r} is at 0 already")
    tx.put(f"counters/{name}", {"value": 0})
    return int(found["value"])
