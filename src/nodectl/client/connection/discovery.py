"""Discovery of the leader: by a watch of its key in etcd, or by polling masterds. Both publish to a Leadership.

Through etcd a new leader is known within milliseconds, because the takeover *is* the change of that key. Through
masterds it is known at the next poll: every second while the leader answers; while it is in doubt, after a back-off
that begins at 20 ms.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, NoReturn, Protocol

from nodectl.client.connection.backoff import backoff
from nodectl.client.connection.errors import Broken
from nodectl.client.connection.http import Http
from nodectl.client.connection.leadership import Leader, Leadership
from nodestore.errors import Denied, Garbage, NodectlError, Unavailable
from nodestore.schema.keys import Keys
from nodestore.schema.models import Candidate, Epoch, LeaderRecord, Paused, Term, decode, decode_or_none
from nodestore.support.tasks import run_until_first_ends

if TYPE_CHECKING:
    from nodestore.etcd.session import KV, Etcd
    from nodestore.etcd.watch import Event

log = logging.getLogger(__name__)

_POLL_INTERVAL_S = 1.0
_POLL_TIMEOUT_FIRST_S = 0.3
_POLL_TIMEOUT_STEADY_S = 0.5
_POLL_TIMEOUT_MAX_S = 1.0
_DOUBT_PAUSE_MAX_S = 0.25
_READ_TIMEOUT_S = 1.0
_READ_PAUSE_FIRST_S = 0.08
"""The first pause before the key is read while the leader is in doubt.

It is longer than the first pause of other back-offs, because nearly always a watch shows the new leader within it.
"""
_LOCAL = {"consistency": "local"}
_DENIED_PAUSE_S = 5.0
_PROBE_DELAY_S = 0.1
_KNOWN_URLS_MAX = 32
_EXPLAIN_AFTER = 4
"""After so many attempts without a leader the reason is read too: a takeover usually takes less."""


class Discovery(Protocol):
    """Keeps a Leadership up to date until it is cancelled."""

    async def run(self) -> None: ...

    async def urls(self) -> tuple[str, ...]:
        """Return base URLs of masterds for reads that any of them may answer; the leader's first, if one is known."""
        ...


class HttpDiscovery:
    """Polls the given masterds, and those learned from their answers."""

    def __init__(self, http: Http, masters: tuple[str, ...], leadership: Leadership) -> None:
        self._http = http
        self._given = masters
        self._known: dict[str, None] = dict.fromkeys(masters)
        self._leadership = leadership

    async def run(self) -> None:
        pauses, failures = backoff(_DOUBT_PAUSE_MAX_S), 0
        while True:
            failures = 0 if await self._poll_round(failures) else failures + 1
            if self._leadership.is_doubtful:
                await asyncio.sleep(pauses.next_s())
            else:
                pauses.reset()
                await self._leadership.wait_for_doubt(_POLL_INTERVAL_S)

    async def urls(self) -> tuple[str, ...]:
        leader = self._leadership.leader
        return tuple(dict.fromkeys((*(leader.urls if leader else ()), *self._known)))

    async def _poll_round(self, failures: int) -> bool:
        """Poll the masterds once; return whether one of them named a leader. `failures`: failed rounds in a row."""
        # While in doubt all are polled at once, because any of them may be on a dead PC. A round lasts as long
        # as its slowest request, so the timeout is short. It grows with each failed round: the network may be slow.
        urls = tuple(dict.fromkeys((*self._leadership.take_hint(), *await self.urls())))
        if self._leadership.is_doubtful:
            timeout_s = min(_POLL_TIMEOUT_MAX_S, _POLL_TIMEOUT_FIRST_S * (failures + 1))
            return any(await asyncio.gather(*(self._poll(url, timeout_s) for url in urls)))
        for url in urls:
            if await self._poll(url, _POLL_TIMEOUT_STEADY_S):
                return True
        return False

    async def _poll(self, url: str, timeout_s: float) -> bool:
        """Publish the leader that the masterd at `url` names; False if it names none or does not answer."""
        try:
            answer = await self._http.call("GET", f"{url}/v1/leader", params=_LOCAL, timeout_s=timeout_s)
            if answer["term"]["epoch"] is None and answer["url"] != url:  # a standby that does not know the epoch
                answer = await self._http.call("GET", f"{answer['url']}/v1/leader", params=_LOCAL, timeout_s=timeout_s)
            leader = Leader.from_wire(answer)
        except Denied as error:
            self._leadership.set_refusal(error)
            return False
        except (Broken, NodectlError) as error:
            self._leadership.trouble = str(error)
            return False
        except (KeyError, TypeError, ValueError):
            self._leadership.trouble = f"the answer of {url} to GET /v1/leader is malformed: is this a masterd?"
            return False
        self._remember_urls(leader.urls)
        self._leadership.publish(leader)
        return True

    def _remember_urls(self, urls: tuple[str, ...]) -> None:
        for url in urls:
            self._known.setdefault(url.rstrip("/"))
        while len(self._known) > _KNOWN_URLS_MAX:
            oldest = next(url for url in self._known if url not in self._given)
            del self._known[oldest]


