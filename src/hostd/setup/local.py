"""A session with etcd from a signer, for commands that change the set of hosts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from hostd.agent.link import session_settings
from hostd.agent.memory import HostMemory
from hostd.agent.plan import ListedMember
from hostd.pc.host_file import HostFile, require_host_file
from hostd.pc.layout import Layout
from nodestore.errors import Denied
from nodestore.etcd.session import Etcd
from nodestore.schema.keys import Keys


@asynccontextmanager
async def signer_session(layout: Layout) -> AsyncIterator[tuple[HostFile, Etcd, Keys]]:
    """The host file of this PC, a session as its maintenance user, and the keys. Denied if this PC is no signer."""
    host = require_host_file(layout.host_file)
    if not layout.pki.is_dir():
        signers = ", ".join(host.signers)
        raise Denied(f"{host.host} does not have the keys of the authorities: run this on a signer ({signers})")
    async with Etcd(session_settings(layout, host, known_endpoints(layout, host), "maintenance")) as etcd:
        yield host, etcd, Keys(host.cluster)


def known_endpoints(layout: Layout, host: HostFile) -> tuple[str, ...]:
    """The members of etcd that vote, as hostd of this PC knew them last."""
    _, members = HostMemory(layout.hostd).known()
    return voters_of(members or ()) or host.endpoints


def voters_of(members: tuple[ListedMember, ...]) -> tuple[str, ...]:
    found = (item.client_urls[0].partition("://")[2] for item in members if item.client_urls and not item.learner)
    return tuple(found)
