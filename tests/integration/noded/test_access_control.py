"""A noded with the rights that docs/noded.md names."""

from __future__ import annotations

import asyncio
from pathlib import Path

from nodestore.etcd.session import Etcd, EtcdSettings
from nodestore.processes import child_processes
from nodestore.schema.keys import Keys
from tests.support.etcd_cluster import EtcdCluster, find_etcd
from tests.support.noded.noded_rig import NODE, TIMEOUT_S, Rig, runs


async def test_least_privilege(keys: Keys, tmp_path: Path) -> None:
    """With the rights that docs/noded.md names, and no others, a node works; when they are taken away for a while,
    the work goes on."""
    cluster = EtcdCluster(1)
    try:
        cluster.spawn()
        await cluster.wait_healthy()
        await _restrict(cluster, keys)
        (tmp_path / "password").write_text("pw\n")
        root = EtcdSettings(endpoints=cluster.endpoints, user="root", password="root")
        async with Etcd(root) as etcd:
            node = Rig(etcd, cluster.endpoints, keys, tmp_path)
            try:
                await node.order("one", 1)
                noded = await node.start("--user", NODE, "--password-file", str(tmp_path / "password"))
                pid = await node.shows("one")
                await node.ready(1)
                await _ctl(cluster, "--user=root:root", "user", "revoke-role", NODE, "noded")
                await node.says(noded, "cannot claim node n1")
                assert runs(pid)
                await _ctl(cluster, "--user=root:root", "user", "grant-role", NODE, "noded")
                await node.order("two", 2)
                await node.ready(2)
                assert await node.shows("two") == pid
            finally:
                await node.close()
    finally:
        cluster.stop()


async def _ctl(cluster: EtcdCluster, *command: str) -> None:
    etcd = find_etcd()
    argv = [str(etcd.with_name(etcd.name.replace("etcd", "etcdctl"))), f"--endpoints={cluster.endpoints[0]}", *command]
    done = await asyncio.to_thread(child_processes.run, argv, timeout_s=TIMEOUT_S)
    assert done.returncode == 0, done


async def _restrict(cluster: EtcdCluster, keys: Keys) -> None:
    """Turn access control on, with the user and the rights of one node."""
    await _ctl(cluster, "role", "add", "noded")
    rights = {keys.desired_of(NODE): "read", keys.status_of(NODE): "readwrite", keys.alive_of(NODE): "readwrite"}
    for key, right in rights.items():
        await _ctl(cluster, "role", "grant-permission", "noded", right, key)
    for user, role in ((f"{NODE}:pw", "noded"), ("root:root", "root")):
        await _ctl(cluster, "user", "add", user)
        await _ctl(cluster, "user", "grant-role", user.split(":")[0], role)
    await _ctl(cluster, "auth", "enable")
