"""An event loop in a thread of its own, and calls into it that block the calling thread."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from nodestore.support.tasks import owned_task

T = TypeVar("T")

_POLL_S = 0.2
"""How often a waiting thread wakes up. On Windows a wait without a timeout ignores Ctrl-C."""
_CANCEL_TIMEOUT_S = 2.0
_STOP_TIMEOUT_S = 5.0


class LoopStopped(Exception):
    """The loop was stopped before the call had ended. It may or may not have had an effect."""


class BackgroundLoop:
    """`start`, then `run` from any thread, then `stop`. The thread is a daemon: it does not keep the process alive."""

    def __init__(self, name: str) -> None:
        self._thread = threading.Thread(target=self._run_loop, name=name, daemon=True)
        self._started = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event
        self._unawaited: set[_Call[Any]] = set()  # asyncio itself keeps only weak references to tasks

    def start(self) -> None:
        """Start the thread; return once its loop runs. To be called once."""
        self._thread.start()
        self._started.wait()

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run `work()` in the loop; block until it ends; return its result or raise its error.

        An exception in the calling thread, such as KeyboardInterrupt, cancels the work. Raises LoopStopped if the loop
        is stopped meanwhile, and RuntimeError in the loop's own thread, where blocking would be a deadlock.
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError("this is the thread of the event loop: a callback must not make a blocking call")
        call = _Call(work)
        try:
            self._post(lambda: self._begin(call))
            while not call.ended.wait(_POLL_S):
                if not self._thread.is_alive():
                    raise LoopStopped
        except BaseException:
            self._cancel(call)
            raise
        return call.result()

    def start_task(self, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Run `work()` in the loop without waiting for it; no effect once the loop is stopped."""
        call = _Call(work)

        def begin() -> None:
            self._unawaited.add(call)
            self._begin(call, lambda: self._unawaited.discard(call))

        with contextlib.suppress(LoopStopped):
            self._post(begin)

    def stop(self) -> None:
        """Cancel what runs and end the thread, waiting at most 5 s. Idempotent."""
        try:
            self._post(self._set_stopping)
        except LoopStopped:
            return
        if threading.current_thread() is not self._thread:
            self._thread.join(_STOP_TIMEOUT_S)

    def _run_loop(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        self._started.set()
        await self._stopping.wait()

    def _set_stopping(self) -> None:
        self._stopping.set()

    def _begin(self, call: _Call[Any], on_end: Callable[[], None] = lambda: None) -> None:
        if not self._stopping.is_set():  # else the task would stay pending; `run` notices that the thread ended
            call.begin(on_end)

    def _post(self, callback: Callable[[], None]) -> None:
        try:
            if self._loop is None:
                raise LoopStopped
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:  # the loop is closed
            raise LoopStopped from None

    def _cancel(self, call: _Call[Any]) -> None:
        """Cancel a call and wait up to 2 s for its end, so that it releases what it holds before the next call."""
        try:
            self._post(call.cancel)
        except LoopStopped:
            return
        call.ended.wait(_CANCEL_TIMEOUT_S)


class _Call(Generic[T]):
    """One call. `begin` and `cancel` run in the loop; `ended` and `result` are for the calling thread."""

    def __init__(self, work: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._work = work
        self._task: asyncio.Task[T] | None = None
        self.ended = threading.Event()

    def begin(self, on_end: Callable[[], None]) -> None:
        self._task = owned_task(self._work())
        self._task.add_done_callback(lambda _: on_end())
        self._task.add_done_callback(lambda _: self.ended.set())

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def result(self) -> T:
        assert self._task is not None
        if self._task.cancelled():
            raise LoopStopped
        return self._task.result()
