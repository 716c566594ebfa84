"""Whole masterd processes: commands that must not stop them, restarts, and whether `Masters.problems` sees damage."""

from __future__ import annotations

import contextlib
import io
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest

from masterd.replication.snapshots import Snapshots
from nodestore.schema.keys import Keys
from nodestore.schema.models import Applied, Head, Inventory, TermRecord, decode
from nodestore.support.jsonio import loads
from tests.support.etcd_cluster import EtcdCluster
from tests.support.masters import Masterd, Masters
from tests.support.waiting import eventually

INVENTORY = Inventory.model_validate({"nodes": {"n1": {}, "n2": {}}, "defaults": {"driver": {"name": "process"}}})


@pytest.fixture(scope="module", autouse=True)
def _no_process_stays() -> Iterator[None]:
    yield
    Masterd.discard_warm()


@contextlib.asynccontextmanager
async def one(cluster: EtcdCluster, keys: Keys, *, small: bool = False, ttl_s: int = 2) -> AsyncIterator[Masters]:
    arguments = [f"--lease-ttl={ttl_s}", "--snapshot-every=10"]
    async with Masters(cluster, keys, arguments=arguments, small=small) as masters:
        await masters.configure(INVENTORY)
        masters.start("m1")
        await masters.wait_serving("m1")
        await masters.command("node.set", node="n1", values={"x": 1})
        yield masters


def _nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


POISON = {
    "NaN": b'{"name":"node.set","args":{"node":"n1","values":{"x":NaN}}}',
    "infinity": b'{"name":"node.set","args":{"node":"n1","values":{"x":[1e999]}}}',
    "huge number": b'{"name":"node.set","args":{"node":"n1","values":{"x":' + b"9" * 4_000 + b"}}}",
    "nested as deep as a request may be": b'{"name":"node.set","args":{"node":"n1","values":{"x":'
    + _nested(190)
    + b"}}}",
    "nested deeper": b'{"name":"node.set","args":{"node":"n1","values":{"x":' + _nested(5_000) + b"}}}",
    "half a character": b'{"name":"node.set","args":{"node":"n1","values":{"x":"\\ud800"}}}',
    "no text": b'{"name":"node.set","args":{"node":"n1","values":{"x":"\xff"}}}',
    "a name that is no path": b'{"name":"scene.save","args":{"name":"a/b"}}',
    "a zero byte": b'{"name":"scene.save","args":{"name":"a\\u0000"}}',
    "too large": b'{"name":"node.put","args":{"node":"n1","document":{"x":"' + b"y" * 1_400_000 + b'"}}}',
    "no command": b'{"name":"no.such","args":{}}',
    "arguments of another shape": b'{"name":"node.set","args":{"node":{"a":1},"values":3}}',
}


async def test_poison_commands_stop_nobody(etcd_one: EtcdCluster, keys: Keys) -> None:
    """Each is run, or refused with a problem document.

    The term continues, and a standby that replays the journal has the same state and can lead.
    """
    async with one(etcd_one, keys) as masters, aiohttp.ClientSession() as session:
        for name, body in POISON.items():
            url, json_type = masters.running["m1"].url + "/v1/commands", {"Content-Type": "application/json"}
            async with session.post(url, data=io.BytesIO(body), headers=json_type) as answer:
                value = loads(await answer.read())
                assert answer.status in (200, 400, 404, 413, 422), f"{name}: {answer.status} {value}"
                assert answer.status == 200 or value["code"], name
        done = await masters.command("node.set", node="n2", values={"x": 2})
        masters.start("m2")
        await masters.wait_candidate("m2")
        masters.running["m1"].process.kill()
        await masters.wait_serving("m2")
        again = await masters.command("node.set", node="n2", values={"x": 3})
        assert again["index"] == done["index"] + 1
        assert await masters.problems() == []


