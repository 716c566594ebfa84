"""Hedging: sends copies of one call to several members, one after another, and returns the first answer.

If a member died with its PC, the call then waits only for the next copy, not for a timeout. Use it only for calls
whose second copy is harmless. This module does not depend on the session: `session` provides the function that sends.

The first copy runs in the caller's task, so for a call that is answered in time, hedging costs one timer. A further
copy runs in a task of its own. If it is answered first, it interrupts the caller in the way of asyncio.timeout: it
cancels the caller's task, and the caller takes this cancellation back. If the caller is also cancelled by its owner, or
by a timeout around the call, the task's count of cancellations stays above what it was before, and the cancellation is
raised.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Generic, Protocol, TypeVar

from nodestore.errors import NodectlError, OutcomeUnknown
from nodestore.etcd.shared_timer import Cancellable
from nodestore.support.tasks import owned_task

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

EXTRA_COPY_PAUSES_S = (0.1,) * 10
"""Pauses, in seconds, that a caller can append to its own, so that more copies are sent while no member answers."""
_COPY_MIN_S = 0.02
"""With less time left, no further copy is sent."""


CallLater = Callable[[float, Callable[[], None]], Cancellable]
"""Calls a function after so many seconds, as the method of an event loop or of a SharedTimer."""


class Send(Protocol[T_co]):
    """Sends one copy of the call, to the member at `position` in the order of preference, within `left_s` seconds."""

    def __call__(self, left_s: float, position: int, /) -> Coroutine[Any, Any, T_co]: ...


async def first_answer(
    send: Send[T],
    *,
    timeout_s: float,
    pauses_s: Sequence[float],
    note_answered: Callable[[int], None] = lambda position: None,
    call_later: CallLater | None = None,
) -> T:
    """The first answer to a copy. The first copy is sent at once, each further one after the next pause of `pauses_s`.

    note_answered: called with the position of the copy that was answered, before the other copies are cancelled.
    call_later: measures the pauses; by default the event loop.
    If every copy failed: OutcomeUnknown if the outcome of any copy is unknown, else the error that came first.
    """
    call_later = call_later or asyncio.get_running_loop().call_later
    further = _FurtherCopies(send, time.monotonic() + timeout_s, pauses_s, call_later)
    try:
        position, answer = await further.await_with_first(send(timeout_s, 0))
        note_answered(position)
        return answer
    finally:
        await further.cancel()


class _FurtherCopies(Generic[T]):
    """The copies of one call after the first one, which the task that makes this object awaits itself."""

    def __init__(self, send: Send[T], deadline: float, pauses_s: Sequence[float], call_later: CallLater) -> None:
        self._send, self._deadline, self._pauses_s, self._call_later = send, deadline, pauses_s, call_later
        self._sent: list[asyncio.Task[T]] = []
        self._pending = 0
        self._errors: list[NodectlError] = []
        """Of all copies, the first one included, in the order in which they failed."""
        self._decided: asyncio.Future[asyncio.Task[T] | None] = asyncio.get_running_loop().create_future()
        """The further copy that ended the call: it was answered, or failed by a defect. None if every copy failed."""
        self._awaiting_first: asyncio.Task[Any] | None = asyncio.current_task()
        """The caller's task; None once it no longer awaits the first copy."""
        self._is_interrupted = False
        self._timer: Cancellable | None = None
        self._arm_timer()

    async def await_with_first(self, first: Coroutine[Any, Any, T]) -> tuple[int, T]:
        """The position and the answer of the copy that is answered first, `first` or a further one."""
        caller = self._awaiting_first
        assert caller is not None
        cancellations = caller.cancelling()
        try:
            answer = await first
        except NodectlError as error:
            self._stop_interrupting(caller)
            self._note_failure(error)
        except asyncio.CancelledError:
            if not self._is_interrupted or self._stop_interrupting(caller) > cancellations:
                raise
        else:
            self._stop_interrupting(caller)
            return 0, answer
        decisive = await self._decided
        if decisive is None:
            raise self._error()
        return 1 + self._sent.index(decisive), decisive.result()

    def _stop_interrupting(self, caller: asyncio.Task[Any]) -> int:
        """The first copy has ended. Return how often the caller was cancelled, not counting an interruption."""
        self._awaiting_first = None
        return caller.uncancel() if self._is_interrupted else caller.cancelling()

    def _arm_timer(self) -> None:
        if len(self._sent) < len(self._pauses_s):
            self._timer = self._call_later(self._pauses_s[len(self._sent)], self._send_next)

    def _send_next(self) -> None:
        """Send the next copy, unless all were sent or too little time is left."""
        self._cancel_timer()
        left_s = self._deadline - time.monotonic()
        if left_s <= _COPY_MIN_S or len(self._sent) >= len(self._pauses_s):
            return
        copy = owned_task(self._send(left_s, 1 + len(self._sent)))
        self._sent.append(copy)
        self._pending += 1
        copy.add_done_callback(self._on_end)
        self._arm_timer()

    def _on_end(self, copy: asyncio.Task[T]) -> None:
        self._pending -= 1
        if self._decided.done():
            return
        error = None if copy.cancelled() else copy.exception()
        if isinstance(error, NodectlError):
            self._note_failure(error)
        else:
            self._decided.set_result(copy)
            if self._awaiting_first is not None:
                self._is_interrupted = True
                self._awaiting_first.cancel()

    def _note_failure(self, error: NodectlError) -> None:
        """Send the next copy at once, if another copy is pending. If none is, every copy has failed."""
        self._errors.append(error)
        if self._decided.done():
            return
        if self._pending or self._awaiting_first is not None:
            self._send_next()
        else:
            self._decided.set_result(None)

    def _error(self) -> NodectlError:
        unknown = (error for error in self._errors if isinstance(error, OutcomeUnknown))
        return next(unknown, self._errors[0])

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    async def cancel(self) -> None:
        """Cancel the copies that have not ended, and await their end. If none was sent, it does not yield."""
        self._cancel_timer()
        self._decided.cancel()
        for copy in self._sent:
            copy.cancel()
        if self._sent:
            await asyncio.gather(*self._sent, return_exceptions=True)
