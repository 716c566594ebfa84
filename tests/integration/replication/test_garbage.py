"""Garbage under the prefix is reported and skipped, or written over; only garbage in `epoch` stops commits."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest

from masterd.replication.replica import Replica
from masterd.upkeep.store_scan import StoreScan
from nodestore.etcd.session import Etcd, EtcdSettings
from nodestore.schema.keys import Keys
from nodestore.schema.models import Epoch, Head, Inventory, decode
from tests.support.cli import CommandOutput, Nodectl
from tests.support.etcd_cluster import EtcdCluster
from tests.support.masters import Masterd, Masters
from tests.support.noded import nodes
from tests.support.waiting import eventually

GARBAGE = {
    "no text": b"\xff\xfe\x00",
    "no JSON": b"{oops",
    "a list": b"[1]",
    "a text": b'"x"',
    "a newer schema": b'{"v": 2}',
    "nothing": b"",
    "a megabyte": b"x" * 1_000_000,
}
_TIMEOUT_S = 1.0
_STATUS_S = 4.0
INVENTORY = Inventory.model_validate(
    {
        "nodes": {"n1": {}, "n2": {}},
        "defaults": {"driver": {"name": "file", "settings": {"path": "shown.json"}}},
    }
)


@pytest.fixture(scope="module", autouse=True)
def _discard_warm_processes() -> Iterator[None]:
    yield
    Masterd.discard_warm()


def exact(keys: Keys) -> list[str]:
    """The single keys in which garbage has no effect on others."""
    return [keys.paused, keys.applied, keys.config_current, keys.leader]


def kinds(keys: Keys) -> list[str]:
    """One key of each kind that has many, for `n1` and for names that do not exist."""
    named = [keys.desired_of, keys.status_of, keys.alive_of, keys.actions_of, keys.acted_of]
    return [
        keys.term("x"), keys.candidate("mx"), keys.challenges + "x", keys.answers + "x", keys.journal + "x",
        keys.entry(9_999), keys.snapshots + "x", keys.snapshot("x") + "manifest", keys.snapshot("y") + "000000",
        keys.document("nodes/n1"), keys.document("x"), keys.config_history + "x", keys.prefix + "unknown",
        keys.prefix + "zzz/x", keys.prefix, *(key(node) for key in named for node in ("n1", "nx")),
    ]  # fmt: skip


async def test_each_kind_of_garbage_in_each_kind_of_key_is_found(etcd_one: EtcdCluster, keys: Keys) -> None:
    """The scan reports each garbage value with its key in one bounded line, and nothing in a store without garbage."""
    unread = {keys.snapshot("y") + "000000"}  # whose owner alone reads them
    async with Etcd(EtcdSettings(endpoints=etcd_one.endpoints)) as etcd:
        await etcd.put(keys.epoch, Epoch(epoch=1).encode())
        assert await StoreScan(etcd, keys).find_problems() == {}
        for kind, value in GARBAGE.items():
            wrong = [keys.epoch, keys.head, *exact(keys), *kinds(keys)]
            for key in wrong:
                await etcd.put(key, value)
            found = await StoreScan(etcd, keys).find_problems()
            quiet = unread | {keys.entry(9_999)}  # the name is right: who reads the journal meets it
            assert set(found) == set(wrong) - quiet, kind
            assert all(text.startswith(key) and len(text) < 400 and "\n" not in text for key, text in found.items())
            await etcd.delete(keys.entry(9_999))
        for value in (b"{}", b"{}"):
            await etcd.put(keys.entry(9_999), value)
        assert "written over" in (await StoreScan(etcd, keys).find_problems())[keys.entry(9_999)]


@contextlib.asynccontextmanager
async def cluster(etcd: EtcdCluster, keys: Keys) -> AsyncIterator[Masters]:
    async with Masters(etcd, keys) as masters:
        await masters.configure(INVENTORY)
        masters.start("m1")
        await masters.wait_serving("m1")
        masters.start("m2")
        await masters.wait_candidate("m2")
        await masters.command("node.set", node="n1", values={"x": 0})
        yield masters


async def _expect_output(nodectl: Nodectl, *args: str, code: int, says: Sequence[str]) -> CommandOutput:
    """Expect the exit code and all of `says` in the output. Repeats the command, as a masterd may answer late."""
    results: list[CommandOutput] = []

    async def as_expected() -> bool:
        results[:] = [await nodectl(*args)]
        assert results[0].code or not code, results
        return results[0].code == code and all(text in results[0].out + results[0].err for text in says)

    try:
        await eventually(as_expected)
    except AssertionError:
        raise AssertionError(f"{args} does not end with {code} and {says}: {results}") from None
    return results[0]


async def test_garbage_stops_nobody(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """With garbage in all other keys every command and a takeover succeed, and status names the garbage."""
    async with cluster(etcd_one, keys) as masters, nodes.run_noded(etcd_one.endpoints, keys, "n1") as noded:
        nodectl = Nodectl(etcd_one.endpoints, keys.cluster)
        await noded.ready(masters.etcd, keys, 2)
        values = list(GARBAGE.values())
        for round_, value in enumerate(values):
            for number, key in enumerate([*exact(keys)[:-1], *kinds(keys)]):
                await masters.etcd.put(key, value if number < 3 else values[(number + round_) % len(values)])
            done = await masters.command("node.set", node="n1", values={"x": round_ + 1})
            await noded.ready(masters.etcd, keys, done["index"])
        wrong = [
            keys.paused,
            keys.config_current,
            keys.candidate("mx"),
            keys.acted_of("nx"),
            keys.prefix + "unknown",
        ]
        says = [f"malformed key ignored: {key}: " for key in wrong]
        status = await _expect_output(nodectl, "status", "-o", "name", code=0, says=says)
        lines = status.out.splitlines()
        assert all(any(line.startswith(text) for line in lines) for text in says), lines
        assert all(len(line) < 500 for line in lines)

        masters.running["m1"].kill()
        await masters.wait_serving("m2")
        masters.start("m3")
        await masters.wait_candidate("m3")
        done = await masters.command("node.set", node="n1", values={"x": "after"})
        await noded.ready(masters.etcd, keys, done["index"])
        shown = await nodectl("config", "show")
        assert shown.code == 1
        assert keys.config_current in shown.err
        assert "the adopted version stays in force" in shown.err
        for args, expected in [
            (("history",), "config.adopt"),
            (("master", "history"), keys.terms),
            (("snapshot", "save", "s1"), ""),
            (("snapshot", "restore", "--index", "2"), ""),
            (("master", "resume"), ""),
            (("config", "apply", await _inventory(tmp_path), "--wait"), ""),
        ]:
            ran = await nodectl(*args)
            assert (ran.code, expected in ran.out) == (0, True), (args, ran)
        masters.running.pop("m1")
        left = {keys.document("nodes/n1"), keys.desired_of("n1"), keys.status_of("n1"), keys.alive_of("n1")}
        for key in set(kinds(keys)) - left:
            await masters.etcd.delete(key)
        await masters.command("node.set", node="n1", values={"x": "end"})
        replica = Replica(masters.etcd, keys)
        await replica.catch_up()
        assert replica.state.documents["nodes/n1"].value == {"x": "end"}
        head = await masters.etcd.get(keys.head)
        assert head is not None
        assert await masters.view_problems(replica.state, decode(Head, head.value, keys.head)) == []


async def _inventory(directory: Path) -> str:
    file = directory / "wall.yaml"
    file.write_text("nodes: {n1: {}, n2: {}}\ndefaults: {driver: {name: file, settings: {path: shown.json}}}\n")
    return str(file)


async def test_garbage_in_head_is_written_over(etcd_one: EtcdCluster, keys: Keys) -> None:
    """The leader writes `head` again, without a takeover, and status reports it."""
    async with cluster(etcd_one, keys) as masters:
        nodectl = Nodectl([master.url for master in masters.running.values()], timeout_s=_STATUS_S)
        terms = len((await masters.etcd.range(keys.terms)).kvs)
        await masters.etcd.put(keys.head, b"{oops")
        done = await masters.command("node.set", node="n1", values={"x": 1})
        await masters.etcd.put(keys.head, b"{oops")

        async def is_right() -> bool:
            head = await masters.etcd.get(keys.head)
            return head is not None and head.value != b"{oops"

        await eventually(is_right, "head is written again, without a command", timeout_s=40.0)
        head = await masters.etcd.get(keys.head)
        assert head is not None
        assert decode(Head, head.value, keys.head).index == done["index"]
        await _expect_output(nodectl, "status", "-o", "name", code=0, says=[f"{keys.head} was deleted or changed"])
        assert len((await masters.etcd.range(keys.terms)).kvs) == terms
        assert await masters.problems() == []


async def test_garbage_in_epoch_stops_commits_until_it_is_put_right(etcd_one: EtcdCluster, keys: Keys) -> None:
    """Garbage in `epoch` stops commits without repeated takeovers until the value in the status is put."""
    key = keys.epoch
    async with cluster(etcd_one, keys) as masters:
        urls = [master.url for master in masters.running.values()]
        nodectl, patient = Nodectl(urls, timeout_s=_TIMEOUT_S), Nodectl(urls, timeout_s=_STATUS_S)
        await masters.etcd.put(key, b"{oops")
        refused = await nodectl("node", "set", "n1", "x=1")
        assert refused.code in (5, 8), refused  # 8: the first one met the damage in the middle of its commit
        await eventually(lambda: _has_noticed(masters), "the leader has seen it", timeout_s=20.0)
        terms = len((await masters.etcd.range(keys.terms)).kvs)
        says = [
            "there is no leader: commands are not accepted",
            f"nothing can be committed: {key}: Invalid JSON",
            "is repaired",
        ]
        status = await _expect_output(patient, "status", "-o", "name", code=5, says=says)
        await asyncio.gather(
            _expect_output(nodectl, "node", "list", code=5, says=[key]),
            _expect_output(nodectl, "node", "set", "n1", "x=2", code=5, says=[key]),
        )
        right = re.search(r"is repaired.* to (\{.*?\})", status.out)
        assert right is not None, status.out
        assert len((await masters.etcd.range(keys.terms)).kvs) == terms, "they take turns"
        await masters.etcd.put(key, right[1].encode())
        done = await masters.command("node.set", node="n1", values={"x": 3})
        assert done["result"]["document"]["x"] == 3
        status = await patient("status", "-o", "name")
        assert "there is no leader" not in status.out
        assert await masters.problems() == []


async def _has_noticed(masters: Masters) -> bool:
    """Whether at least the former leader has noticed the garbage."""
    return any("no masterd can lead" in master.log_tail(200) for master in masters.running.values())
