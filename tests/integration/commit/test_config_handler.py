"""What an application writes at a change of the configuration: once, with the adoption, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from masterd.state_machine.batch import CommandRequest
from masterd.term.leader import LeaderSettings
from nodesdk import App, ConfigChange, Inventory, Spec, Transaction, View
from nodestore.errors import LeadershipLost
from nodestore.etcd.session import Etcd
from nodestore.schema.keys import Keys
from nodestore.schema.models import CommandRecord, Entry, decode
from tests.faults.late.transactions import RunningLeader, configure, run_leader, session, stage, take_over, wait_shown
from tests.support.etcd_cluster import EtcdCluster
from tests.support.toy_app import inventory
from tests.support.waiting import eventually

_QUICK = LeaderSettings(handler_timeout_s=0.3)


def counting(hook: Callable[[], object] = lambda: None) -> App:
    """It counts how often each node was added, and every node shows the counts; `hook` runs in the handler."""
    app = App("counting")

    @app.desired
    def desired(config: Inventory, view: View, node: str) -> Spec | None:
        return Spec(driver="toy", document=view.get("added") or {})

    @app.on_config_change
    def changed(tx: Transaction, change: ConfigChange) -> None:
        counts = tx.get("added") or {}
        tx.put("added", {**counts, **{node: counts.get(node, 0) + 1 for node in change.added}})
        hook()

    @app.command
    def ping(tx: Transaction) -> str:
        tx.put("ping", {})
        return "pong"

    return app


@asynccontextmanager
async def leading(
    etcd: Etcd, witness: Etcd, keys: Keys, name: str = "m1", **options: Any
) -> AsyncIterator[RunningLeader]:
    """A leader that watches the configuration."""
    async with run_leader(etcd, witness, keys, name, **options) as seat:
        watching = asyncio.create_task(seat.cluster_view.watch())
        try:
            yield seat
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


async def _adopted(seat: RunningLeader, version: int) -> None:
    await eventually(lambda: _version(seat) == version, f"version {version} is adopted")


def _version(seat: RunningLeader) -> int | None:
    adopted = seat.replica.state.adopted
    return None if adopted is None else adopted.record.version


async def _records(etcd: Etcd, keys: Keys) -> list[CommandRecord]:
    found = (await etcd.range(keys.journal)).kvs
    return [record for kv in found for record in decode(Entry, kv.value, kv.key).commands]


async def test_its_writes_are_one_entry_with_the_adoption(etcd_one: EtcdCluster, keys: Keys) -> None:
    """The views follow; a new leader finds it adopted and does not run the handler again."""
    async with session(etcd_one) as etcd:
        await configure(etcd, keys, inventory("n1"))
        async with leading(etcd, etcd, keys, application=counting()) as seat:
            await _adopted(seat, 1)
            await configure(etcd, keys, inventory("n1", "n2"), version=2)
            await _adopted(seat, 2)
            await wait_shown(etcd, keys, {"n1": {"n1": 1, "n2": 1}, "n2": {"n1": 1, "n2": 1}})
        async with leading(etcd, etcd, keys, "m2", application=counting()) as seat:
            assert seat.replica.state.documents["added"].value == {"n1": 1, "n2": 1}
        records = await _records(etcd, keys)
        assert [(record.index, record.writes) for record in records if record.config is not None] == [
            (1, {"added": {"n1": 1}}), (2, {"added": {"n1": 1, "n2": 1}}),
        ]  # fmt: skip
        assert len(records) == 2


async def test_a_takeover_before_the_entry_lands_repeats_the_handler_and_not_its_writes(
    etcd_one: EtcdCluster, keys: Keys
) -> None:
    """The deposed leader's entry is fenced off; the new leader's counts once."""
    async with stage(etcd_one, keys, repeats_arrive=False) as s:
        async with leading(s.late, s.witness, keys, application=counting()) as seat:
            s.late.hold_next()
            await configure(s.witness, keys, inventory("n1"))
            await s.held()
            won = await take_over(s.witness, keys, "m2")
            await s.deliver()
            assert isinstance(await seat.ended(), LeadershipLost)
        assert await s.entries() == []
        async with leading(s.witness, s.witness, keys, "m2", application=counting(), won=won) as seat:
            await _adopted(seat, 1)
            assert seat.replica.state.documents["added"].value == {"n1": 1}


def _raise() -> None:
    raise ZeroDivisionError("as asked")


def _spin() -> None:
    while True:
        pass


@pytest.mark.parametrize(("hook", "logged"), [(_raise, "as asked"), (_spin, "did not finish within 0.3 s")])
async def test_a_handler_that_raises_or_hangs_does_not_keep_a_configuration_back(
    etcd_one: EtcdCluster, keys: Keys, caplog: pytest.LogCaptureFixture, hook: Callable[[], object], logged: str
) -> None:
    """The configuration is adopted without the handler's writes, the error is logged, and the term continues."""
    async with session(etcd_one) as etcd:
        await configure(etcd, keys, inventory("n1"))
        async with leading(etcd, etcd, keys, application=counting(hook), settings=_QUICK) as seat:
            await _adopted(seat, 1)
            assert seat.leader.config_rejection is None
            assert seat.replica.state.documents == {}
            assert (await seat.submit(CommandRequest("ping", "counting.ping", {}, "tester")))[0].result == "pong"
    assert logged in caplog.text


async def test_writes_that_do_not_fit_into_the_entry_are_left_out(
    etcd_one: EtcdCluster, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    """The configuration is adopted without them, and the log names the reason."""
    app = App("large")

    @app.on_config_change
    def changed(tx: Transaction, change: ConfigChange) -> None:
        for number in range(2):
            tx.put(f"large/{number}", {"x": "x" * (1 << 20)})

    async with session(etcd_one) as etcd:
        await configure(etcd, keys, inventory("n1"))
        async with leading(etcd, etcd, keys, application=app) as seat:
            await _adopted(seat, 1)
            assert seat.leader.config_rejection is None
            assert seat.replica.state.documents == {}
    assert "configuration version 1: adopting it without the writes of the application" in caplog.text


async def test_a_configuration_that_is_refused_runs_no_handler(etcd_one: EtcdCluster, keys: Keys) -> None:
    """Nor does it leave any writes."""
    ran: list[int] = []
    async with session(etcd_one) as etcd:
        await configure(etcd, keys, inventory("n1"))
        async with leading(etcd, etcd, keys, application=counting(lambda: ran.append(1))) as seat:
            await _adopted(seat, 1)
            await etcd.put(
                keys.config_current, b'{"version":2,"actor":"a","time":0,"inventory":{"nodes":{"../up":{}}}}'
            )
            await eventually(lambda: seat.leader.config_rejection is not None, "it is rejected")
    assert (ran, len(await _records_of(etcd_one, keys))) == ([1], 1)


async def _records_of(cluster: EtcdCluster, keys: Keys) -> list[CommandRecord]:
    async with session(cluster) as etcd:
        return await _records(etcd, keys)
