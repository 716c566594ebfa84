"""A lease, by the only clock that counts: it is lost once the TTL has passed since the last good keepalive was *sent*.

Counted from when the answer arrived, a holder would believe in its lease for up to a round trip (or a pause of this
process) longer than etcd does.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from typing import NoReturn, Self

from nodestore.errors import LeaseLost, NodectlError
from nodestore.etcd.pb import etcd_pb2 as pb
from nodestore.etcd.session import BrokenStream, Etcd, Stream

log = logging.getLogger(__name__)

_RETRY_S = 0.02
_TRIES_PER_TTL = (
    4  # an answer is waited for as long as that part of the TTL: two more members can be asked before it is over
)


def boottime_s() -> float:
    """Seconds on a clock that goes on while the PC sleeps, as etcd's do; Linux' monotonic clock stands still then."""
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


class Lease:
    """A granted lease. Nothing renews it but a running `keep_alive()`."""

    def __init__(self, etcd: Etcd, lease: int, ttl_s: float, sent: float) -> None:
        self._etcd = etcd
        self.id = lease
        self.ttl_s = ttl_s
        self._last_sent_at = sent

    @classmethod
    async def grant(cls, etcd: Etcd, ttl_s: int) -> Self:
        """A new lease; etcd may give a longer TTL than asked. Unavailable, NoSpace or Denied otherwise."""
        sent = boottime_s()
        lease, granted_s = await etcd.grant(ttl_s)
        return cls(etcd, lease, float(granted_s), sent)

    @property
    def left_s(self) -> float:
        """Seconds for which it surely lives yet, by this clock."""
        return self._last_sent_at + self.ttl_s - boottime_s()

    @property
    def overdue_s(self) -> float:
        """For how long etcd should have confirmed it, and has not."""
        return max(0.0, boottime_s() - self._last_sent_at - self.ttl_s / 3)

    async def keep_alive(self, *, patience_s: float = 0.0) -> NoReturn:
        """Keep it alive until cancelled; LeaseLost once it is gone, or may be, and nothing else: who has it goes on.

        `patience_s`: for who does no harm by believing in it too long (whatever it writes is fenced): for so long
        beyond the TTL only etcd's own word counts. After an outage etcd's new leader extends all leases.
        """
        stream: Stream | None = None
        last, said = "not even tried: this process was held up", None
        try:
            while (left_s := self.left_s + patience_s) > 0:
                try:
                    async with asyncio.timeout(min(self.ttl_s / _TRIES_PER_TTL, left_s)):
                        if stream is None:
                            stream = await self._etcd.open_stream("Lease/LeaseKeepAlive")
                        await self._send_keepalive(stream)
                except LeaseLost:
                    raise
                except TimeoutError:
                    last = (
                        str(stream.report_silence()) if stream is not None else self._etcd.refusal or "no token in time"
                    )
                except (BrokenStream, NodectlError) as fault:  # a refusal may be taken back, too
                    last = said = str(fault)
                else:
                    said = None
                    await asyncio.sleep(max(0.0, min(self.ttl_s / 3, self.left_s)))
                    continue
                log.debug("keepalive of lease %x: %s", self.id, last)
                if stream is not None:
                    await stream.close()
                    stream = None
                await asyncio.sleep(max(0.0, min(_RETRY_S, self.left_s + patience_s)))
            # the last try may have been too short for an answer
            why = last if said in (None, last) else f"{last}; before that: {said}"
            raise LeaseLost(f"no good keepalive within its {self.ttl_s + patience_s:g} s: {why}")
        finally:
            if stream is not None:
                await stream.close()

    async def _send_keepalive(self, stream: Stream) -> None:
        sent = boottime_s()
        await stream.send(pb.LeaseKeepAliveRequest(ID=self.id), self.ttl_s)
        reply = await stream.receive(self.ttl_s)
        if reply is None:  # at a doubt: the answer may well come yet, and its time is short anyway
            reply = await stream.receive(self.ttl_s)
        if reply is None:
            raise stream.report_silence()
        stream.probe_requested = False
        if reply.TTL <= 0:
            raise LeaseLost("etcd says that it has expired")
        self._last_sent_at = sent

    async def revoke(self) -> None:
        """End it now, so that its keys go at once; when etcd cannot be reached it expires by itself."""
        try:
            await self._etcd.revoke(self.id, timeout_s=1.0)
        except NodectlError as error:
            log.debug("revoking lease %x: %s", self.id, error)
