"""Named snapshots, restores of them and of any retained index, and what a restore keeps."""

from __future__ import annotations

import pytest

from nodestore.errors import Conflict, NodectlError, NotFound
from nodestore.schema.keys import Keys
from nodestore.schema.models import Desired, Inventory, decode
from nodestore.support.jsonio import loads
from tests.support.etcd_cluster import EtcdCluster
from tests.support.masters import Masters

INVENTORY = Inventory.model_validate(
    {"nodes": {"n1": {}, "n2": {}}, "defaults": {"driver": {"name": "process", "settings": {"argv": ["x"]}}}}
)


async def _begin(masters: Masters) -> None:
    await masters.configure(INVENTORY)
    masters.start("m1")
    await masters.wait_serving("m1")


async def _documents(masters: Masters, name: str) -> dict[str, object]:
    found = await masters.ask(name, "GET", "/v1/documents")
    return {path: doc["document"] for path, doc in found["documents"].items()}


async def test_a_named_snapshot_brings_the_documents_back(etcd_one: EtcdCluster, keys: Keys) -> None:
    """A restore replaces the documents and views, while generations grow and command ids stay known."""
    async with Masters(etcd_one, keys) as masters:
        await _begin(masters)
        await masters.command("node.set", node="n1", values={"text": "before"})
        await masters.ask("m1", "POST", "/v1/snapshots", {"name": "good"})
        later = await masters.command("node.set", node="n1", values={"text": "after"})
        await masters.command("node.set", node="n2", values={"text": "new"})
        restored = await masters.command("snapshot.restore", snapshot="good")
        assert restored["result"]["changed"] == 2
        assert await _documents(masters, "m1") == {"nodes/n1": {"text": "before"}}
        view = await masters.etcd.get(keys.desired_of("n1"))
        assert view is not None
        assert decode(Desired, view.value, "desired").generation == restored["index"] > later["index"]
        assert await masters.etcd.get(keys.document("nodes/n2")) is None
        found = await masters.etcd.get(keys.document("nodes/n1"))
        assert found is not None
        assert loads(found.value) == {"v": 1, "index": restored["index"], "document": {"text": "before"}}
        masters.start("m2")
        await masters.wait_candidate("m2")
        await masters.switchover("m2")
        await masters.wait_serving("m2")
        assert await _documents(masters, "m2") == {"nodes/n1": {"text": "before"}}
        assert await masters.problems() == []


async def test_any_retained_index_can_be_restored_and_restored_back(etcd_one: EtcdCluster, keys: Keys) -> None:
    async with Masters(etcd_one, keys) as masters:
        await _begin(masters)
        first = await masters.command("node.set", node="n1", values={"text": "one"})
        both = await masters.commands(
            ("node.set", {"node": "n1", "values": {"text": "two"}}), ("node.set", {"node": "n2", "values": {"x": 1}})
        )
        await masters.command("snapshot.restore", index=first["index"])
        assert await _documents(masters, "m1") == {"nodes/n1": {"text": "one"}}
        await masters.command("snapshot.restore", index=both[0]["index"])
        assert await _documents(masters, "m1") == {"nodes/n1": {"text": "two"}}
        await masters.command("snapshot.restore", index=both[1]["index"])
        assert await _documents(masters, "m1") == {"nodes/n1": {"text": "two"}, "nodes/n2": {"x": 1}}
        assert await masters.problems() == []


async def test_what_cannot_be_restored_is_refused(etcd_one: EtcdCluster, keys: Keys) -> None:
    async with Masters(etcd_one, keys) as masters:
        await _begin(masters)
        for args in ({"snapshot": "none"}, {"index": 999}, {"index": 0}, {}, {"snapshot": "a", "index": 1}):
            answer = await masters.command("snapshot.restore", **args)
            assert answer["problem"]["code"] in ("not_found", "invalid"), args


async def test_a_snapshot_that_the_journal_names_cannot_be_deleted(etcd_one: EtcdCluster, keys: Keys) -> None:
    async with Masters(etcd_one, keys) as masters:
        await _begin(masters)
        await masters.command("node.set", node="n1", values={"text": "x"})
        for name in ("used", "unused"):
            await masters.ask("m1", "POST", "/v1/snapshots", {"name": name})
        with pytest.raises(Conflict, match="already"):
            await masters.ask("m1", "POST", "/v1/snapshots", {"name": "used"})
        await masters.command("snapshot.restore", snapshot="used")
        with pytest.raises(Conflict, match="restor"):
            await masters.ask("m1", "DELETE", "/v1/snapshots/used")
        await masters.ask("m1", "DELETE", "/v1/snapshots/unused")
        listed = await masters.ask("m1", "GET", "/v1/snapshots")
        assert [item["name"] for item in listed["snapshots"]].count("unused") == 0
        with pytest.raises(NotFound):
            await masters.ask("m1", "DELETE", "/v1/snapshots/unused")
        with pytest.raises(NodectlError):
            await masters.ask("m1", "POST", "/v1/snapshots", {"name": "../x"})
