"""Records that a term is over, and why, for all parts of the term."""

from __future__ import annotations

import asyncio

from nodestore.errors import LeadershipLost


class TermEnd:
    """The known end of one term. `wake` is set when the end becomes known."""

    def __init__(self, wake: asyncio.Event) -> None:
        self._wake = wake
        self.reason: LeadershipLost | None = None
        """Why the term is over; None while it is not known to be over."""

    def mark(self, error: LeadershipLost) -> None:
        """Record that the term is over. Only the first reason is kept.

        Call this before any caller gets the error, so that its retry is routed to the next leader.
        """
        self.reason = self.reason or error
        self._wake.set()

    def close(self, error: LeadershipLost) -> None:
        """Record that this leader has stopped. This replaces an earlier reason."""
        self.reason = error

    def raise_if_ended(self) -> None:
        """Raise LeadershipLost if the term is known to be over."""
        if self.reason is not None:
            raise LeadershipLost(str(self.reason))  # a new one for each caller: an exception collects tracebacks
