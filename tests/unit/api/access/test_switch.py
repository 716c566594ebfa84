"""Access control is on or off as the cluster's key says, and never goes off because the key is lost."""

from __future__ import annotations

import asyncio

import aiohttp

from masterd.api.access.switch import AccessSwitch
from masterd.replication.cluster_view import ClusterView
from nodestore.etcd.watch import Event
from nodestore.schema.models import AccessControl
from tests.support.fakes.masterd_parts import KEYS, FakeMasterd, serving


def _control(enabled: bool) -> bytes:
    return AccessControl(enabled=enabled, actor="test", time=0.0).encode()


class _Case:
    def __init__(self, masterd: FakeMasterd, *, required: bool = False) -> None:
        self.view, self.changes = masterd.view, 0
        self.switch = AccessSwitch(self.view, required=required)
        self.switch.on_change = self._note

    def _note(self) -> None:
        self.changes += 1

    def show(self, value: bytes | None) -> bool | None:
        """As if etcd's watch showed this value of the key; whether access control is on then."""
        self.view.show_access_control(Event(KEYS.access_control, value, 1, 1, 0))
        return self.switch.is_on


async def test_the_key_decides() -> None:
    masterd = FakeMasterd()
    case = _Case(masterd)
    assert case.switch.is_on is False
    assert case.show(_control(True)) is True
    assert case.show(_control(False)) is False
    assert case.changes == 2
    await masterd.close()


async def test_a_lost_key_opens_nothing() -> None:
    masterd = FakeMasterd()
    case = _Case(masterd)
    assert case.show(_control(True)) is True
    assert case.show(None) is True
    assert case.show(b"garbage") is True
    assert case.show(_control(False)) is False
    assert case.show(None) is False
    await masterd.close()


async def test_an_unreadable_key_closes() -> None:
    masterd = FakeMasterd()
    case = _Case(masterd)
    assert case.show(b'{"v": 2}') is True
    await masterd.close()


async def test_it_may_be_required() -> None:
    masterd = FakeMasterd()
    case = _Case(masterd, required=True)
    assert case.show(_control(False)) is True
    assert case.changes == 0
    await masterd.close()


async def test_before_etcd_was_read_it_is_unknown() -> None:
    masterd = FakeMasterd()
    unread = ClusterView(masterd.sources.etcd, KEYS)
    switch = AccessSwitch(unread)
    assert switch.is_on is None
    assert not await switch.wait_known(0.01)
    await masterd.close()


async def test_a_request_waits_until_it_is_known() -> None:
    """A masterd that has just started does not refuse requests for that."""
    masterd = FakeMasterd()
    masterd.view.is_access_control_shown = False
    async with serving(masterd) as url, aiohttp.ClientSession() as session:

        def read() -> None:
            masterd.view.is_access_control_shown = True
            masterd.view.notify()

        asyncio.get_running_loop().call_later(0.1, read)
        async with session.get(f"{url}/v1/whoami") as answer:
            assert (answer.status, (await answer.json())["principal"]) == (200, "anyone")
