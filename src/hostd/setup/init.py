"""`nodectl host init`: makes the first PC of a cluster. docs/hosts.md has the steps and their interruptions."""

from __future__ import annotations

import asyncio
import getpass
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from hostd.agent.link import session_settings
from hostd.agent.memory import HostMemory
from hostd.agent.plan import FIRST_MEMBER, MemberMark
from hostd.agent.services import Services
from hostd.pc.client_config import OPERATOR, write_client_config
from hostd.pc.definitions import ETCD, MASTERD, NODED, Definitions
from hostd.pc.host_file import HostFile, ManagerKind, save_host_file
from hostd.pc.identities import fingerprint, make_requests, subjects_of, write_certificates
from hostd.pc.layout import Layout
from hostd.pc.managers import manager_of
from hostd.placement.first_inventory import add_node
from hostd.setup.preflight import check_has_authorities, check_ports, check_space, former_host_file
from hostd.setup.steps import Steps
from hostd.setup.tokens import NewJoinToken, create_join_token
from hostd.setup.waiting import start_hostd, wait_for_services
from hostd.signing.joins import add_host, content_of, sign_all
from nodestore.cluster.grants import Grants
from nodestore.cluster.store_access import OpenSession, StoreAccess
from nodestore.errors import Denied, NodectlError, Unavailable
from nodestore.etcd import maintenance
from nodestore.etcd.session import Etcd
from nodestore.pki.authority import Authorities
from nodestore.pki.identity import Subject
from nodestore.schema.host_models import HostPorts, url_host
from nodestore.schema.keys import Keys, check_name
from nodestore.schema.models import HostRecord, LeaderRecord, decode_or_none
from nodestore.schema.store_rights import StoreUser
from nodestore.support.backoff import Backoff
from nodestore.support.waiting import wait_until

_ETCD_TIMEOUT_S, _LEADER_TIMEOUT_S = 60.0, 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class InitWish:
    """What the first PC is to be. etcd: the path of etcd's server."""

    cluster: str
    host: str
    address: str
    etcd: Path
    manager: ManagerKind
    ports: HostPorts = field(default_factory=HostPorts)
    members_wanted: int = 3
    hostd_options: tuple[str, ...] = ()

    def host_file(self) -> HostFile:
        return HostFile(
            host=check_name("host", self.host),
            cluster=check_name("cluster", self.cluster),
            address=self.address,
            kind="host",
            ports=self.ports,
            manager=self.manager,
            python=sys.executable,
            etcd=str(self.etcd),
            signers=(f"{url_host(self.address)}:{self.ports.host}",),
            endpoints=(f"{url_host(self.address)}:{self.ports.client}",),
            members_wanted=self.members_wanted,
            hostd_options=self.hostd_options,
        )


async def init(layout: Layout, wish: InitWish, steps: Steps) -> NewJoinToken:
    """Make this PC the first one of a cluster, or finish an earlier run. Returns a token for the other PCs."""
    return await _Init(layout, wish.host_file(), steps).run()


