"""`nodectl etcd auth` with the installed programs: switched on under load, and off again if a program is refused."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from nodectl import Client
from nodestore.cluster.configuration import Configuration
from nodestore.errors import Denied
from nodestore.etcd.access_control import EtcdAccessControl
from nodestore.etcd.session import Etcd, EtcdSettings
from nodestore.schema.keys import Keys
from nodestore.schema.models import Defaults, DriverConfig, Inventory, NodeConfig
from nodestore.schema.store_rights import Permission, StoreUser
from tests.support.access.closed_etcd import MAINTENANCE, ClosedEtcd
from tests.support.access.programs import OPERATOR, Programs
from tests.support.cli import Nodectl
from tests.support.etcd_cluster import EtcdCluster
from tests.support.waiting import eventually

INVENTORY = Inventory(
    nodes={"n1": NodeConfig()}, defaults=Defaults(driver=DriverConfig(name="exec", settings={"argv": ["true"]}))
)
PATIENCE_S = 60.0


@contextlib.asynccontextmanager
async def _running(keys: Keys, tmp_path: Path) -> AsyncIterator[Programs]:
    """Two masters and a node, without access control."""
    etcd = ClosedEtcd(tmp_path / "ca")
    async with etcd.cluster:
        started = Programs(etcd, keys, tmp_path)
        try:
            async with etcd.session(MAINTENANCE) as session:
                await Configuration(session, keys).apply(
                    INVENTORY.model_dump(), source="", expect_version=None, actor="test"
                )
            for name in ("m1", "m2"):
                started.start_master(name)
            started.start_node("n1")
            async with started.client() as client:
                await client.command("node.set", {"node": "n1", "values": {"number": -1}}, timeout_s=PATIENCE_S)
                await eventually(
                    lambda: _is_converged(client, 1), "the node has its first document", timeout_s=PATIENCE_S
                )
            yield started
        finally:
            for name in tuple(started.running):
                started.stop(name)
            print(started.logs(), file=sys.stderr)  # noqa: T201 - shown if the test fails


async def _is_converged(client: Client, index: int) -> bool:
    status = (await client.get("/v1/nodes/n1"))["status"] or {}
    return int(status.get("observed_generation", 0)) >= index and status.get("phase") == "ready"


@contextlib.asynccontextmanager
async def _load(client: Client) -> AsyncIterator[list[int]]:
    """Send commands one after another; the list gets the index of each. Any error fails the test."""
    done: list[int] = []

    async def send() -> None:
        while True:
            done.append((await client.command("node.set", {"node": "n1", "values": {"number": len(done)}})).index)
            await asyncio.sleep(0.02)

    sending = asyncio.create_task(send())
    try:
        yield done
        assert not sending.done(), sending.exception()
    finally:
        sending.cancel()
        await asyncio.wait((sending,))


async def test_switched_on_under_load(keys: Keys, tmp_path: Path) -> None:
    """No command fails, the leader goes on in its term, and every permission is as the table says. Then the rights
    change under load, and a node that lost its rights has them again."""
    async with _running(keys, tmp_path) as programs, programs.client() as client:
        before = (await client.get("/v1/leader"))["term"]
        async with _load(client) as done:
            await eventually(lambda: len(done) > 5)
            enabled = await programs.nodectl("etcd", "auth", "enable", "--yes", str(OPERATOR))
            assert (enabled.code, enabled.lines[-1]) == (0, "access control of etcd is on")
            count = len(done)
            await eventually(lambda: len(done) > count + 20)
            checked = await programs.nodectl("etcd", "auth", "check", "-o", "json")
            assert (checked.code, checked.json) == (0, [])
            assert (await programs.nodectl("etcd", "auth", "check", user=OPERATOR)).code == 2
            await _change_rights(programs)
        assert (await client.get("/v1/leader"))["term"] == before
        last = (await client.command("node.set", {"node": "n1", "values": {"number": -2}})).index
        await eventually(lambda: _is_converged(client, last), "the node has its last document", timeout_s=PATIENCE_S)
        await _try_operator(programs)
    assert "etcd refuses this program" not in programs.logs()


async def _try_operator(programs: Programs) -> None:
    """An operator changes configuration and pause through a master; without one, etcd lets him change nothing."""
    file = programs.directory / "cluster.yaml"
    file.write_text("nodes: {n1: {}}\ndefaults: {driver: {name: exec, settings: {argv: ['true']}}}\n", "utf-8")
    for command in (("config", "apply", str(file), "--yes"), ("master", "pause"), ("master", "resume")):
        done = await programs.nodectl(*command, user=OPERATOR)
        assert done.code == 0, done.err
    for name in ("m1", "m2"):
        programs.stop(name)
    refused = await programs.nodectl("master", "pause", user=OPERATOR)
    assert refused.code == 6
    assert "no master answers" in refused.err
    status = await programs.nodectl("status", user=OPERATOR)
    assert status.code == 5
    assert "configuration: not shown, because this user may not read it in etcd" in status.out + status.err
    assert (await programs.nodectl("master", "pause")).code == 0


async def _change_rights(programs: Programs) -> None:
    """Take rights away, add too many, and let `check` find and `enable` repair it."""
    role, keys = StoreUser("noded", "n1").role(programs.keys), programs.keys
    async with programs.etcd.session(MAINTENANCE) as session:
        auth = EtcdAccessControl(session)
        await auth.revoke(role, Permission("readwrite", keys.status_of("n1").encode()))
        await auth.grant(role, Permission("read", keys.config_current.encode()))
        await auth.add_user("stranger", None)
        await auth.grant_role("stranger", "root")
        found = (await programs.nodectl("etcd", "auth", "check", "-o", "json")).json
        assert [(item["subject"], item["problem"]) for item in found] == [
            (f"role {role}", f"may not readwrite {keys.status_of('n1')}"),
            (f"role {role}", f"may read {keys.config_current}, too much"),
            ("user stranger", "has the role root, which gives it more rights in this cluster than the table"),
        ]
        again = await programs.nodectl("etcd", "auth", "enable", "--yes")
        assert again.code == 0, again.err
        assert "its rights are up to date" in again.lines[-1]
        await auth.delete_user("stranger")
        assert (await programs.nodectl("etcd", "auth", "check")).code == 0


async def test_switched_off_again_if_a_program_is_refused(keys: Keys, tmp_path: Path) -> None:
    """The command names the program; nothing is left but users without effect, and the masters stay candidates."""
    async with _running(keys, tmp_path) as programs, programs.client() as client:
        programs.stop("m2")
        programs.start_master("m2", user="masterd:other")

        async def has_returned() -> bool:
            masters = (await client.get("/v1/masters"))["masters"]
            return programs.running["m2"].pid in [item["pid"] for item in masters]

        await eventually(has_returned, "m2 is a candidate again", timeout_s=PATIENCE_S)
        failed = await programs.nodectl("etcd", "auth", "enable", "--yes")
        assert failed.code == 6, failed.err
        assert "etcd refuses masterd:m2" in failed.err
        await client.command("node.set", {"node": "n1", "values": {"number": 1}}, timeout_s=PATIENCE_S)
        checked = await programs.nodectl("etcd", "auth", "check", "-o", "json")
        assert [item["subject"] for item in checked.json] == ["access control"]


async def test_passwords_instead_of_certificates(keys: Keys, tmp_path: Path) -> None:
    """`--prepare` makes users and password files, and refuses nothing yet; with its password a user has its rights."""
    (tmp_path / "root").write_text("secret\n", "utf-8")
    directory, root = tmp_path / "passwords", ("--user=root", f"--password-file={tmp_path / 'root'}")
    async with EtcdCluster(1) as cluster:
        nodectl = Nodectl(cluster.endpoints, keys.cluster)
        enable = ("etcd", "auth", "enable", "--yes", *root)
        prepared = await nodectl(*enable, "--prepare", f"--passwords={directory}", "noded:n1")
        assert prepared.code == 0, prepared.err
        assert prepared.lines[-1].endswith("access control of etcd is still off")
        password = (directory / "noded-n1.password").read_text("utf-8").strip()
        settings = EtcdSettings(endpoints=cluster.endpoints, user="noded:n1", password=password)
        async with Etcd(settings) as etcd:
            await etcd.put(keys.head, b"x")
            switched = await nodectl(*enable)
            assert switched.code == 0, switched.err
            await etcd.put(keys.status_of("n1"), b"x")
            with pytest.raises(Denied):
                await etcd.put(keys.head, b"x")
        assert (await nodectl("etcd", "auth", "check", *root)).code == 0
        assert (await nodectl("etcd", "auth", "disable", "--yes", *root)).code == 0
        assert (await nodectl("etcd", "auth", "check", *root)).code == 1
