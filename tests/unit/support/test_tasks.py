"""Tasks that end together without losing a cancellation, and cancelled tasks that are awaited later."""

from __future__ import annotations

import asyncio

import pytest

from nodestore.support.tasks import CancelledTasks, background_task, owned_task, run_until_first_ends


async def _for_ever() -> None:
    await asyncio.Event().wait()


async def _fails() -> None:
    raise ValueError("broken")


async def test_the_first_failure_ends_all_and_is_raised() -> None:
    with pytest.raises(ValueError, match="broken"):
        await run_until_first_ends(one=_for_ever(), two=_fails())


async def test_a_task_that_ends_ends_all() -> None:
    await run_until_first_ends(one=_for_ever(), two=asyncio.sleep(0))


async def test_cancellation_wins_over_a_failure_in_the_same_moment() -> None:
    """The owner is cancelled in the turn of the loop in which one of its tasks fails."""
    failing = asyncio.Event()

    async def fails() -> None:
        await failing.wait()
        raise ValueError("broken")

    owner = asyncio.create_task(run_until_first_ends(one=_for_ever(), two=fails()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    failing.set()
    for _ in range(2):
        await asyncio.sleep(0)
    owner.cancel()
    with pytest.raises(asyncio.CancelledError):
        await owner


async def test_cancellation_wins_over_what_the_cancelled_tasks_raise() -> None:
    async def rude() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("while ending")

    owner = asyncio.create_task(run_until_first_ends(one=rude(), two=_for_ever()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    owner.cancel()
    with pytest.raises(asyncio.CancelledError):
        await owner


async def test_the_owner_can_go_on_after_a_failure() -> None:
    """Its count of cancellations is untouched, so that timeouts and groups work in it afterwards."""
    with pytest.raises(ValueError, match="broken"):
        await run_until_first_ends(one=_fails(), two=_for_ever())
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_who_retires_a_task_need_not_wait_for_its_end() -> None:
    """The task is cancelled at once. A later call waits for its cleanup, and ignores its failure."""
    tidy, ended = asyncio.Event(), asyncio.Event()

    async def works() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await tidy.wait()
            ended.set()
            raise ValueError("broken while tidying up")

    retired, task = CancelledTasks(), asyncio.create_task(works())
    await asyncio.sleep(0)
    retired.cancel(task)
    gone = asyncio.create_task(retired.wait_ended())
    await asyncio.sleep(0)
    assert not gone.done()
    tidy.set()
    await gone
    assert ended.is_set()
    await retired.wait_ended()


async def test_a_background_task_that_fails_is_logged_at_once(caplog: pytest.LogCaptureFixture) -> None:
    ended = asyncio.Event()
    task = background_task(_fails(), name="the failing one", on_end=ended.set)
    await asyncio.wait({task})
    await asyncio.sleep(0)
    assert "the failing one" in caplog.text
    assert ended.is_set()


async def test_the_end_of_an_eternal_task_is_logged_even_without_an_error(caplog: pytest.LogCaptureFixture) -> None:
    task = background_task(asyncio.sleep(0), name="the watch", eternal=True)
    await task
    await asyncio.sleep(0)
    assert "the watch" in caplog.text


async def test_a_cancelled_background_task_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    task = background_task(_for_ever(), name="the watch", eternal=True)
    task.cancel()
    await asyncio.wait({task})
    await asyncio.sleep(0)
    assert caplog.text == ""


async def test_a_task_that_had_failed_before_it_was_retired_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    retired, task = CancelledTasks(), owned_task(_fails(), name="the failing one")
    await asyncio.wait({task})
    retired.cancel(task)
    await retired.wait_ended()
    await asyncio.sleep(0)
    assert "the failing one" in caplog.text
