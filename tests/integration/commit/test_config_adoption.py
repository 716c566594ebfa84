"""Adoption of configurations that change meanwhile, whose write arrives late or loses its reply, or that are
garbage."""

from __future__ import annotations

from typing import Any

import pytest

from nodestore.cluster.election import ensure_epoch
from nodestore.errors import (
    LeadershipLost,
)
from nodestore.etcd.session import Etcd
from nodestore.schema.keys import Keys
from nodestore.schema.models import CommandRecord, ConfigRecord, Entry, Head, Inventory, Spec, decode
from tests.faults.late.transactions import RunningLeader, configure, run_leader, session, stage, take_over, wait_shown
from tests.support.etcd_cluster import EtcdCluster
from tests.support.toy_app import ToyApp, inventory
from tests.support.waiting import eventually


async def show_config(term: RunningLeader, etcd: Etcd, keys: Keys) -> None:
    """Pass the current configuration to the cluster view, as the leader's watch would."""
    term.cluster_view.config = await etcd.get(keys.config_current)
    term.cluster_view.notify()


async def adopted(term: RunningLeader, version: int) -> None:
    await eventually(lambda: _version(term) == version, f"version {version} is adopted")


def _version(term: RunningLeader) -> int | None:
    state = term.replica.state
    return state.adopted.record.version if state.adopted else None


async def test_a_configuration_that_changes_while_it_is_adopted(etcd_one: EtcdCluster, keys: Keys) -> None:
    """The entry for the older version fails.

    The newer one is read and adopted at once, without waiting for the watch, and the specs are derived from it.
    """
    async with session(etcd_one) as etcd:
        await configure(etcd, keys)
        async with run_leader(etcd, etcd, keys) as term:
            await term.put("nodes/n1", x=1)
            await configure(etcd, keys, inventory("n1", colour="red"), version=2)
            old = await etcd.get(keys.config_current)
            await configure(etcd, keys, inventory("n1", colour="blue"), version=3)
            term.cluster_view.config = old
            term.cluster_view.notify()
            await adopted(term, 3)
            names = [record.id for kv in (await etcd.range(keys.journal)).kvs
                     for record in decode(Entry, kv.value, kv.key).commands if record.config is not None]  # fmt: skip
            assert len(names) == 2
            await wait_shown(etcd, keys, {"n1": {"colour": "blue", "x": 1}})


async def test_an_adoption_whose_reply_is_lost(etcd_one: EtcdCluster, keys: Keys) -> None:
    """The configuration is adopted once, recognised by the nonce in `head`, and not reported as rejected."""
    async with stage(etcd_one, keys, repeats_arrive=True) as s, run_leader(s.late, s.witness, keys) as term:
        await configure(s.witness, keys)
        s.late.lose_next_reply()
        await show_config(term, s.witness, keys)
        await adopted(term, 1)
        assert term.leader.config_rejection is None
        await s.once(1)
        assert (await term.put("nodes/n1", x=1)).index == 2


async def test_an_adoption_held_back_until_the_leader_was_replaced(etcd_one: EtcdCluster, keys: Keys) -> None:
    """The late transaction fails: the configuration is not adopted by the deposed leader."""
    async with stage(etcd_one, keys, repeats_arrive=False) as s, run_leader(s.late, s.witness, keys) as term:
        await configure(s.witness, keys)
        s.late.hold_next()
        await show_config(term, s.witness, keys)
        await s.held()
        await take_over(s.witness, keys, "m2")
        await s.deliver()
        assert isinstance(await term.ended(), LeadershipLost)
        assert await s.entries() == []


