"""This release and the one before it side by side: what docs/upgrading.md promises of a cluster in the middle of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from masterd.state_machine.batch import CONFIG_RESPEC
from nodestore.etcd.session import Etcd, EtcdSettings, op_delete
from nodestore.processes import child_processes
from nodestore.schema.entry_codec import decode_entry
from nodestore.schema.keys import Keys
from nodestore.schema.models import LeaderRecord, Manifest, decode
from tests.support.cli import CommandOutput, Nodectl
from tests.support.etcd_cluster import EtcdCluster, free_ports
from tests.support.noded import nodes
from tests.support.previous_release import Release, previous, this
from tests.support.waiting import eventually

WALL = """
masters: {m1: {}, m2: {}}
nodes: {n1: {}, n2: {labels: {row: top}}}
groups: {top: {match: {row: top}}}
defaults: {driver: {name: file, settings: {path: shown.json}}, document: {colour: black}}
"""
AWKWARD = {"large": 1e16, "small": 1e-05, "big": 1 << 70, "text": "\u2028é", "none": [None, -0.0], "once": 1}
"""Values that JSON libraries write in different ways. Hashes of specs and of requests are made from what they write."""
REPEATED = {"node": "n1", "values": AWKWARD}
SNAPSHOT_EVERY = 10
STARTS_S = 30.0
LASTS = {"previous": ("--lease-ttl=60",), "this": ("--lease-ttl=60", "--silence=30s", "--answer=10s")}
"""Nobody leads but who is told to: no stall makes a term end. The release before knows of leases only."""


@pytest.fixture(scope="module")
def old() -> Release:
    return previous()


@dataclass
class Mixed:
    """A cluster whose programs are of two releases."""

    etcd: Etcd
    endpoints: tuple[str, ...]
    keys: Keys
    directory: Path
    session: aiohttp.ClientSession
    children: dict[str, child_processes.Child] = field(default_factory=dict)
    urls: dict[str, str] = field(default_factory=dict)

    async def start(self, name: str, release: Release) -> None:
        """A master of that release, until it answers and follows the journal."""
        port = free_ports(1)[0]
        argv = [
            *release.argv("masterd"), f"--id={name}", f"--host={name}", f"--cluster={self.keys.cluster}",
            f"--endpoints={','.join(self.endpoints)}", f"--listen=127.0.0.1:{port}",
            f"--snapshot-every={SNAPSHOT_EVERY}", *LASTS[release.name],
        ]  # fmt: skip
        self.urls[name] = f"http://127.0.0.1:{port}"
        self.children[name] = await child_processes.spawn(
            argv, stdout=self.log(name), env={**os.environ, **release.environ}, die_with_parent=True
        )

        async def follows() -> bool:
            assert self.children[name].poll() is None, self.said()
            with contextlib.suppress(aiohttp.ClientError):
                return (await self.get(name, "/v1/health"))["problem"] is None
            return False

        await eventually(follows, f"{name} follows the journal", timeout_s=STARTS_S)

    async def stop(self, name: str) -> None:
        await self.children.pop(name).stop(10)

    def log(self, name: str) -> Path:
        return self.directory / f"{name}.log"

    def said(self) -> str:
        return "\n".join(path.read_text("utf-8", "replace")[-3_000:] for path in self.directory.glob("*.log"))

    async def get(self, name: str, path: str) -> Any:
        async with self.session.get(self.urls[name] + path, params={"consistency": "local"}) as answer:
            return json.loads(await answer.read())

    async def post(self, master: str, path: str, /, **body: Any) -> Any:
        async with self.session.post(self.urls[master] + path, json=body) as answer:
            assert answer.status == 200, await answer.text()
            return json.loads(await answer.read())

    async def command(self, master: str, name: str, /, **args: Any) -> int:
        """Send a command to that master; the index of it once it is acknowledged."""
        return int((await self.post(master, "/v1/commands", name=name, args=args))["index"])

    async def knows(self, name: str, command_id: str, index: int) -> None:
        """That master has the result of the command REPEATED with this id, and does not run it again."""
        known, after = command_id.split("@")
        again = await self.post(name, "/v1/commands", name="node.set", args=REPEATED, id=known, after=int(after))
        assert (again["index"], again["repeated"]) == (index, True)

    async def leads(self, name: str) -> None:
        async def look() -> bool:
            found = await self.etcd.get(self.keys.leader)
            named = None if found is None else decode(LeaderRecord, found.value, found.key).id
            return named == name and (await self.get(name, "/v1/health"))["role"] == "leader"

        await eventually(look, f"{name} leads", timeout_s=STARTS_S)

    async def same_everywhere(self, index: int) -> dict[str, Any]:
        """Until all masters have that index in memory; their documents, which must be the same."""
        states: list[Any] = []

        async def reached() -> bool:
            states[:] = [await self.get(name, "/v1/documents") for name in self.children]
            return all(state.get("index", -1) >= index for state in states)  # one that just started answers 503

        await eventually(reached, f"all are at {index}: {states}")
        assert all(state == states[0] for state in states), states
        return {path: item["document"] for path, item in states[0]["documents"].items()}

    def nodectl(self, release: Release) -> Nodectl:
        return Nodectl(
            self.endpoints, self.keys.cluster, argv=release.argv("nodectl"), environ=release.environ, timeout_s=15
        )

    async def snapshot_with_ids(self, leader: str) -> int:
        """Send commands to the leader until it has written an automatic snapshot after all earlier ones; return the
        index of the last command. Named snapshots of newer releases hold no ids."""
        manifests = await self.manifests()
        newest = max((manifest.index for manifest in manifests), default=0)
        last = 0
        while last <= newest + SNAPSHOT_EVERY:
            last = await self.command(leader, "node.set", node="n1", values={"end": True})

        async def written() -> bool:
            return any(item.name is None and item.index > newest for item in await self.manifests())

        await eventually(written, f"{leader} has written a snapshot", timeout_s=STARTS_S)
        return last

    async def manifests(self) -> list[Manifest]:
        """The manifests of all snapshots."""
        found = (await self.etcd.range(self.keys.snapshots)).kvs
        return [decode(Manifest, kv.value, kv.key) for kv in found if kv.key.endswith("/manifest")]

    async def forget_the_journal(self) -> None:
        """Delete entries as a truncation up to the newest snapshot does: a new masterd must load that snapshot."""
        newest = max(manifest.index for manifest in await self.manifests())
        await self.etcd.txn([], [op_delete(self.keys.journal, end=self.keys.entry(newest + 1).encode())])


@asynccontextmanager
async def mixed(cluster: EtcdCluster, keys: Keys) -> AsyncIterator[Mixed]:
    async with AsyncExitStack() as stack:
        etcd = await stack.enter_async_context(Etcd(EtcdSettings(endpoints=cluster.endpoints)))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nodectl-mixed-")))
        made = Mixed(etcd, cluster.endpoints, keys, directory, session)
        try:
            yield made
        except BaseException:
            print(made.said())  # noqa: T201 - pytest shows it
            raise
        finally:
            for name in list(made.children):
                await made.stop(name)


def done(said: CommandOutput) -> int:
    """The index of a command that was acknowledged."""
    assert said.code == 0, said
    return int(said.json["index"])


@dataclass
class Upgrade:
    """A cluster of two releases on its way through the test. The methods are the acts, in order."""

    cluster: Mixed
    old_cli: Nodectl
    new_cli: Nodectl
    wall: Path
    nodeds: list[nodes.Noded]
    command_id: str = ""
    """The id of the command that is repeated to each leader."""
    repeated: int = 0
    """The index of that command."""

    @property
    def _repeat(self) -> tuple[str, ...]:
        return ("command", "node.set", json.dumps(REPEATED), "--command-id", self.command_id, "-o", "json")

    async def old_master_leads(self) -> None:
        """Commands of both `nodectl` are acknowledged, and both masters have the same state."""
        first = done(await self.new_cli("node", "set", "n1", "by=new", "-o", "json"))
        assert done(await self.old_cli("node", "set", "n2", "by=old", "-o", "json")) == first + 1
        self.command_id = (await self.old_cli("command-id")).out.strip()
        self.repeated = done(await self.new_cli(*self._repeat))
        await self.cluster.same_everywhere(self.repeated)

    async def new_master_leads(self) -> None:
        """It knows the id of the old leader's command, and takes a configuration, scenes, commands and a snapshot."""
        cluster = self.cluster
        assert (await self.old_cli("master", "switchover", "m2", "--wait")).code == 0
        await cluster.leads("m2")
        again = await self.old_cli(*self._repeat)
        assert (done(again), again.json["repeated"]) == (self.repeated, True)
        self.wall.write_text(WALL.replace("black", "grey"))
        assert (await self.old_cli("config", "apply", str(self.wall), "--wait")).code == 0
        await cluster.command("m2", "scene.save", name="night")
        await cluster.command("m2", "node.set", node="n1", values={"by": "nobody"})
        await cluster.command("m2", "scene.apply", name="night", group="top")
        last = await cluster.command("m2", "node.set", node="n2", values={"x": [1, 2]})
        await cluster.post("m2", "/v1/snapshots", name="by-new")
        await cluster.same_everywhere(last)

    async def old_master_leads_again(self) -> int:
        """It restores the new leader's snapshot, and nodes of both releases obey it. Returns the last index."""
        cluster = self.cluster
        assert (await self.new_cli("master", "switchover", "m1", "--wait")).code == 0
        await cluster.leads("m1")
        await cluster.knows("m1", self.command_id, self.repeated)
        last = await cluster.command("m1", "snapshot.restore", snapshot="by-new")
        for noded in self.nodeds:
            last = await cluster.command("m1", "node.set", node=noded.node, values={"end": True})
            await noded.ready(cluster.etcd, cluster.keys, last)
        return last

    async def expect_all_agree(self, last: int) -> None:
        """Masters have the documents that are expected, nodes show them, and no `nodectl` sees a problem."""
        documents = await self.cluster.same_everywhere(last)
        assert documents["nodes/n1"] == {"by": "nobody", **AWKWARD, "end": True}
        assert documents["nodes/n2"] == {"by": "old", "x": [1, 2], "end": True}
        for noded in self.nodeds:
            shown = json.loads((noded.work / "shown.json").read_text())
            assert shown == {"colour": "grey", **documents[f"nodes/{noded.node}"]}
        await self.expect_no_changed_hashes()
        commands = (cli("status", "--check", "-o", "json") for cli in (self.old_cli, self.new_cli))
        for status in await asyncio.gather(*commands):
            assert status.json["problems"] == [], status

    async def expect_no_changed_hashes(self) -> None:
        """No leader found another hash of a spec than the one before it had recorded."""
        found = (await self.cluster.etcd.range(self.cluster.keys.journal)).kvs
        records = [record for kv in found for record in decode_entry(kv.value, kv.key).commands]
        assert {"node.set", "config.adopt"} <= {record.name for record in records}
        assert [record for record in records if record.name == CONFIG_RESPEC] == []

    async def load_each_others_snapshots(self, old: Release, new: Release, last: int) -> None:
        """A master that starts without the journal loads the other release's snapshot, with its ids, and leads."""
        cluster = self.cluster
        for name, release, before, leaves in (("m3", new, "m1", "m2"), ("m4", old, "m3", "m1")):
            await cluster.stop(leaves)
            last = await cluster.snapshot_with_ids(before)
            await cluster.forget_the_journal()
            await cluster.start(name, release)
            assert "loaded the snapshot" in cluster.log(name).read_text()
            await cluster.same_everywhere(last)
            await cluster.post(before, "/v1/leader/switchover", to=name)
            await cluster.leads(name)
            await cluster.knows(name, self.command_id, self.repeated)
        assert done(await self.new_cli("node", "set", "n1", "end=false", "-o", "json")) == last + 1