async def test_a_restart_within_its_own_lease(etcd_one: EtcdCluster, keys: Keys) -> None:
    """It does not wait for the lease of its earlier process: that was itself."""
    async with one(etcd_one, keys, ttl_s=60) as masters:
        before = await masters.leader()
        masters.start("m1")  # kills the first
        await masters.wait_serving("m1")
        after = await masters.leader()
        assert before.record is not None
        assert after.record is not None
        assert after.record.cause == "restarted"
        assert after.lease != before.lease
        term = await masters.etcd.get(keys.term(after.record.nonce))
        assert term is not None
        assert decode(TermRecord, term.value, term.key).taken_term == before.revision
        again = await masters.command("node.set", node="n1", values={"x": 2})
        assert again["result"]["document"] == {"x": 2}
        assert await masters.problems() == []


async def test_a_second_process_of_the_same_name_ends_the_first(etcd_one: EtcdCluster, keys: Keys) -> None:
    """Two processes with one name on one PC: one remains, and the log of the other says why it ended."""
    async with one(etcd_one, keys) as masters:
        first = masters.running.pop("m1")
        try:
            masters.start("m1")
            await masters.wait_serving("m1")
            await eventually(lambda: first.exit_code is not None, "the first ends", timeout_s=20.0)
            assert first.exit_code not in (0, None)
            assert "has taken the name m1" in first.log_tail()
            terms = (await masters.etcd.range(keys.terms)).kvs
            assert len(terms) < 10, "they take turns"
        finally:
            first.kill()
        await masters.command("node.set", node="n1", values={"x": 2})
        assert await masters.problems() == []


async def test_damage_is_seen(etcd_one: EtcdCluster, keys: Keys) -> None:
    """`Masters.problems`, on which the tests of cuts rely, finds each kind of damage."""
    async with one(etcd_one, keys, small=True) as masters:
        for _ in range(3):
            await masters.commands(*(("node.set", {"node": "n1", "values": {"x": number}}) for number in range(11)))
            await masters.wait_for_snapshot(within=9)
        await eventually(lambda: _right(masters), "all is well", timeout_s=20.0)
        masters.running.pop("m1").kill()
        etcd = masters.etcd
        stored_head = await etcd.get(keys.head)
        assert stored_head is not None
        head = decode(Head, stored_head.value, keys.head)
        snapshot = keys.snapshot(next(iter(await Snapshots(etcd, keys).manifests()))) + "000000"
        for key, value, expected in [
            (keys.document("nodes/n1"), b'{"v":1,"index":2,"document":{}}', "view"),
            (keys.document("stray"), b"{}", "view"),
            (keys.desired_of("n2"), None, "view"),
            (keys.applied, Applied(index=head.index, base=1, through="x").encode(), "applied"),
            (keys.head, Head(index=head.index + 1, nonce="n").encode(), "indexes"),
            (keys.config_current, None, ""),
            (keys.config_current, b'{"version":9,"actor":"a","time":0,"inventory":{}}', "not adopted"),
            (snapshot, b"{}", "snapshot"),
            (keys.snapshot(keys.snapshot_name(3, "half")) + "000000", b"{}", "fragment"),
        ]:
            before = await etcd.get(key)
            await (etcd.delete(key) if value is None else etcd.put(key, value))
            found = await masters.problems()
            assert any(expected in text for text in found) or not expected, f"{key}: {found}"
            await (etcd.delete(key) if before is None else etcd.put(key, before.value))
        masters.acknowledged["never-ran"] = 3
        assert any("never-ran" in text for text in await masters.problems())
        entry = await etcd.range(keys.journal, limit=1)
        await etcd.put(entry.kvs[0].key, entry.kvs[0].value)
        found = await masters.problems()
        assert any("written twice" in text for text in found)
        assert any("took effect at" in text for text in found)


async def _right(masters: Masters) -> bool:
    return await masters.problems() == []


async def test_a_candidacy_that_vanished_is_put_again(etcd_one: EtcdCluster, keys: Keys) -> None:
    """The lease may expire in etcd before masterd notices. A missing candidacy is no reason to end."""
    async with Masters(etcd_one, keys) as masters:
        await masters.configure(INVENTORY)
        masters.start("m1")
        await masters.wait_serving("m1")
        await masters.etcd.delete(keys.candidate("m1"))
        await masters.command("node.set", node="n1", values={"x": 1})

        async def back() -> bool:
            assert masters.running["m1"].exit_code is None, masters.running["m1"].log_tail()
            return await masters.etcd.get(keys.candidate("m1")) is not None

        await eventually(back, "the candidacy is there again")