@pytest.mark.parametrize(
    "garbage",
    [
        pytest.param(b"not json", id="no JSON"),
        pytest.param(b'{"v":2,"version":2,"actor":"a","time":0,"inventory":{}}', id="newer schema"),
        pytest.param(b'{"version":2,"actor":"a","time":0,"inventory":{"nodes":{"n1":{"position":1}}}}', id="invalid"),
        pytest.param(
            b'{"version":2,"actor":"a","time":0,"inventory":{"nodes":{"n1":{"document":{"x":NaN}}}}}', id="NaN"
        ),
        pytest.param(
            b'{"version":2,"actor":"a","time":0,"inventory":{},"deep":' + b"[" * 190 + b"]" * 190 + b"}", id="too deep"
        ),
        pytest.param(
            b'{"version":2,"actor":"a","time":0,"inventory":{"nodes":{"n1":{}},"defaults":{"document":{"fail":1}}}}',
            id="the application fails",
        ),
        pytest.param(b'{"version":2,"actor":"a","time":0,"inventory":{"nodes":{"../up":{}}}}', id="a node's name"),
        pytest.param(b'{"version":2,"actor":"a","time":0,"inventory":{"masters":{"a/b":{}}}}', id="a master's name"),
    ],
)
async def test_garbage_leaves_the_last_configuration_in_force(
    etcd_one: EtcdCluster, keys: Keys, garbage: bytes
) -> None:
    """Garbage is reported as rejected and commands go on.

    The next valid version is adopted. A new leader handles the garbage in the same way.
    """

    class Failing(ToyApp):
        def desired(self, config: Inventory, view: Any, node: str) -> Spec | None:
            if "fail" in config.defaults.document:
                raise KeyError("fail")
            return super().desired(config, view, node)

    async with session(etcd_one) as etcd:
        await configure(etcd, keys)
        async with run_leader(etcd, etcd, keys, application=Failing()) as term:
            await etcd.put(keys.config_current, garbage)
            await show_config(term, etcd, keys)
            await eventually(lambda: term.leader.config_rejection is not None, "it is rejected")
            await term.put("nodes/n1", x=1)
            assert _version(term) == 1
        async with run_leader(etcd, etcd, keys, "m2", application=Failing()) as term:
            assert term.leader.config_rejection is not None
            assert _version(term) == 1
            await configure(etcd, keys, inventory("n1", colour="blue"), version=3)
            await show_config(term, etcd, keys)
            await adopted(term, 3)
            assert term.leader.config_rejection is None
            await wait_shown(etcd, keys, {"n1": {"colour": "blue", "x": 1}})


async def test_names_that_an_earlier_release_adopted(etcd_one: EtcdCluster, keys: Keys) -> None:
    """A configuration with a name that is refused today stays in force when the journal is replayed.

    The same one, written again, is rejected.
    """
    nodes: dict[str, Any] = {"../up": {}, "n1": {}}
    record = ConfigRecord(version=1, actor="admin", time=0.0, inventory={"nodes": nodes})
    async with session(etcd_one) as etcd:
        revision = await etcd.put(keys.config_current, record.encode())
        adopting = CommandRecord(
            index=1, id=f"config.adopt-{revision}", actor="admin", time=0.0, name="config.adopt", config_version=1,
            config=record, config_revision=revision,
        )  # fmt: skip
        await ensure_epoch(etcd, keys)
        await etcd.put(keys.entry(1), Entry(epoch=1, term=1, nonce="old", commands=(adopting,)).encode())
        await etcd.put(keys.head, Head(index=1, nonce="old").encode())
        won = await take_over(etcd, keys, "m1", next_index=2)
        async with run_leader(etcd, etcd, keys, won=won) as term:
            await show_config(term, etcd, keys)
            await term.put("nodes/n1", x=1)
            await wait_shown(etcd, keys, {"n1": {"x": 1}})
            assert (list(term.replica.state.inventory.nodes), term.leader.config_rejection) == (list(nodes), None)
            await etcd.put(keys.config_current, record.encode())
            await show_config(term, etcd, keys)
            await eventually(lambda: term.leader.config_rejection is not None, "it is rejected")
            assert term.leader.config_rejection is not None
            assert term.leader.config_rejection[1].startswith("node name '../up' is not allowed: use 1 to 63 letters")
            assert list(term.replica.state.inventory.nodes) == list(nodes)
            await configure(etcd, keys, inventory("n1"), version=2)
            await show_config(term, etcd, keys)
            await adopted(term, 2)
