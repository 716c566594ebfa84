"""Begins, moves and ends the sessions of web browsers. They are in etcd, so every master knows them.

A login grants a lease of etcd and writes `access/sessions/<id>` with it: the hash of the cookie's secret, and the id of
the token's grant. So a person who reads etcd or a backup cannot use a session, and role and limits are always those of
the grant: a token that is revoked ends its sessions.

- **Idle end.** Requests with the cookie renew the lease, a few times in its TTL. No clock of a PC decides it, a renewal
  writes nothing, and it cannot bring back a session that has ended. After the absolute end, or without its grant, a
  session is not renewed any more, so its key disappears by itself.
- **Move.** A cookie belongs to one host. To use another master, the browser asks for a code and brings it there.
  `access/codes/<id>` has a lease of its own, of 20 s. One transaction deletes the code and writes the new session; it
  compares both the code and the session that asked for it, so a code works once, and not after the end of its session.
  The new session has the same lease and the same absolute end.
- **Logout** revokes the lease. That deletes all sessions of the login in one step of raft. A late copy of a login or of
  a move then fails, because it attaches its key to a lease that has ended.

If masterd dies between the grant of a lease and the transaction, the lease ends without an effect. If the answer of the
transaction is lost, the session exists and no browser has its cookie: it ends when it is idle. The answer to a login
waits until this masterd's watch shows the session, so that the next request is accepted here.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from masterd.replication.cluster_view import KeyMirror
from nodestore.cluster.settled_writes import delete_settled
from nodestore.errors import Conflict, NodectlError
from nodestore.etcd.lease import renew_once
from nodestore.etcd.session import Etcd, Op, cmp_create, cmp_mod, op_delete, op_put
from nodestore.schema.keys import Keys
from nodestore.schema.models import BrowserSession, MoveCode, decode_or_none
from nodestore.support.logs import RateLimitedLog
from nodestore.support.tasks import background_task
from nodestore.support.tokens import CODE_PREFIX, SESSION_PREFIX, Token, hash_of, is_secret, new_token
from nodestore.support.waiting import set_within

log = logging.getLogger(__name__)

CODE_S = 20
SESSIONS_MAX, SESSIONS_PER_TOKEN_MAX = 2_000, 64
_KNOWN_S = 2.0
_RENEWALS_PER_IDLE = 16
_RENEWAL_S = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionLimits:
    """How long a session lasts: without a request, and in all. In seconds."""

    idle_s: int
    lasts_s: float


class BrowserSessions:
    """The sessions of one cluster.

    known: they as this masterd's watch shows them. clock: the time, as seconds since 1970, at which sessions end.
    """

    def __init__(
        self,
        etcd: Etcd,
        keys: Keys,
        known: KeyMirror[BrowserSession],
        clock: Callable[[], float],
        limits: SessionLimits,
    ) -> None:
        self._etcd, self._keys, self._known, self._clock, self._limits = etcd, keys, known, clock, limits
        self._beginning = asyncio.Lock()
        self._renewed_at: dict[int, float] = {}
        """By lease: when this masterd renewed it last. Monotonic."""
        self._due: set[int] = set()
        self._renewing: asyncio.Task[None] | None = None
        self._limited_log = RateLimitedLog(log, 60.0)

    # --- which sessions are valid ---

    def find(self, cookie: Token) -> BrowserSession | None:
        """The session of this cookie; None if there is none that is valid. It takes as long in both cases."""
        session = self._known.items.get(cookie.id)
        if not is_secret("" if session is None else session.hash, cookie.secret):
            return None
        return self.by_id(cookie.id)

    def by_id(self, session_id: str) -> BrowserSession | None:
        """The session with this id; None if there is none that is valid."""
        session = self._known.items.get(session_id)
        return None if session is None or self._clock() >= session.ends else session

    # --- their begin and end ---

    async def begin(
        self, grant_id: str, grant_ends: float | None, address: str, replaces: str | None
    ) -> tuple[Token, BrowserSession]:
        """Begin a session of the bearer of this grant's token; return its cookie.

        grant_ends: when the grant ends. replaces: the id of the session that this browser has here; it ends. If the
        token has too many sessions, its oldest login ends. Raises Conflict if there are too many in all, and
        NodectlError if etcd fails.
        """
        async with self._beginning:
            await self._make_room(grant_id)
            replaced = self._known.items.get(replaces or "")
            now, cookie = self._clock(), new_token(SESSION_PREFIX)
            lease, idle_s = await self._etcd.grant(self._limits.idle_s)
            ends = now + self._limits.lasts_s if grant_ends is None else min(now + self._limits.lasts_s, grant_ends)
            session = BrowserSession(
                grant=grant_id, hash=hash_of(cookie.secret), lease=lease, idle_s=idle_s, address=address,
                time=now, ends=ends,
            )  # fmt: skip
            key = self._keys.browser_session(cookie.id)
            await self._etcd.txn(
                [cmp_create(key, 0)], [*self._deleted(replaces), op_put(key, session.encode(), lease=lease)]
            )
            await self._wait_known(lambda: cookie.id in self._known.items)
            await self._end_unused(replaced)
            return cookie, session

    async def _end_unused(self, replaced: BrowserSession | None) -> None:
        """Revoke the lease of a session that was replaced, unless its login has sessions at other masters. Otherwise a
        browser that logs in again and again would leave a lease each time, until it is idle for long enough."""
        if replaced is None or self._ids_of(replaced.lease):
            return
        try:
            await self._etcd.revoke(replaced.lease)
        except NodectlError as error:
            log.debug("the lease of a replaced browser session stays until it ends: %s", error)

    def _deleted(self, session_id: str | None) -> list[Op]:
        return [] if session_id is None else [op_delete(self._keys.browser_session(session_id))]

    async def _make_room(self, grant_id: str) -> None:
        """Other masters may begin sessions at the same moment, so the limits may be exceeded by a few."""
        if len(self._known.items) >= SESSIONS_MAX:
            raise Conflict(f"there are {SESSIONS_MAX} browser sessions already: log out of some, or revoke tokens")
        own = [item for item in self._known.items.values() if item.grant == grant_id]
        if len(own) >= SESSIONS_PER_TOKEN_MAX:
            await self._end_lease(min(own, key=lambda item: item.time).lease)

    async def end(self, session: BrowserSession) -> None:
        """End the login of this session, at all masters. Raises Unavailable if etcd does not answer: then it may still
        end later."""
        await self._end_lease(session.lease)

    async def end_all_of(self, grant_id: str) -> None:
        """End all sessions of the bearer of this grant's token. Raises the same errors as `end`."""
        for lease in {item.lease for item in self._known.items.values() if item.grant == grant_id}:
            await self._end_lease(lease)

    async def _end_lease(self, lease: int) -> None:
        await self._etcd.revoke(lease)
        await self._wait_known(lambda: not self._ids_of(lease))
        for session_id in self._ids_of(lease):  # its key has another lease than it says: another program wrote it
            await delete_settled(self._etcd, self._keys.browser_session(session_id), "this session")

    def _ids_of(self, lease: int) -> list[str]:
        return [session_id for session_id, item in self._known.items.items() if item.lease == lease]

    async def _wait_known(self, is_known: Callable[[], bool]) -> None:
        """Wait until the watch has shown the change here, for at most two seconds."""
        changed = asyncio.Event()
        unsubscribe = self._known.subscribe(lambda _: changed.set() if is_known() else None)
        try:
            if not is_known():
                await set_within(changed, _KNOWN_S)
        finally:
            unsubscribe()

    # --- the move to another master ---

    async def new_code(self, session_id: str, grant_id: str, origin: str) -> Token:
        """A code that takes this session to the master at `origin`, once, within CODE_S seconds. Raises Conflict if its
        token has too many sessions."""
        if sum(item.grant == grant_id for item in self._known.items.values()) >= SESSIONS_PER_TOKEN_MAX:
            raise Conflict(f"this token has {SESSIONS_PER_TOKEN_MAX} sessions already: log out of some")
        code = new_token(CODE_PREFIX)
        record = MoveCode(hash=hash_of(code.secret), session=session_id, origin=origin, time=self._clock())
        lease, _ = await self._etcd.grant(CODE_S)
        key = self._keys.move_code(code.id)
        await self._etcd.txn([cmp_create(key, 0)], [op_put(key, record.encode(), lease=lease)])
        return code

    async def exchange(
        self, code: Token, origin: str, address: str, replaces: str | None
    ) -> tuple[Token, BrowserSession] | None:
        """The cookie and the session at this master, for a code that another one has made. None if the code is not
        valid, was used, or its session has ended.

        origin: the address at which the browser has opened this master. replaces: see `begin`.
        """
        code_key = self._keys.move_code(code.id)
        code_kv = await self._etcd.get(code_key)
        record = decode_or_none(MoveCode, code_kv)
        is_right = is_secret("" if record is None else record.hash, code.secret)
        if record is None or code_kv is None or not is_right or record.origin != origin:
            return None
        session_key = self._keys.browser_session(record.session)
        session_kv = await self._etcd.get(session_key)
        before = decode_or_none(BrowserSession, session_kv)
        if before is None or session_kv is None or self._clock() >= before.ends:
            return None
        replaced, cookie = self._known.items.get(replaces or ""), new_token(SESSION_PREFIX)
        session = before.model_copy(
            update={"hash": hash_of(cookie.secret), "address": address, "time": self._clock()}
        )  # fmt: skip
        found = await self._etcd.txn(
            [cmp_mod(code_key, code_kv.mod_revision), cmp_mod(session_key, session_kv.mod_revision)],
            [op_delete(code_key), *self._deleted(None if replaces == record.session else replaces),
             op_put(self._keys.browser_session(cookie.id), session.encode(), lease=session.lease)],
        )  # fmt: skip
        if not found.succeeded:
            return None
        await self._wait_known(lambda: cookie.id in self._known.items)
        await self._end_unused(replaced)
        return cookie, session

    # --- the idle end ---

    def note_use(self, session: BrowserSession) -> None:
        """A request used this session: renew its lease, unless that was done a short time ago."""
        now = time.monotonic()
        if now - self._renewed_at.get(session.lease, -session.idle_s) < session.idle_s / _RENEWALS_PER_IDLE:
            return
        if len(self._renewed_at) >= SESSIONS_MAX:
            living = {item.lease for item in self._known.items.values()}
            self._renewed_at = {lease: at for lease, at in self._renewed_at.items() if lease in living}
        self._renewed_at[session.lease] = now
        self._due.add(session.lease)
        if self._renewing is None:
            self._renewing = background_task(self._renew(), name="renewal of browser sessions")

    async def _renew(self) -> None:
        """Renew the leases that are due. One that fails is due again at the next request."""
        try:
            while self._due:
                leases = sorted(self._due)
                self._due.clear()
                try:
                    await renew_once(self._etcd, leases, _RENEWAL_S)
                except NodectlError as error:
                    for lease in leases:
                        self._renewed_at.pop(lease, None)
                    self._limited_log.log(logging.WARNING, f"browser sessions were not renewed: {error}")
                    return
        finally:
            self._renewing = None

    async def close(self) -> None:
        """End a renewal that is in progress."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait({self._renewing})
