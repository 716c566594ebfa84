"""Fixtures for all tests, and how `async def` tests run: in an event loop of their own, which must end empty."""

from __future__ import annotations

import asyncio
import gc
import inspect
import itertools
import os
from collections.abc import Iterator
from typing import Any

import pytest

from nodestore.schema.keys import Keys
from tests.nightly import skips
from tests.support.etcd_cluster import EtcdCluster, sweep

_ENDING_S = 0.5
_ENDING_TURNS = 50
"""Of the event loop, at least: where the machine is held up, the time is over after one of them."""
_numbers = itertools.count(1)


def pytest_configure(config: pytest.Config) -> None:
    """In CI every skip must be one of the list. The process that distributes the tests sees the reports of all."""
    if os.environ.get(skips.VARIABLE) and not hasattr(config, "workerinput"):
        config.pluginmanager.register(skips.SkipCheck(skips.load()))


def pytest_collection_finish() -> None:
    """Each coroutine test ends with a full collection of garbage: all modules and tests need not be visited again."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs coroutine tests. A task that a test leaves behind fails it: nothing may outlive its owner."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    asyncio.run(_alone(pyfuncitem.obj, arguments))
    return True


async def _alone(test: Any, arguments: dict[str, Any]) -> None:
    troubles: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: troubles.append(context))
    await test(**arguments)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    if left:  # what has been cancelled needs a few turns to end
        _, left = await asyncio.wait(left, timeout=_ENDING_S)
        for _ in range(_ENDING_TURNS if left else 0):
            await asyncio.sleep(0)
        left = {task for task in left if not task.done()}
    gc.collect()  # a future whose exception nobody read complains when it is collected
    assert not left, f"the test left tasks behind: {left}"
    troubles = [context for context in troubles if not _of_an_earlier_loop(context)]
    assert not troubles, f"the event loop complains: {troubles}"


def _of_an_earlier_loop(context: dict[str, Any]) -> bool:
    """grpc has one poller a process and tells it of the loop that was closed with the test before. No program of ours
    has a second loop."""
    return "PollerCompletionQueue" in str(context.get("message")) and "loop is closed" in str(context.get("exception"))


@pytest.fixture(scope="session")
def etcd_one() -> Iterator[EtcdCluster]:
    """One member for the whole run: the fast store of tests that break nothing. Use a prefix of your own."""
    sweep()
    cluster = EtcdCluster(1)
    try:
        yield cluster.start()
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def etcd_three() -> Iterator[EtcdCluster]:
    """Three members for a module. Who kills or pauses one asks for `broken_three` instead."""
    cluster = EtcdCluster(3)
    try:
        yield cluster.start()
    finally:
        cluster.stop()


@pytest.fixture
def broken_three(etcd_three: EtcdCluster) -> Iterator[EtcdCluster]:
    """The module's three members, to be killed and paused: whole again for the next test."""
    yield etcd_three
    etcd_three.mend()
    asyncio.run(etcd_three.wait_healthy())


@pytest.fixture
def keys() -> Keys:
    """Keys of a cluster name that no other test uses."""
    return Keys(f"test-{next(_numbers)}")