class _Init:
    def __init__(self, layout: Layout, host: HostFile, steps: Steps) -> None:
        self._layout, self._host, self._steps = layout, host, steps
        self._keys = Keys(host.cluster)
        self._authorities = Authorities(layout.pki)

    async def run(self) -> NewJoinToken:
        host, run = self._host, self._steps.run
        self._check()
        await run("authorities", "made the authorities of the cluster", self._make_authorities())
        await run("certificates", "issued the certificates of this PC", self._issue())
        await run("host file", f"this PC is {host.host} of the cluster {host.cluster}", self._save_host_file())
        await run("etcd", f"etcd runs at {host.own_endpoint}", self._start_etcd())
        async with Etcd(session_settings(self._layout, host, (host.own_endpoint,), "maintenance")) as etcd:
            await run("rights", "access control of etcd is on", self._set_rights(etcd))
            await run("record", "access control of the masters is on", self._write_records(etcd))
            write_client_config(self._layout, host, (host.own_endpoint,))
            await run("hostd", "hostd runs", start_hostd(self._layout, host))
            await wait_for_services(self._layout, (ETCD, MASTERD, NODED), self._steps.report)
            await run("leader", f"{host.host} is the master", self._wait_for_leader(etcd))
            return await create_join_token(self._layout, etcd, self._keys, actor=_person())

    def _check(self) -> None:
        former = former_host_file(self._layout, self._host)
        if former is None:
            check_ports(self._host.address, "host", self._host.ports, signer=True)
        else:
            check_has_authorities(self._layout, former)
        check_space((self._layout.etc, self._layout.var))

    async def _make_authorities(self) -> None:
        self._layout.make_directories(data=True)
        await asyncio.to_thread(self._authorities.init, self._host.cluster)

    async def _issue(self) -> None:
        await asyncio.to_thread(self._issue_now)

    def _issue_now(self) -> None:
        host = self._host
        requests = {kind: text.decode() for kind, text in make_requests(self._layout, "host", host.host).items()}
        signed = sign_all(self._authorities, "host", host.host, host.address, requests)
        contents = {kind: {name: content_of(text) for name, text in files.items()} for kind, files in signed.items()}
        write_certificates(self._layout, contents)
        self._authorities.issue(Subject("operator", OPERATOR), out=self._layout.tls("operator"))

    async def _save_host_file(self) -> None:
        save_host_file(self._layout.host_file, self._host)

    async def _start_etcd(self) -> None:
        memory = HostMemory(self._layout.hostd)
        mark = memory.mark()
        if mark is None:
            mark = MemberMark(FIRST_MEMBER, {self._host.host: self._host.peer_url}, existing=False)
            memory.save_mark(mark)
        definition = Definitions(self._layout, self._host).etcd(mark.initial_cluster, existing=mark.existing)
        await Services(manager_of(self._host.manager, self._layout), memory).ensure(definition)
        own = self._host.own_endpoint

        async def check() -> str | None:
            async with Etcd(session_settings(self._layout, self._host, (own,), "maintenance")) as etcd:
                await maintenance.check_serving(etcd, own)
            return None

        await wait_until(
            check, "etcd serves", _ETCD_TIMEOUT_S, Backoff(0.1, 0.5), details=lambda: f". See {definition.log}"
        )

    async def _set_rights(self, etcd: Etcd) -> None:
        users = [StoreUser.parse(str(subject)) for subject in subjects_of("host", self._host.host)]
        users.append(StoreUser("operator", OPERATOR))
        access = StoreAccess(etcd, self._keys, f"maintenance:{self._host.host}", filter(None, users))
        await access.set_rights(lambda _: None, None)
        if not await access.is_enabled():
            await access.switch_on(_sessions_like(etcd))

    async def _write_records(self, etcd: Etcd) -> None:
        grants = Grants(etcd, self._keys)
        if (control := await grants.access_control()) is None or not control.enabled:
            await grants.create(OPERATOR, "admin", actor=_person(), certificate=True)
            await grants.set_access_control(enabled=True, actor=_person())
        key = fingerprint((self._layout.tls("hostd") / f"{self._host.host}.csr").read_bytes())
        record = HostRecord(
            address=self._host.address, kind="host", ports=self._host.ports, signer=True, key=key, actor=_person(),
            time=time.time(),
        )  # fmt: skip
        while await etcd.get(self._keys.host(self._host.host)) is None:
            changes = await etcd.get(self._keys.host_changes)
            await add_host(etcd, self._keys, self._host.host, record, changes.mod_revision if changes else 0)
        await add_node(etcd, self._keys, self._host.host, self._host.address, _person())

    async def _wait_for_leader(self, etcd: Etcd) -> None:
        async def check() -> str | None:
            try:
                found = decode_or_none(LeaderRecord, await etcd.get(self._keys.leader))
            except Denied as error:
                raise Unavailable(str(error)) from None
            return "no master leads" if found is None else None

        await wait_until(check, "a master leads", _LEADER_TIMEOUT_S, Backoff(0.1, 0.5))


def _sessions_like(etcd: Etcd) -> OpenSession:
    def session(user: str, password: str) -> Etcd:
        return Etcd(replace(etcd.settings, user=user, password=password, password_file=None))

    return session


def _person() -> str:
    """Who runs this command, for the record."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        raise NodectlError("the name of this user is not known to the system") from None
