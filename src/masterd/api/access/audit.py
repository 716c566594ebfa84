"""The audit log of one masterd: refusals, logins, and changes of access control, as JSON lines in bounded files.

Commands, configurations and terms are in the journal and in etcd, with their authors. The audit log holds what is not
there. A masterd records what it decided itself, so `nodectl audit` reads the logs of all of them.

Recording never waits: an entry goes to memory, and a thread writes it within a second. Equal events of the same second
are one entry with their number, so that a flood of refusals does not fill the disk. A disk that is slow or full costs
entries of the file, which are counted, and nothing else.

Changes have a log of their own. Anybody who reaches the port can cause refusals, and the bounds of their log are such
that enough of them remove the older ones. They must not remove what an admin did.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from masterd.api.access.event_log import ENTRIES_MAX, EventLog
from masterd.roles.principal import Principal
from nodestore.schema.api_types import AuditEntry

_REFUSED, _LOGIN = "refused", "login"


class AuditLog:
    """Records events. path: the file of the refusals, which is made when it is needed, with that of the changes in the
    same folder; None: the events are in memory only."""

    def __init__(self, path: Path | None = None, clock: Callable[[], float] = time.time) -> None:
        self.on_entry: Callable[[AuditEntry], None] = lambda _: None
        """Called with each entry, a second after its event."""
        self._refusals = EventLog(path, clock, self._pass_on)
        self._changes = EventLog(None if path is None else changes_file(path), clock, self._pass_on)

    def _pass_on(self, entry: AuditEntry) -> None:
        self.on_entry(entry)

    def record_refusal(self, principal: Principal, *, request: str, detail: str) -> None:
        """Record that a request was refused. request: its method and path. detail: why."""
        self._refusals.record(_REFUSED, principal, request=request, detail=detail)

    def record_login(self, principal: Principal, *, request: str) -> None:
        """Record that a credential was accepted. Who has one can cause many such entries, from many addresses, so they
        are kept with the refusals."""
        self._refusals.record(_LOGIN, principal, request=request)

    def record_session(self, event: str, principal: Principal, *, request: str, detail: str = "") -> None:
        """Record that a browser session began, moved or ended. Its sender needs no right but that of its token, so this
        must not remove what an admin did."""
        self._refusals.record(event, principal, request=request, detail=detail)

    def record_change(self, event: str, principal: Principal, *, request: str = "", detail: str = "") -> None:
        """Record a change of access control."""
        self._changes.record(event, principal, request=request, detail=detail)

    async def entries(self, limit: int) -> list[AuditEntry]:
        """The newest entries, at most `limit` and ENTRIES_MAX, oldest first. Up to half of them are changes, even if
        all of the newest entries are refusals."""
        limit = min(limit, ENTRIES_MAX)
        refusals, changes = await asyncio.gather(self._refusals.entries(limit), self._changes.entries(limit))
        kept = _newest(changes, (limit + 1) // 2)
        both = sorted([*refusals, *changes[: len(changes) - len(kept)]], key=_time)
        return sorted([*_newest(both, limit - len(kept)), *kept], key=_time)

    async def close(self) -> None:
        """Write what is in memory, for at most a second."""
        await asyncio.gather(self._refusals.close(), self._changes.close())


def changes_file(path: Path) -> Path:
    """The file of the changes. path: that of the refusals."""
    return path.with_name(f"{path.stem}-changes{path.suffix}")


def _newest(entries: list[AuditEntry], count: int) -> list[AuditEntry]:
    return entries[max(0, len(entries) - count) :]


def _time(entry: AuditEntry) -> float:
    return entry["time"]
