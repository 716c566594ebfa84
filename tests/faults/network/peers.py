"""A cluster whose members talk to one another through proxies, so that a test can cut a member off from its peers
only. Its clients still reach it."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

import psutil

from tests.faults.network.proxy import Connection, Mode, Proxy
from tests.support.etcd_cluster import EtcdCluster, Member, free_ports


class _PeerProxy(Proxy):
    """The proxy in front of one member's peer port, for all other members."""

    def __init__(self, network: PeerNetwork, target: Member, target_port: int, port: int) -> None:
        super().__init__(f"127.0.0.1:{target_port}", port=port)
        self._network, self._to = network, target
        self._sources: dict[int, Member | None] = {}

    def mode(self, connection: Connection, direction: type) -> Mode:
        if self._to in self._network.isolated:
            return Mode.HOLD
        port = connection.source_port
        if port not in self._sources:
            self._sources[port] = self._network.owner(port)
        return Mode.HOLD if self._sources[port] in self._network.isolated else Mode.FORWARD


class PeerNetwork:
    """`async with PeerNetwork(3) as network` starts a cluster and waits until `network.cluster` is healthy."""

    def __init__(self, size: int) -> None:
        ports = free_ports(size)
        self.cluster = EtcdCluster(size, advertised_peer_ports=ports)
        self.isolated: set[Member] = set()
        self._proxies = [
            _PeerProxy(self, member, target, port)
            for member, target, port in zip(self.cluster.members, self.cluster.peer_ports, ports, strict=True)
        ]

    def owner(self, port: int) -> Member | None:
        """Return the member whose outgoing connection has this local port."""
        for member in self.cluster.members:
            if member.running:
                connections = psutil.Process(member.pid).net_connections("tcp4")
                if any(connection.laddr and connection.laddr.port == port for connection in connections):
                    return member
        return None

    def isolate(self, *members: Member) -> None:
        """Hold all messages from and to these members, without closing a connection."""
        self.isolated |= set(members)

    def heal(self) -> None:
        self.isolated.clear()
        for proxy in self._proxies:
            proxy.poke()

    async def __aenter__(self) -> Self:
        await asyncio.gather(*(proxy.listen() for proxy in self._proxies))
        try:
            await self.cluster.__aenter__()
        except BaseException:
            await self._stop()
            raise
        return self

    async def _stop(self) -> None:
        self.cluster.stop()
        await asyncio.gather(*(proxy.cut() for proxy in self._proxies))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()
