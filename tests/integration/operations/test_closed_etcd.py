"""What operators do with etcd's access control on: users of PCs that are gone, backup, recovery, a full etcd."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest

from nodestore.cluster.configuration import Configuration
from nodestore.errors import Denied, NoSpaceUnknown
from nodestore.etcd import maintenance
from nodestore.etcd.access_control import EtcdAccessControl
from nodestore.schema.keys import Keys
from nodestore.schema.models import Defaults, DriverConfig, Inventory, NodeConfig
from nodestore.schema.store_rights import StoreUser
from tests.support.access.closed_etcd import MAINTENANCE, ClosedEtcd
from tests.support.access.programs import OPERATOR, Programs
from tests.support.cli import Nodectl
from tests.support.etcd_cluster import bump, lose_and_restore

GONE, KEPT = StoreUser("noded", "n2"), StoreUser("noded", "n1")
MASTER, SHARED, AUTOMATION = StoreUser("masterd", "pc9"), StoreUser("noded", "n3"), StoreUser("automation", "board")
DEFAULTS = Defaults(driver=DriverConfig(name="exec", settings={"argv": ["true"]}))
PATIENCE_S = 60.0
QUOTA = 8 << 20


async def test_users_of_pcs_that_are_gone_are_found_and_deleted(keys: Keys, tmp_path: Path) -> None:
    """Not those that the command names, those of automation, and those that also have a role of another cluster."""
    etcd = ClosedEtcd(tmp_path / "ca")
    async with etcd.cluster, etcd.session(MAINTENANCE) as session:
        inventory = Inventory(nodes={"n1": NodeConfig()})
        await Configuration(session, keys).apply(inventory.model_dump(), source="", expect_version=None, actor="test")
        await etcd.enable(keys, [GONE, KEPT, MASTER, SHARED, AUTOMATION])
        auth = EtcdAccessControl(session)
        await auth.add_role("nodectl/other/noded:n3")
        await auth.grant_role(str(SHARED), "nodectl/other/noded:n3")
        nodectl = Nodectl(etcd.cluster.endpoints, keys.cluster)

        async def call(*arguments: str, code: int = 0) -> str:
            done = await nodectl(*etcd.options(MAINTENANCE), "etcd", "auth", *arguments)
            assert done.code == code, done.err
            return done.out + done.err

        found = await call("check")
        for user in (GONE, MASTER, SHARED):
            assert f"user {user}" in found
        for user in (KEPT, AUTOMATION):
            assert f"user {user}" not in found
        assert f"user {MASTER}" not in await call("check", str(MASTER))
        async with etcd.session(GONE) as gone:
            await gone.get(keys.epoch)
            said = await call("prune", str(MASTER), "--yes")
            assert f"user {GONE} removed" in said
            assert f"user {SHARED} is left, because it also has the role nodectl/other/noded:n3" in said
            with pytest.raises(Denied):
                await gone.get(keys.epoch)
        assert await auth.users() == tuple(sorted(map(str, ("root", MAINTENANCE, KEPT, MASTER, SHARED, AUTOMATION))))
        assert GONE.role(keys) not in await auth.roles()
        await call("prune", "--yes")
        assert str(MASTER) not in await auth.users()
        await call("enable", "--yes")  # gives it no user back
        assert str(MASTER) not in await auth.users()


@pytest.mark.nightly
async def test_backup_recovery_and_adoption(keys: Keys, tmp_path: Path) -> None:
    """With the certificate of maintenance they work; with an operator's, one clear line says what is needed."""
    etcd, file = ClosedEtcd(tmp_path / "ca"), tmp_path / "backup.db"
    async with etcd.cluster:
        async with etcd.session(MAINTENANCE) as session:
            inventory = Inventory(nodes={"n1": NodeConfig()}, defaults=DEFAULTS)
            await Configuration(session, keys).apply(
                inventory.model_dump(), source="", expect_version=None, actor="test"
            )
            await etcd.enable(keys, [StoreUser("masterd", "m1"), OPERATOR])
        programs = Programs(etcd, keys, tmp_path)
        try:
            programs.start_master("m1")
            async with programs.client() as client:
                values = {"node": "n1", "values": {"number": 1}}
                await client.command("node.set", values, timeout_s=PATIENCE_S)
                assert (await programs.nodectl("app", "adopt", "scenes", user=OPERATOR)).code == 0
            await _refused(programs, "backup", str(file))
            assert not file.exists()
            saved = await programs.nodectl("backup", str(file))
            assert saved.code == 0, saved.err

            programs.stop("m1")
            await lose_and_restore(etcd.cluster, file, bump())
            await _refused(programs, "recover")
            recovered = await programs.nodectl("recover", "-o", "json")
            assert (recovered.code, recovered.json["epoch"]) == (0, 2), recovered.err
            programs.start_master("m1")
            async with programs.client() as client:
                await client.command("node.set", values, timeout_s=PATIENCE_S)
            checked = await programs.nodectl("etcd", "auth", "check", "-o", "json")  # the users are in the backup
            assert (checked.code, checked.json) == (0, []), checked.err
        finally:
            for name in tuple(programs.running):
                programs.stop(name)
            print(programs.logs(), file=sys.stderr)  # noqa: T201 - shown if the test fails


async def _refused(programs: Programs, *arguments: str) -> None:
    """For an operator: denied, in a line that names what is needed."""
    done = await programs.nodectl(*arguments, user=OPERATOR)
    assert done.code == 6, done.err
    assert "maintenance" in done.err, done.err


async def test_a_full_etcd(keys: Keys, tmp_path: Path) -> None:
    """A master with the certificate of maintenance frees space and disarms the alarm."""
    etcd = ClosedEtcd(tmp_path / "ca", flags=(f"--quota-backend-bytes={QUOTA}",))
    async with etcd.cluster, etcd.session(MAINTENANCE) as session:
        await etcd.enable(keys, [StoreUser("masterd", "m1"), OPERATOR])
        cert, key = etcd.files(MAINTENANCE)
        programs = Programs(etcd, keys, tmp_path)
        try:
            own = (f"--maintenance-cert={cert}", f"--maintenance-key={key}")
            programs.start_master("m1", "", f"--etcd-quota-bytes={QUOTA}", "--lease-ttl=60s", *own)
            async with programs.client() as client:
                await client.command("scene.save", {"name": "a", "nodes": {}}, timeout_s=PATIENCE_S)
                for number in itertools.count():
                    try:
                        await session.put(f"/foreign/{number % 4}", bytes(200_000))
                    except NoSpaceUnknown:
                        break
                await client.command("scene.save", {"name": "b", "nodes": {}}, timeout_s=PATIENCE_S)
            assert not await maintenance.alarms(session)
        finally:
            for name in tuple(programs.running):
                programs.stop(name)
            print(programs.logs(), file=sys.stderr)  # noqa: T201 - shown if the test fails
