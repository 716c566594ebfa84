"""Forgets a PC that leaves, once its member is out: its users in etcd, its certificates, its record. In this order.

A crash between two steps leaves the record, by which the next pass does all of them again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence

from hostd.agent.plan import ListedMember
from hostd.pc.identities import subjects_of
from hostd.pc.layout import Layout
from hostd.placement.first_inventory import remove_node
from nodestore.cluster.settled_writes import delete_settled
from nodestore.errors import NotFound
from nodestore.etcd.access_control import EtcdAccessControl
from nodestore.etcd.session import Etcd
from nodestore.pki.authority import Authorities
from nodestore.schema.keys import Keys
from nodestore.schema.models import HostRecord
from nodestore.schema.store_rights import StoreUser

log = logging.getLogger(__name__)


async def finish_leaving(
    layout: Layout, etcd: Etcd, keys: Keys, hosts: Mapping[str, HostRecord], members: Sequence[ListedMember]
) -> None:
    """Forget each PC that leaves and has no member any more."""
    places = {member.peer_url for member in members}
    for name, record in hosts.items():
        if record.state == "leaving" and record.peer_url not in places:
            await _forget(layout, etcd, keys, name, record)


async def _forget(layout: Layout, etcd: Etcd, keys: Keys, name: str, record: HostRecord) -> None:
    auth = EtcdAccessControl(etcd)
    for subject in subjects_of(record.kind, name):
        if StoreUser.parse(str(subject)) is not None:
            await auth.delete_user(str(subject))
    await asyncio.to_thread(_revoke, layout, record, name)
    await remove_node(etcd, keys, name, actor="hostd")
    for key in (keys.host_actual(name), keys.alive_of(name), keys.host(name)):
        await delete_settled(etcd, key, f"the record of {name}")
    log.info("%s has left the cluster: its users in etcd are deleted, its certificates are revoked", name)


def _revoke(layout: Layout, record: HostRecord, name: str) -> None:
    authorities = Authorities(layout.pki)
    for subject in subjects_of(record.kind, name):
        with contextlib.suppress(NotFound):  # it was issued by another signer, or never
            authorities.revoke(subject)