class EtcdDiscovery:
    """Watches the key `leader` through two members, and reads it while the leader is in doubt.

    The watches use two members, because one may be on the leader's PC and disappear with it without closing the
    connection. The reads also go to two members, because a member that is cut off from the others cannot answer them.
    """

    def __init__(self, etcd: Etcd, keys: Keys, leadership: Leadership) -> None:
        self._etcd = etcd
        self._keys = keys
        self._leadership = leadership
        self._epoch = 0
        self._candidate_urls: dict[str, None] = {}  # of the last candidates that were read
        self._known_revision = 0  # the key is known as of this revision; the slower watch may show an earlier one

    async def run(self) -> None:
        self._leadership.trouble = "etcd does not answer: too few of its members are up, or the endpoints are wrong"
        work = {"watch": self._watch(secondary=False), "doubt": self._poll_while_doubtful()}
        if len(self._etcd.settings.endpoints) > 1:
            work["second watch"] = self._watch(secondary=True)
        await run_until_first_ends(**work)

    async def _watch(self, *, secondary: bool) -> NoReturn:
        while True:
            try:
                await self._follow_leader_key(secondary)
            except Denied as error:
                self._leadership.set_refusal(error)
                log.warning("looking for the leader: %s", error)
            await asyncio.sleep(_DENIED_PAUSE_S)

    async def _poll_while_doubtful(self) -> NoReturn:
        """Read the key while the leader does not answer, or there is none."""
        pauses = backoff(first_s=_READ_PAUSE_FIRST_S)
        while True:
            if not self._leadership.is_doubtful:
                pauses.reset()
                await self._leadership.wait_for_doubt(_POLL_INTERVAL_S)
                continue
            await asyncio.sleep(pauses.next_s())
            if self._leadership.is_doubtful:
                await self._read_leader()
            if self._leadership.leader is None and pauses.failures >= _EXPLAIN_AFTER:
                await self._explain_absence()

    async def _read_leader(self) -> None:
        from nodestore.etcd.session import op_get

        if not self._epoch:
            return
        with contextlib.suppress(NodectlError):  # the watches report errors
            reads = [op_get(self._keys.leader), op_get(self._keys.epoch)]
            found = await self._etcd.txn_hedged([], reads, timeout_s=_READ_TIMEOUT_S)
            epoch = found.range(1).first
            if epoch is not None and decode(Epoch, epoch.value, epoch.key).epoch == self._epoch:
                self._publish_key(found.range(0).first, found.revision)

    async def _explain_absence(self) -> None:
        """Find out why there is no leader: a pause, or candidates that may not lead."""
        from nodestore.etcd.session import op_get, op_range
        from nodestore.schema.keys import prefix_end

        with contextlib.suppress(NodectlError):  # the watches report errors
            candidates = op_range(self._keys.candidates, prefix_end(self._keys.candidates), limit=_KNOWN_URLS_MAX)
            found = await self._etcd.txn([], [op_get(self._keys.leader), op_get(self._keys.paused), candidates])
            if found.range(0).first is not None:
                return
            paused = decode_or_none(Paused, found.range(1).first)
            listed = [decode_or_none(Candidate, kv) for kv in found.range(2).kvs]
            unfit = [f"{item.id}: {item.unfit}" for item in listed if item is not None and item.unfit is not None]
            reasons = [paused.text] if paused is not None else unfit
            if not reasons and not listed:
                reasons = ["no masterd runs"]
            if reasons:
                self._leadership.trouble = f"there is no leader: {'; '.join(reasons)}"

    async def urls(self) -> tuple[str, ...]:
        """Return the leader's URLs, then those of all candidates.

        Any one member answers: local reads must work without a quorum. If none does, the URLs that were read before
        are returned. Raises Unavailable if there are none.
        """
        leader = self._leadership.leader
        found = dict.fromkeys(leader.urls if leader else ())
        try:
            listing = await self._etcd.range(
                self._keys.candidates, limit=_KNOWN_URLS_MAX, serializable=True, timeout_s=_READ_TIMEOUT_S
            )
        except Unavailable:
            found |= self._candidate_urls
            if not found:
                raise
            return tuple(found)
        self._candidate_urls.clear()
        for kv in listing.kvs:
            with contextlib.suppress(Garbage):  # one unreadable candidate must not hide the others
                self._candidate_urls.update(dict.fromkeys(decode(Candidate, kv.value, kv.key).urls))
        return tuple(found | self._candidate_urls)

    async def _follow_leader_key(self, secondary: bool) -> None:
        from nodestore.etcd.watch import Listing, mirror

        async with contextlib.aclosing(
            mirror(self._etcd, self._keys.leader, prefix=False, secondary=secondary)
        ) as items:
            async for item in items:
                if isinstance(item, Listing):
                    self._leadership.trouble = ""
                    epoch = await self._read_epoch()
                    if epoch > self._epoch:  # the store was restored: its revisions may have gone back
                        self._epoch, self._known_revision = epoch, 0
                    self._publish_key(item.kvs[-1] if item.kvs else None, item.revision)
                elif item.events:
                    self._publish_key(item.events[-1], item.revision)

    async def _read_epoch(self) -> int:
        """Return the store's epoch; retry until it can be read."""
        # It changes only when a backup is restored, and then the watch starts again with a listing.
        pauses = backoff()
        while True:
            try:
                found = await self._etcd.get(self._keys.epoch)
                return decode(Epoch, found.value, found.key).epoch if found else 1
            except (Unavailable, Garbage) as error:
                self._leadership.trouble = str(error)
            await asyncio.sleep(pauses.next_s())

    def _publish_key(self, item: KV | Event | None, as_of: int) -> None:
        """Publish the leader in `item`, which is the key `leader` as of revision `as_of`.

        Ignore it if the key is already known as of a later revision.
        """
        if as_of < self._known_revision:
            return
        self._known_revision = as_of
        if item is None or item.value is None:
            self._leadership.trouble = f"there is no leader: the key {self._keys.leader} is absent"
            self._leadership.publish(None)
            return
        try:
            record = decode(LeaderRecord, item.value, item.key)
        except Garbage as error:  # no action here: a standby replaces an unreadable key by a takeover
            self._leadership.trouble = str(error)
            self._leadership.publish(None)
            return
        if not record.urls:
            self._leadership.trouble = f"leader {record.id} names no URL"
            self._leadership.publish(None)
            return
        term = Term(self._epoch, item.mod_revision)
        if self._leadership.newest_leader is not None and self._leadership.newest_leader.term < term:
            # The old leader's PC may be dead, and with it the member of an open stream. So probe the streams, but after
            # a delay, so that waiting commands are sent first.
            asyncio.get_running_loop().call_later(_PROBE_DELAY_S, self._etcd.probe_streams)
        self._leadership.publish(
            Leader(record.id, record.host, record.urls, term, record.since, record.why, record.cause)
        )
