"""Enables authentication in an etcd, and opens sessions of its users."""

from __future__ import annotations

from nodestore.etcd.pb import etcd_pb2 as pb
from nodestore.etcd.session import Etcd, EtcdSettings
from tests.support.etcd_cluster import EtcdCluster

PASSWORD = "correct horse"
"""The password of all users."""


def user_session(cluster: EtcdCluster, user: str | None = "root", password: str | None = PASSWORD) -> Etcd:
    """Return a session that logs in as `user`; None: without a login."""
    return Etcd(EtcdSettings(endpoints=cluster.endpoints, user=user, password=password))


async def enable_auth(cluster: EtcdCluster) -> None:
    """Enable authentication: user `root` may do everything, user `stranger` nothing."""
    async with user_session(cluster, None, None) as etcd:
        for role in ("root", "nobody"):
            await etcd.call("Auth/RoleAdd", pb.AuthRoleAddRequest(name=role))
        await _add_user(etcd, "root", "root")
        await _add_user(etcd, "stranger", "nobody")
        await etcd.call("Auth/AuthEnable", pb.AuthEnableRequest())


async def _add_user(etcd: Etcd, name: str, role: str) -> None:
    await etcd.call("Auth/UserAdd", pb.AuthUserAddRequest(name=name, password=PASSWORD))
    await etcd.call("Auth/UserGrantRole", pb.AuthUserGrantRoleRequest(user=name, role=role))