@asynccontextmanager
async def half_upgraded(etcd: EtcdCluster, keys: Keys, old: Release, new: Release) -> AsyncIterator[Upgrade]:
    """The old master m1 leads, the new one m2 stands by; noded of n1 is new, that of n2 is old."""
    async with mixed(etcd, keys) as cluster, AsyncExitStack() as stack:
        old_cli, new_cli = cluster.nodectl(old), cluster.nodectl(new)
        wall = cluster.directory / "wall.yaml"
        wall.write_text(WALL)
        await cluster.start("m1", old)
        assert (await new_cli("config", "apply", str(wall), "--wait")).code == 0
        nodeds = [
            await stack.enter_async_context(
                nodes.run_noded(
                    cluster.endpoints, keys, node, program=release.argv("noded"), env={**os.environ, **release.environ}
                )
            )
            for node, release in (("n1", new), ("n2", old))
        ]
        await cluster.start("m2", new)
        yield Upgrade(cluster, old_cli, new_cli, wall, nodeds)


@pytest.mark.nightly
@pytest.mark.timeout(300)
async def test_masters_nodes_and_operators_of_two_releases(etcd_one: EtcdCluster, keys: Keys, old: Release) -> None:
    """Leadership goes from the old to the new master and back; in each phase commands of old and new `nodectl` are
    acknowledged, old and new nodes show them, both masters have the same state, and a command's id is known."""
    new = this()
    async with half_upgraded(etcd_one, keys, old, new) as upgrade:
        await upgrade.old_master_leads()
        await upgrade.new_master_leads()
        last = await upgrade.old_master_leads_again()
        await upgrade.expect_all_agree(last)
        await upgrade.load_each_others_snapshots(old, new, last)
