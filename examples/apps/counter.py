"""A counter service: the smallest application, and the one that shows what exactly-once means.

    masterd --app examples.apps.counter:CounterApp ...
    nodectl command counter.add '{"name": "visitors", "by": 1}'

Adding is not idempotent: a command that ran twice would be seen. A client whose answer was lost repeats it with the
same id and gets the first result; the value does not change.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, Field

from masterd.app import Command, Transaction, View
from nodestore.errors import Refused
from nodestore.models import Inventory, Spec


class Add(BaseModel):
    """Add to a counter; a new one begins at 0."""

    name: str = Field(min_length=1, max_length=40, pattern=r"^[a-z-]+$")
    by: int = 1


class Reset(BaseModel):
    """Set a counter to 0, unless it is there already."""

    name: str


class CounterApp:
    """Documents `counters/<name>` = {"value": n}. It has nothing for nodes to do."""

    name = "counter"

    def commands(self) -> Mapping[str, Command]:
        return {
            "counter.add": Command(Add, self._add, "add to a counter"),
            "counter.reset": Command(Reset, self._reset, "set a counter to 0"),
        }

    def desired(self, config: Inventory, view: View, node: str) -> Spec | None:
        return None

    def _add(self, transaction: Transaction, args: Add) -> int:
        path = f"counters/{args.name}"
        value = int((transaction.get(path) or {"value": 0})["value"]) + args.by
        transaction.put(path, {"value": value})
        return value

    def _reset(self, transaction: Transaction, args: Reset) -> int:
        found = transaction.get(f"counters/{args.name}")
        if found is None or found["value"] == 0:
            raise Refused(f"counter {args.name!r} is at 0 already")
        transaction.put(f"counters/{args.name}", {"value": 0})
        return int(found["value"])
