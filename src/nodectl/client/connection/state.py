"""The state of the client's connection to the leader.

- `connected`: the known leader has answered, and no request to it has failed since.
- `suspended`: no leader is known, or the last request to it got no answer. This is the initial state.
- `lost`: suspended without interruption for longer than the limit (30 s by default).

The state is for information only: in each state the client goes on trying, and commands keep their own deadlines.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Literal

State = Literal["connected", "suspended", "lost"]

log = logging.getLogger(__name__)

_UNREAD_MAX = 64


class ConnectionState:
    """The state and its subscribers. The constructor must be called in the event loop."""

    def __init__(self, lost_after_s: float) -> None:
        self.value: State = "suspended"
        self.lost_after_s = lost_after_s
        self._callbacks: list[Callable[[State], None]] = []
        self._queues: list[tuple[deque[State], asyncio.Event]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._start_lost_timer()

    @property
    def is_closed(self) -> bool:
        return self._closed

    def mark_connected(self) -> None:
        """Record that the leader has answered."""
        if self.value == "connected":
            return
        self._cancel_lost_timer()
        self._set_value("connected")

    def mark_suspended(self) -> None:
        """Record that there is no leader, or that it did not answer."""
        if self.value == "connected" and not self._closed:
            self._start_lost_timer()
            self._set_value("suspended")

    def close(self) -> None:
        """End all iterations over `changes`; call no callback from now on. Idempotent."""
        self._closed = True
        self._cancel_lost_timer()
        self._callbacks.clear()
        for _, event in self._queues:
            event.set()

    def subscribe(self, callback: Callable[[State], None]) -> Callable[[], None]:
        """Call `callback(state)` in the event loop at each change. Return a function that ends the subscription."""
        self._callbacks.append(callback)

        def stop() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

        return stop

    async def changes(self) -> AsyncIterator[State]:
        """Yield the current state, then each change, until close(). A reader 64 changes behind loses the oldest."""
        unread: deque[State] = deque([self.value], maxlen=_UNREAD_MAX)
        event = asyncio.Event()
        entry = (unread, event)
        self._queues.append(entry)
        try:
            while True:
                while unread:
                    yield unread.popleft()
                if self._closed:
                    return
                event.clear()
                await event.wait()
        finally:
            self._queues.remove(entry)

    def _set_value(self, value: State) -> None:
        self.value = value
        for unread, event in self._queues:
            unread.append(value)
            event.set()
        for callback in tuple(self._callbacks):
            try:
                callback(value)
            except Exception:  # an error in a caller's callback must not end the client
                log.exception("a callback for state changes failed on state %s", value)

    def _start_lost_timer(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self.lost_after_s, self._set_value, "lost")

    def _cancel_lost_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
