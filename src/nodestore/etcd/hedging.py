"""Hedging: sends copies of one call to several members, one after another, and returns the first answer.

If a member died with its PC, the call then waits only for the next copy, not for a timeout. Use it only for calls
whose second copy is harmless. This module does not depend on the session: `session` provides the function that sends.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Generic, Protocol, TypeVar

from nodestore.errors import NodectlError, OutcomeUnknown
from nodestore.support.tasks import owned_task

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

EXTRA_COPY_PAUSES_S = (0.1,) * 10
"""Pauses, in seconds, that a caller can append to its own, so that more copies are sent while no member answers."""
_COPY_MIN_S = 0.02
"""With less time left, no further copy is sent."""


class Send(Protocol[T_co]):
    """Sends one copy of the call, to the member at `position` in the order of preference, within `left_s` seconds."""

    def __call__(self, left_s: float, position: int, /) -> Coroutine[Any, Any, T_co]: ...


async def first_answer(
    send: Send[T],
    *,
    timeout_s: float,
    pauses_s: Sequence[float],
    note_answered: Callable[[int], None] = lambda position: None,
) -> T:
    """The first answer to a copy. The first copy is sent at once, each further one after the next pause of `pauses_s`.

    note_answered: called with the position of the copy that was answered, before the other copies are cancelled.
    If every copy failed: OutcomeUnknown if the outcome of any copy is unknown, else the error that came first.
    """
    copies = _Copies(send, time.monotonic() + timeout_s, pauses_s)
    answered: int | None = None
    try:
        while answered is None:
            copies.send_if_due()
            answered = await copies.wait_for_answer()
            if answered is None:
                copies.raise_if_all_failed()
        note_answered(answered)
        return copies.result(answered)
    finally:
        await copies.cancel_all_but(answered)


class _Copies(Generic[T]):
    """The copies of one call, each at its position."""

    def __init__(self, send: Send[T], deadline: float, pauses_s: Sequence[float]) -> None:
        self._send, self._deadline, self._pauses_s = send, deadline, pauses_s
        self._sent: list[asyncio.Task[T]] = []
        self._pending: set[asyncio.Task[T]] = set()
        self._errors: list[NodectlError] = []

    def send_if_due(self) -> None:
        """Send the next copy, unless all were sent or too little time is left. The first copy is always sent."""
        left_s = self._deadline - time.monotonic()
        if self._sent and (left_s <= _COPY_MIN_S or len(self._sent) > len(self._pauses_s)):
            return
        copy = owned_task(self._send(max(left_s, _COPY_MIN_S), len(self._sent)))
        self._sent.append(copy)
        self._pending.add(copy)

    async def wait_for_answer(self) -> int | None:
        """Wait until a copy ends or the next one is due; return the position of a copy that was answered."""
        count = len(self._sent)
        pause_s = self._pauses_s[count - 1] if count <= len(self._pauses_s) else None
        ended, self._pending = await asyncio.wait(self._pending, timeout=pause_s, return_when=asyncio.FIRST_COMPLETED)
        for position, copy in enumerate(self._sent):
            if copy in ended and self._was_answered(copy):
                return position
        return None

    def _was_answered(self, copy: asyncio.Task[T]) -> bool:
        error = copy.exception()
        if isinstance(error, NodectlError):
            self._errors.append(error)
        elif error is not None:
            raise error
        return error is None

    def raise_if_all_failed(self) -> None:
        if not self._pending:
            unknown = (error for error in self._errors if isinstance(error, OutcomeUnknown))
            raise next(unknown, self._errors[0])

    def result(self, position: int) -> T:
        return self._sent[position].result()

    async def cancel_all_but(self, answered: int | None) -> None:
        """Cancel the other copies and await their end. If there are none, the usual case, it does not yield."""
        others = [copy for position, copy in enumerate(self._sent) if position != answered]
        for copy in others:
            copy.cancel()
        if others:
            await asyncio.gather(*others, return_exceptions=True)
