"""The newest known leader, shared by the parts of a client."""

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
    """A leader: the master `id` on `host`, which serves the API at `urls`.

    `term` orders leaders. `since`: when the term began, as seconds since 1970. `cause` and `why`: the reason of its
    takeover, as a code and in words.
    """

    id: str
    host: str
    urls: tuple[str, ...]
    term: Term
    since: float = 0.0
    why: str = ""
    cause: str = ""

    @property
    def handed_over(self) -> bool:
        """Whether the previous leader gave up leadership itself, by resignation or switchover."""
        return self.cause in {"resigned", "switchover"}

    @property
    def url(self) -> str:
        """The preferred one of `urls`."""
        return self.urls[0]

    @classmethod
    def from_wire(cls, data: Mapping[str, Any]) -> Leader:
        """Return the leader in an answer of GET /v1/leader. Raises KeyError, TypeError or ValueError for other data."""
        term = Term(int(data["term"]["epoch"]), int(data["term"]["revision"]))
        urls = tuple(data.get("urls") or ()) or (data["url"],)
        more = (data.get("since", 0.0), data.get("why", ""), data.get("cause", ""))
        return cls(data["id"], data.get("host", ""), urls, term, *more)


class Leadership:
    """The known leader, written by discovery. Its term only grows. Listeners are notified of each change."""

    def __init__(self) -> None:
        self.leader: Leader | None = None
        self.newest_leader: Leader | None = None  # of the newest term; kept after its key was deleted
        self.refusal: NodectlError | None = None  # why discovery was denied access
        self.has_answer = False  # whether discovery has published anything yet
        self.trouble = ""  # the last error of discovery, for messages
        self._doubted_term: Term | None = None
        self._changed = asyncio.Event()
        self._doubt_raised = asyncio.Event()
        self._hint: str | None = None
        self._listeners: list[Callable[[], None]] = []

    def publish(self, leader: Leader | None) -> None:
        """Set the current leader (None: there is none). A leader of an older term than the known one is ignored."""
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
        """Record that discovery was denied access, and notify: callers that wait for a leader then fail at once."""
        self.refusal = error
        self._notify()

    def subscribe(self, callback: Callable[[], None]) -> None:
        """Call `callback` in the event loop after each change."""
        self._listeners.append(callback)

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
        for callback in self._listeners:
            callback()

    async def wait_changed(self, timeout_s: float | None = None) -> bool:
        """Wait for the next change; return False if none came within `timeout_s` seconds."""
        return await set_within(self._changed, timeout_s)

    @property
    def is_doubtful(self) -> bool:
        """Whether discovery should look for a newer leader now."""
        return self.leader is None or self.leader.term == self._doubted_term

    def mark_doubtful(self, hint: str | None = None) -> None:
        """Report that the leader could not be used: discovery then looks for a newer one, at `hint` (a URL) first."""
        self._doubted_term = self.newest_leader.term if self.newest_leader is not None else None
        self._hint = hint or self._hint
        self._doubt_raised.set()

    def clear_doubt(self) -> None:
        """Report that the leader has answered."""
        self._doubted_term = None

    async def wait_for_doubt(self, timeout_s: float) -> None:
        """Wait until the leader is marked doubtful, for at most `timeout_s` seconds. For discovery."""
        if await set_within(self._doubt_raised, timeout_s):
            self._doubt_raised.clear()

    def take_hint(self) -> tuple[str, ...]:
        """Return the hinted URL, if there is one, and forget it."""
        hint, self._hint = self._hint, None
        return (hint,) if hint else ()
