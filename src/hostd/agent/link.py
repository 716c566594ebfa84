"""hostd's link with etcd: reads the record of this PC and the list of members, and writes what hostd found.

While etcd does not answer, or refuses this PC, hostd goes on with what etcd said last.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import NoReturn

from hostd.agent.plan import ListedMember
from hostd.agent.reconcile import Reconciler
from hostd.pc.host_file import HostFile
from hostd.pc.layout import Layout
from nodestore.errors import LeaseLost, NodectlError
from nodestore.etcd.lease import Lease
from nodestore.etcd.membership import current_members
from nodestore.etcd.session import Etcd, EtcdSettings
from nodestore.schema.keys import Keys
from nodestore.schema.models import HostActual, HostRecord, decode
from nodestore.support.tasks import run_until_first_ends
from nodestore.support.waiting import set_within

log = logging.getLogger(__name__)

_TTL_S = 10
_RETRY_S = 1.0


def session_settings(layout: Layout, host: HostFile, endpoints: tuple[str, ...], kind: str) -> EtcdSettings:
    """The settings of a session with the certificate of one of this PC's programs. It follows the file of endpoints."""
    files = layout.tls_files(kind, host.host)
    file = layout.endpoints if layout.endpoints.exists() else None
    return EtcdSettings(endpoints=endpoints, endpoints_file=file, ca=files.ca, cert=files.cert, key=files.key)


async def listed_members(etcd: Etcd) -> tuple[ListedMember, ...]:
    """The members of etcd, as a quorum knows them."""
    found = await current_members(etcd)
    members = (
        ListedMember(item.id, item.name, item.peer_urls[0] if item.peer_urls else "", item.client_urls, item.learner)
        for item in found
    )
    return tuple(sorted(members, key=lambda item: item.id))


class Link:
    """Runs for as long as hostd does. changed: called after something new was learned."""

    def __init__(
        self, layout: Layout, host: HostFile, reconciler: Reconciler, changed: Callable[[], None], tick_s: float
    ) -> None:
        self._layout, self._host, self._reconciler = layout, host, reconciler
        self._changed, self._tick_s = changed, tick_s
        self._keys = Keys(host.cluster)
        self._new_actual = asyncio.Event()
        self.trouble = "etcd was not asked yet"
        """Why etcd's present answer is not known; empty if it is."""

    def report(self) -> None:
        """Have the newest result of a pass written to etcd."""
        self._new_actual.set()

    async def run(self) -> NoReturn:
        while True:
            endpoints = self._reconciler.endpoints
            try:
                async with Etcd(session_settings(self._layout, self._host, endpoints, "hostd")) as etcd:
                    await run_until_first_ends(read=self._read(etcd), write=self._write(etcd))
            except NodectlError as error:
                self._note(str(error))
            await asyncio.sleep(_RETRY_S if self.trouble else 0.0)

    async def _read(self, etcd: Etcd) -> NoReturn:
        """Read what this PC must be, again and again."""
        while True:
            try:
                found = await etcd.get(self._keys.host(self._host.host))
                members = await listed_members(etcd)
                state = "removed" if found is None else decode(HostRecord, found.value, found.key).state
                self._reconciler.learn(state, members)
                self._note("")
                self._changed()
            except NodectlError as error:
                self._note(str(error))
            await asyncio.sleep(self._tick_s)

    async def _write(self, etcd: Etcd) -> NoReturn:
        while True:
            try:
                lease = await Lease.grant(etcd, _TTL_S)
                await run_until_first_ends(keep=lease.keep_alive(), put=self._put_actual(etcd, lease))
            except LeaseLost:
                continue
            except NodectlError as error:
                log.debug("the report could not be written: %s", error)
            await asyncio.sleep(_RETRY_S)

    async def _put_actual(self, etcd: Etcd, lease: Lease) -> NoReturn:
        last: HostActual | None = None
        while True:
            actual = self._reconciler.actual
            if actual is not None and (last is None or _differs(last, actual)):
                await etcd.put(self._keys.host_actual(self._host.host), actual.encode(), lease=lease.id)
                last = actual
            self._new_actual.clear()
            await set_within(self._new_actual, None)

    def _note(self, trouble: str) -> None:
        if trouble and trouble != self.trouble:
            log.warning("etcd: %s; going on with what it said last", trouble)
        self.trouble = trouble


def _differs(last: HostActual, now: HostActual) -> bool:
    return last.model_copy(update={"time": now.time}) != now
