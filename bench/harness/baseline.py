"""The session for the bare operations: on the etcd member that the leading masterd uses, its own PC's.

A member that does not lead etcd passes every write on to the one that does, and masterd keeps etcd's leadership away
from its PC: bare puts to a member that happens to lead would save a hop that the commands beside them have to make.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from bench.harness.cluster import BenchCluster, poll_until
from nodestore.errors import NodectlError
from nodestore.etcd.session import Etcd, EtcdSettings

_NOT_LEADING_TIMEOUT_S = 15.0
"""A new leader has etcd's leadership moved away within some 12 s."""


class Baseline:
    """One such session. endpoints: as the leading masterd, `master`, was started with them, its own member first."""

    def __init__(self, bench_cluster: BenchCluster, etcd: Etcd, master: str) -> None:
        self.etcd, self.endpoints = etcd, etcd.settings.endpoints
        self._bench_cluster, self._master = bench_cluster, master
        self._led: list[bool] = []

    async def wait_not_leading(self) -> None:
        """Waits until the member does not lead etcd, as long as that takes at most; goes on as it is then."""

        async def does_not_lead() -> bool:
            return not await self._leads_etcd()

        try:
            await poll_until(
                does_not_lead, f"etcd's leader is not beside {self._master}", 0.5, within_s=_NOT_LEADING_TIMEOUT_S
            )
        except NodectlError as error:
            self._bench_cluster.report(str(error))
        del self._led[:-1]  # what it was while nothing was measured is not told

    async def _leads_etcd(self) -> bool:
        status = await self.etcd.status(self.endpoints[0])
        self._led.append(status.leader == status.member)
        return self._led[-1]

    async def describe_member(self) -> str:
        """Which member it was and whether it led etcd, when all is measured; what is measured is not lost by it."""
        try:
            await self._leads_etcd()
            leader = (await self._bench_cluster.client.leader()).id
        except NodectlError as error:
            return f"Bare operations began at {self.endpoints[0]}; nothing is known of the end: {error}."
        members = self._bench_cluster.cluster.record.parts_of("etcd")
        names = {f"{part.ports['client']}": name for name, part in members.items()}
        used = [names[endpoint.rpartition(":")[2]] for endpoint in (self.endpoints[0], self.etcd.endpoint)]
        return describe(used, (self._master, leader), self._led)


def describe(members: Sequence[str], masters: Sequence[str], led: Sequence[bool]) -> str:
    """Members and masters: at the beginning and at the end. led: whether the member led etcd, at several times."""
    leads = "leads etcd" if all(led) else "led etcd for a part of the time" if any(led) else "does not lead etcd"
    text = f"Bare operations go to {members[0]}, the member that the leading masterd, {masters[0]}, uses: it {leads}."
    if members[1] != members[0]:
        text += f" Their session had to go on with {members[1]}."
    if masters[1] != masters[0]:
        text += f" At the end {masters[1]} led."
    return text


def endpoints_of(argv: Sequence[str]) -> tuple[str, ...]:
    """A masterd's etcd endpoints, by its command line: the one it uses first. NodectlError when it names none."""
    try:
        return tuple(argv[argv.index("--endpoints") + 1].split(","))
    except (ValueError, IndexError):
        raise NodectlError(f"no --endpoints in `{' '.join(argv)}`") from None


@asynccontextmanager
async def baseline_beside_leader(bench_cluster: BenchCluster) -> AsyncIterator[Baseline]:
    """On the member of whoever leads now, once that member does not lead etcd."""
    master = (await bench_cluster.client.leader()).id
    process = bench_cluster.cluster.processes[master].process
    assert process is not None
    async with Etcd(EtcdSettings(endpoints_of(process.argv))) as etcd:
        beside = Baseline(bench_cluster, etcd, master)
        await beside.wait_not_leading()
        yield beside
