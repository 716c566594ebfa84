"""When each token and each operator's certificate was last used, and from where.

A request costs one entry in memory. Every few minutes a masterd writes what it noted to `access/uses/<grant id>`, of
which there is one for each grant. Several masterds may have noted uses of one grant: each reads the key first, leaves a
newer use as it is, and compares that the key is unchanged and that the grant still exists. So an older use never
replaces a newer one, and nothing is written for a grant that was revoked meanwhile.

Nothing depends on it. A masterd that is killed forgets the uses of the last minutes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

from aiohttp import web

from masterd.api.access.audit import AuditLog
from masterd.roles.principal import Principal
from nodestore.cluster.grants import Grants
from nodestore.errors import NodectlError
from nodestore.schema.models import CredentialUse, Grant
from nodestore.support.tasks import background_task

log = logging.getLogger(__name__)

WRITE_AFTER_S = 60.0
"""How long after the first use that is not written yet the uses are written."""
REWRITE_AFTER_S = 600.0
"""How long a grant's key stays unchanged at least, by one masterd."""
_WRITES_MAX = 100
"""How many keys are written one after the other. The others follow later."""
_NOTED_MAX, _ADDRESSES_MAX = 2_048, 4_096
_CLOSE_S = 1.0


class CredentialUses:
    """Notes the uses of credentials at one masterd, and writes them to etcd. clock: seconds since 1970.

    known: the grants that exist, as this masterd knows them.
    """

    def __init__(
        self,
        master: str,
        grants: Grants,
        known: Callable[[], Mapping[str, Grant]],
        audit: AuditLog,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._master, self._grants, self._known, self._audit, self._clock = master, grants, known, audit, clock
        self._noted: dict[str, tuple[float, str]] = {}
        """By id of the grant: the last use that is not written yet, and the address."""
        self._written_at: dict[str, float] = {}
        """By id of the grant: when this masterd wrote its key, in monotonic time."""
        self._addresses: set[tuple[str, str]] = set()
        """The grants and addresses of which a login is on record."""
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None
        self._has_ended = False

    def note(self, principal: Principal, request: web.Request) -> None:
        """Note that this principal's credential was used. The first use from an address is recorded as a login."""
        if not principal.grant_id:
            return
        seen = (principal.grant_id, principal.address)
        if seen not in self._addresses:
            self._record_login(seen, principal, request)
        if len(self._noted) < _NOTED_MAX or principal.grant_id in self._noted:
            self._noted[principal.grant_id] = (self._clock(), principal.address)
        if self._timer is None and not self._has_ended:
            self._timer = asyncio.get_running_loop().call_later(WRITE_AFTER_S, self._start_writing)

    def _record_login(self, seen: tuple[str, str], principal: Principal, request: web.Request) -> None:
        if len(self._addresses) >= _ADDRESSES_MAX:
            self._addresses.clear()  # they are recorded once more
        self._addresses.add(seen)
        self._audit.record_login(principal, request=f"{request.method} {request.path}")

    def latest(self, written: Mapping[str, CredentialUse]) -> dict[str, CredentialUse]:
        """The last use of each grant: those that are written, and newer ones that this masterd has noted."""
        latest = dict(written)
        for grant_id, (at, address) in self._noted.items():
            use = latest.get(grant_id)
            if use is None or use.time < at:
                latest[grant_id] = CredentialUse(time=at, address=address, master=self._master)
        return latest

    def _start_writing(self) -> None:
        self._timer = None
        if self._writing is None:
            self._writing = background_task(self._write(), name="credential uses")

    async def _write(self) -> None:
        try:
            for grant_id in self._due():
                at, address = self._noted.pop(grant_id)
                self._written_at[grant_id] = time.monotonic()
                if grant_id in self._known():
                    await self._grants.note_use(
                        grant_id, CredentialUse(time=at, address=address, master=self._master), self._clock()
                    )
        except NodectlError as error:
            log.debug("the last use of a credential was not written: %s", error)
        finally:
            self._writing = None
            if self._noted and not self._has_ended:
                self._timer = asyncio.get_running_loop().call_later(WRITE_AFTER_S, self._start_writing)

    def _due(self) -> list[str]:
        """The grants whose use may be written now."""
        now = time.monotonic()
        recent = {grant_id: at for grant_id, at in self._written_at.items() if now - at < REWRITE_AFTER_S}
        self._written_at = recent
        return [grant_id for grant_id in self._noted if grant_id not in recent][:_WRITES_MAX]

    async def close(self, _: web.Application | None = None) -> None:
        """Write what was noted, for at most a second."""
        self._has_ended = True
        if self._timer is not None:
            self._timer.cancel()
        self._written_at.clear()
        if self._noted:
            self._start_writing()
        if self._writing is not None:
            await asyncio.wait({self._writing}, timeout=_CLOSE_S)
