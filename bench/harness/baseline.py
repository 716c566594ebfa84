"""The session for bare operations: calls of etcd itself, with which commands are compared.

It uses the leading masterd's etcd member, which runs on that masterd's PC.

A member that does not lead etcd forwards every write to the one that does, and masterd keeps etcd's leadership away
from its PC. Bare puts to a member that leads would save a hop that the compared commands have to make.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from bench.harness.cluster import BenchCluster, poll_until
from nodestore.errors import NodectlError
from nodestore.etcd import maintenance
from nodestore.etcd.session import Etcd

_NOT_LEADING_TIMEOUT_S = 15.0
"""A new leader moves etcd's leadership away from its PC within some 12 s."""


class Baseline:
    """A session for bare operations. endpoints: those of the leading masterd, `master`, its own member first.

    tls_files: the paths of the authority, the certificate and the key of the session; empty without TLS.
    """

    def __init__(self, bench_cluster: BenchCluster, etcd: Etcd, master: str) -> None:
        self.etcd, self.endpoints = etcd, etcd.settings.endpoints
        self._bench_cluster, self._master = bench_cluster, master
        files = (etcd.settings.ca, etcd.settings.cert, etcd.settings.key)
        self.tls_files = tuple(str(path) for path in files if path is not None)
        self._led: list[bool] = []

    async def wait_not_leading(self) -> None:
        """Wait until the member does not lead etcd, for at most 15 s; then report it and go on."""

        async def does_not_lead() -> bool:
            return not await self._leads_etcd()

        try:
            await poll_until(
                does_not_lead, f"etcd's leader leaves the PC of {self._master}", 0.5, within_s=_NOT_LEADING_TIMEOUT_S
            )
        except NodectlError as error:
            self._bench_cluster.report(str(error))
        del self._led[:-1]  # keep only the last check: the earlier ones precede the measurement

    async def _leads_etcd(self) -> bool:
        status = await maintenance.status(self.etcd, self.endpoints[0])
        self._led.append(status.leader == status.member)
        return self._led[-1]

    async def describe_member(self) -> str:
        """Describe which member was used and whether it led etcd, after the measurement. Raises nothing."""
        try:
            await self._leads_etcd()
            leader = (await self._bench_cluster.client.leader()).id
        except NodectlError as error:
            return f"Bare operations began at {self.endpoints[0]}; the state at the end is not known: {error}."
        members = self._bench_cluster.cluster.record.parts_of("etcd")
        names = {f"{part.ports['client']}": name for name, part in members.items()}
        used = [names[endpoint.rpartition(":")[2]] for endpoint in (self.endpoints[0], self.etcd.endpoint)]
        return describe(used, (self._master, leader), self._led)


def describe(members: Sequence[str], masters: Sequence[str], led: Sequence[bool]) -> str:
    """Describe the baseline. members, masters: at the beginning and at the end. led: whether the member led etcd."""
    leads = "leads etcd" if all(led) else "led etcd for a part of the time" if any(led) else "does not lead etcd"
    text = f"Bare operations go to {members[0]}, the member that the leading masterd, {masters[0]}, uses: it {leads}."
    if members[1] != members[0]:
        text += f" Their session had to go on with {members[1]}."
    if masters[1] != masters[0]:
        text += f" At the end {masters[1]} led."
    return text


def endpoints_of(argv: Sequence[str]) -> tuple[str, ...]:
    """Return the etcd endpoints in a masterd's command line, in order. Raises NodectlError if there are none."""
    try:
        return tuple(argv[argv.index("--endpoints") + 1].split(","))
    except (ValueError, IndexError):
        raise NodectlError(f"no --endpoints in `{' '.join(argv)}`") from None


@asynccontextmanager
async def baseline_at_leader(bench_cluster: BenchCluster) -> AsyncIterator[Baseline]:
    """Open a baseline at the member of the current leader, once that member does not lead etcd."""
    master = (await bench_cluster.client.leader()).id
    process = bench_cluster.cluster.processes[master].process
    assert process is not None
    async with Etcd(bench_cluster.etcd_settings(endpoints_of(process.argv))) as etcd:
        baseline = Baseline(bench_cluster, etcd, master)
        await baseline.wait_not_leading()
        yield baseline
