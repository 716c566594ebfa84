"""Each test of this folder runs twice: on a real etcd, and on the fake that other tests put in its place."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator

import pytest

from tests.conformance.ground import Fake, Ground, Real
from tests.support.etcd_cluster import EtcdCluster
from tests.support.fakes.clock import VirtualTime


@pytest.fixture(scope="package")
def etcd_undisturbed() -> Iterator[EtcdCluster]:
    """One member for this folder alone: here revisions are counted, and elsewhere leases run out."""
    with EtcdCluster(1) as cluster:
        yield cluster


@pytest.fixture(params=["etcd", "fake"])
def ground(request: pytest.FixtureRequest) -> Ground:
    """The store under test, which behaves the same whichever it is."""
    if request.param == "fake":
        return Fake()
    return Real(request.getfixturevalue("etcd_undisturbed"))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """On the fake no time is waited out: its tests run in virtual time."""
    callspec = getattr(pyfuncitem, "callspec", None)
    if callspec is None or callspec.params.get("ground") != "fake" or not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}
    with VirtualTime() as world:
        world.run(pyfuncitem.obj(**arguments))
        world.run(asyncio.sleep(1.0))  # what has been cancelled needs a few turns to end
        left = asyncio.all_tasks(world.loop)
        assert not left, f"the test left tasks behind: {left}"
    assert not world.troubles, f"the event loop complains: {world.troubles}"
    return True
