"""Filters of the history: they find matching commands however old, and report how far they searched."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request

from masterd.api import history
from masterd.api.read_sources import ReadSources
from masterd.application.scenes import BuiltinApp
from masterd.assembly import build_parts
from masterd.settings import MasterSettings
from nodectl import Client
from nodestore.errors import Invalid
from nodestore.etcd.session import Etcd, EtcdSettings, Range
from nodestore.schema.keys import Keys
from nodestore.schema.models import CommandRecord, Entry, Inventory
from tests.support.etcd_cluster import EtcdCluster
from tests.support.fakes.masterd_parts import M1
from tests.support.masters import Masters

INVENTORY = Inventory.model_validate({"nodes": {"n1": {}, "n2": {}}, "defaults": {"driver": {"name": "x"}}})


async def _busy(masters: Masters) -> int:
    """One command for n2 among many for n1; its index."""
    await masters.configure(INVENTORY)
    masters.start("m1")
    await masters.wait_serving("m1")
    done = await masters.command("node.set", node="n2", values={"x": 0})
    for _ in range(3):
        await masters.commands(*(("node.set", {"node": "n1", "values": {"x": n}}) for n in range(120)))
    await masters.command("node.clear", node="n1")
    return int(done["index"])


async def test_filters_look_back_as_far_as_needed(etcd_one: EtcdCluster, keys: Keys) -> None:
    """By node, actor and command, from either end; each command once and in order."""
    async with Masters(etcd_one, keys) as masters, Client(etcd_one.endpoints, cluster=keys.cluster) as client:
        sought = await _busy(masters)
        of_node = (await client.history(node="n2", command="node.set", limit=1))["entries"]
        assert [entry["index"] for entry in of_node] == [sought]
        assert of_node[0].get("config_version") == 1
        onward = (await client.history(after=0, command="node.clear"))["entries"]
        assert [entry.get("args") for entry in onward] == [{"node": "n1"}]
        assert (await client.history(actor="nobody"))["entries"] == []
        all_of_them = await client.history(limit=1_000)
        last = all_of_them["index"]
        assert [entry["index"] for entry in all_of_them["entries"]] == list(range(last, 0, -1))
        assert [entry["index"] for entry in (await client.history(limit=150, after=100))["entries"]] == list(
            range(101, 251)
        )
        assert [entry["index"] for entry in (await client.history(limit=3, before=200))["entries"]] == [199, 198, 197]
        assert (await client.history(after=last))["entries"] == []


async def test_a_search_says_how_far_it_looked(
    etcd_one: EtcdCluster, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search is bounded; `searched` is the index to continue from."""
    monkeypatch.setattr(history, "_PAGE", 10)
    monkeypatch.setattr(history, "_SCANNED_MAX", 40)
    async with Etcd(EtcdSettings(endpoints=etcd_one.endpoints)) as etcd:
        for index in range(1, 101):
            command = CommandRecord(index=index, id=f"c{index}", actor="test", time=0.0, name="do")
            entry = Entry(epoch=1, term=1, nonce="x", commands=(command,))
            await etcd.put(keys.entry(index), entry.encode())
        sources = _sources(etcd, keys, index=100)
        found = await asked(sources, "actor=nobody")
        assert (found["entries"], found["searched"]) == ([], 61)
        found = await asked(sources, f"actor=nobody&before={found['searched']}")
        assert found["searched"] == 21
        assert (await asked(sources, "actor=nobody&after=0"))["searched"] == 40
        assert (await asked(sources, "limit=3"))["searched"] == 98


async def test_a_search_ends_in_time_and_goes_on(
    etcd_one: EtcdCluster, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow search is answered before the client searches for another leader; `ended` says that nothing is left."""
    monkeypatch.setattr(history, "_PAGE", 10)
    monkeypatch.setattr(history, "_SCAN_S", 0.0)
    async with Etcd(EtcdSettings(endpoints=etcd_one.endpoints)) as etcd:
        await _write_commands(etcd, keys, 30)
        sources = _sources(etcd, keys, index=30)
        for query, way in (
            ("actor=nobody", ("before", [21, 11, 1])),
            ("actor=nobody&after=0", ("after", [10, 20, 30])),
        ):
            field, expected = way
            found = await asked(sources, query)
            seen = [found["searched"]]
            while not found["ended"] and len(seen) < 9:
                found = await asked(sources, f"actor=nobody&{field}={seen[-1]}")
                seen.append(found["searched"])
            assert seen == expected
        assert not (await asked(sources, "limit=10"))["ended"]
        assert (await asked(sources, "limit=10&before=11"))["ended"]
        assert not (await asked(sources, "limit=9&before=11"))["ended"]


async def test_the_history_since_a_time(etcd_one: EtcdCluster, keys: Keys) -> None:
    """From either end; the search ends at the first command that is too old."""
    async with Etcd(EtcdSettings(endpoints=etcd_one.endpoints)) as etcd:
        await _write_commands(etcd, keys, 20)
        sources = _sources(etcd, keys, index=20)
        for query, expected in (("", [20, 19, 18]), ("&after=0", [18, 19, 20]), ("&before=20", [19, 18])):
            found = await asked(sources, f"since=18.0{query}")
            assert [entry["index"] for entry in found["entries"]] == expected
            assert found["ended"]
        assert (await asked(sources, "since=21"))["entries"] == []
        for wrong in ("soon", "-1", "nan", "inf"):
            with pytest.raises(Invalid, match="since"):
                await asked(sources, f"since={wrong}")


async def _write_commands(etcd: Etcd, keys: Keys, count: int) -> None:
    """Entries of one command each, the time of which is its index."""
    for index in range(1, count + 1):
        command = CommandRecord(index=index, id=f"c{index}", actor="test", time=float(index), name="do")
        await etcd.put(keys.entry(index), Entry(epoch=1, term=1, nonce="x", commands=(command,)).encode())


async def test_before_the_first_command_there_is_nothing(etcd_one: EtcdCluster, keys: Keys) -> None:
    """Paging back ends at the first command, and the journal is not read for it."""
    asked_for: list[int] = []

    class Counting(Etcd):
        async def range(self, *args: Any, limit: int = 0, **more: Any) -> Range:
            asked_for.append(limit)
            return await super().range(*args, limit=limit, **more)

    async with Counting(EtcdSettings(endpoints=etcd_one.endpoints)) as etcd:
        for index in range(1, 21):
            command = CommandRecord(index=index, id=f"c{index}", actor="test", time=0.0, name="do")
            await etcd.put(keys.entry(index), Entry(epoch=1, term=1, nonce="x", commands=(command,)).encode())
        sources = _sources(etcd, keys, index=20)
        found = await asked(sources, "before=1")
        assert (found["entries"], found["searched"], found["first_retained"]) == ([], None, 1)
        assert (await asked(sources, "after=20"))["entries"] == []
        assert [entry["index"] for entry in (await asked(sources, "before=2"))["entries"]] == [1]
        before, seen = 21, []
        while page := (await asked(sources, f"limit=7&before={before}"))["entries"]:
            seen += [entry["index"] for entry in page]
            before = seen[-1]
        assert seen == list(range(20, 0, -1))
        assert 0 not in asked_for


def _sources(etcd: Etcd, keys: Keys, index: int) -> ReadSources:
    """What the reads of a masterd answer from whose replica is at this index."""
    parts = build_parts(etcd, keys, M1, BuiltinApp(), MasterSettings())
    parts.replica.state.index = index
    return parts.read_sources


async def asked(sources: ReadSources, query: str) -> Any:
    return await history.history(sources, make_mocked_request("GET", f"/v1/history?{query}"))
