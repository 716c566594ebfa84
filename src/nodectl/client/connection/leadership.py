"""The newest leader known, shared by everything in a client that needs one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nodestore.errors import NodectlError
from nodestore.schema.models import Term
from nodestore.support.waiting import set_within


@dataclass(frozen=True, slots=True)
class Leader:
    """Who leads. `term` orders leaders; `cause` and `why` are the takeover's reason, as a code and in words."""

    id: str
    host: str
    urls: tuple[str, ...]
    term: Term
    since: float = 0.0
    why: str = ""
    cause: str = ""

    @property
    def handed_over(self) -> bool:
        """Whether the leader before gave way of its own will."""
        return self.cause in {"resigned", "switchover"}

    @property
    def url(self) -> str:
        return self.urls[0]

    @classmethod
    def from_wire(cls, data: Mapping[str, Any]) -> Leader:
        """From an answer of GET /v1/leader; KeyError, TypeError or ValueError when it is not one."""
        term = Term(int(data["term"]["epoch"]), int(data["term"]["revision"]))
        urls = tuple(data.get("urls") or ()) or (data["url"],)
        more = (data.get("since", 0.0), data.get("why", ""), data.get("cause", ""))
        return cls(data["id"], data.get("host", ""), urls, term, *more)


class Leadership:
    """Written by discovery, read by everybody else. Terms only grow; nobody hears of the same term twice."""

    def __init__(self) -> None:
        self.leader: Leader | None = None
        self.newest_leader: Leader | None = None  # also after it has gone
        self.refusal: NodectlError | None = None  # why discovery may not even look
        self.has_answer = False  # whether discovery has had any answer yet
        self.trouble = ""  # what discovery met last, for messages
        self._doubted_term: Term | None = None
        self._changed = asyncio.Event()
        self._doubt_raised = asyncio.Event()
        self._hint: str | None = None
        self._listeners: list[Callable[[], None]] = []

    def publish(self, leader: Leader | None) -> None:
        """`leader` is what discovery sees now; None when nobody leads. An older term than known is ignored."""
        self.refusal = None
        if leader is not None:
            if self.newest_leader is not None and leader.term < self.newest_leader.term:
                return
            self.newest_leader = leader
        if leader != self.leader or not self.has_answer:
            self.leader = leader
            self.has_answer = True
            self._notify()

    def set_refusal(self, error: NodectlError) -> None:
        """Discovery is not let in: everybody who waits should hear it rather than wait."""
        self.refusal = error
        self._notify()

    def subscribe(self, callback: Callable[[], None]) -> None:
        """`callback` is called, in the event loop, after each change."""
        self._listeners.append(callback)

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
        for callback in self._listeners:
            callback()

    async def wait_changed(self, timeout_s: float | None = None) -> bool:
        """Waits for the next change; False when `timeout_s` passed without one."""
        return await set_within(self._changed, timeout_s)

    @property
    def is_doubtful(self) -> bool:
        """Whether somebody should be looking for a (newer) leader now."""
        return self.leader is None or self.leader.term == self._doubted_term

    def mark_doubtful(self, hint: str | None = None) -> None:
        """Somebody could not use the leader: look for a newer one, at `hint` (a URL) first."""
        self._doubted_term = self.newest_leader.term if self.newest_leader is not None else None
        self._hint = hint or self._hint
        self._doubt_raised.set()

    def clear_doubt(self) -> None:
        """The leader has answered."""
        self._doubted_term = None

    async def wait_for_doubt(self, timeout_s: float) -> None:
        """For discovery: returns when somebody suspects the leader, or after `timeout_s`."""
        if await set_within(self._doubt_raised, timeout_s):
            self._doubt_raised.clear()

    def take_hint(self) -> tuple[str, ...]:
        hint, self._hint = self._hint, None
        return (hint,) if hint else ()
