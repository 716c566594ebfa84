"""Runs each test of this folder twice: on a real etcd, and on the fake etcd that other tests use."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator

import pytest

from tests.conformance.stores import Fake, Real, StoreUnderTest
from tests.support.etcd_cluster import EtcdCluster
from tests.support.fakes.clock import VirtualTime


@pytest.fixture(scope="package")
def etcd_undisturbed() -> Iterator[EtcdCluster]:
    """A member for this folder only: these tests count revisions, and expiring leases of other tests would add some."""
    with EtcdCluster(1) as cluster:
        yield cluster


@pytest.fixture(params=["etcd", "fake"])
def store(request: pytest.FixtureRequest) -> StoreUnderTest:
    """The store under test: a real etcd or the fake."""
    if request.param == "fake":
        return Fake()
    return Real(request.getfixturevalue("etcd_undisturbed"))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run the tests on the fake in virtual time."""
    callspec = getattr(pyfuncitem, "callspec", None)
    if callspec is None or callspec.params.get("store") != "fake" or not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}
    with VirtualTime() as world:
        world.run(pyfuncitem.obj(**arguments))
        world.run(asyncio.sleep(1.0))  # cancelled tasks need a few iterations of the loop to end
        left = asyncio.all_tasks(world.loop)
        assert not left, f"the test left tasks behind: {left}"
    assert not world.troubles, f"the event loop complains: {world.troubles}"
    return True
