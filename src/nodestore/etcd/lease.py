"""A lease of etcd. It counts as lost once its TTL has passed since the last answered keepalive was *sent*.

If the TTL were counted from the arrival of the answer, the holder would consider its lease alive after etcd has let it
expire, by up to a round trip or a pause of this process.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Iterable
from typing import NoReturn, Self

from nodestore.errors import LeaseLost, NodectlError, Unavailable
from nodestore.etcd.pb import etcd_pb2 as pb
from nodestore.etcd.session import BrokenStream, Etcd, Stream

log = logging.getLogger(__name__)

_RETRY_S = 0.02
_TRIES_PER_TTL = 4
"""An attempt may take the TTL divided by this, so that two more members can be tried before the lease expires."""


def boottime_s() -> float:
    """Seconds on a clock that advances while the PC sleeps, as etcd's TTLs do. Linux' monotonic clock does not."""
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


async def renew_once(etcd: Etcd, leases: Iterable[int], timeout_s: float) -> None:
    """Send one keepalive for each of these leases, over one stream. A lease that has ended stays ended.

    timeout_s: for each. Raises NodectlError if etcd does not answer, or refuses. Then some may have been renewed.
    """
    try:
        stream = await etcd.open_stream("Lease/LeaseKeepAlive")
        try:
            for lease in leases:
                async with asyncio.timeout(timeout_s):
                    await stream.send(pb.LeaseKeepAliveRequest(ID=lease), timeout_s)
                    while await stream.receive(timeout_s) is None:  # a probe woke the reader
                        pass
        except TimeoutError:
            raise stream.report_silence() from None
        finally:
            await stream.close()
    except BrokenStream as fault:
        raise Unavailable(str(fault)) from None


class Lease:
    """A granted lease. Only a running `keep_alive()` renews it."""

    def __init__(self, etcd: Etcd, lease: int, ttl_s: float, sent: float) -> None:
        self._etcd = etcd
        self.id = lease
        self.ttl_s = ttl_s
        self._last_sent_at = sent

    @classmethod
    async def grant(cls, etcd: Etcd, ttl_s: int) -> Self:
        """Grant a lease; etcd may choose a longer TTL. Unavailable, NoSpace or Denied if it grants none."""
        sent = boottime_s()
        lease, granted_s = await etcd.grant(ttl_s)
        return cls(etcd, lease, float(granted_s), sent)

    @property
    def left_s(self) -> float:
        """Seconds until the lease may have expired; negative after that."""
        return self._last_sent_at + self.ttl_s - boottime_s()

    @property
    def overdue_s(self) -> float:
        """Seconds since a renewal was due (after a third of the TTL); 0 if none is overdue."""
        return max(0.0, boottime_s() - self._last_sent_at - self.ttl_s / 3)

    async def keep_alive(self, *, patience_s: float = 0.0) -> NoReturn:
        """Renew the lease until cancelled. Raises only LeaseLost, once the lease has or may have expired.

        `patience_s`: for how many seconds beyond the TTL it keeps trying, unless etcd reports that the lease expired.
        This bridges outages, because a new leader of etcd extends all leases. Use it only if all writes of the holder
        are fenced.
        """
        stream: Stream | None = None
        last, last_fault = "no attempt was made: this process was suspended or its event loop was blocked", None
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
                        str(stream.report_silence())
                        if stream is not None
                        else self._etcd.refusal or "etcd issued no token in time"
                    )
                except (BrokenStream, NodectlError) as fault:
                    # A refusal is retried too: an operator may restore the user in etcd.
                    last = last_fault = str(fault)
                else:
                    last_fault = None
                    await asyncio.sleep(max(0.0, min(self.ttl_s / 3, self.left_s)))
                    continue
                log.debug("keepalive of lease %x: %s", self.id, last)
                if stream is not None:
                    await stream.close()
                    stream = None
                await asyncio.sleep(max(0.0, min(_RETRY_S, self.left_s + patience_s)))
            # The last attempt may have been too short for an answer, so the fault before it is reported too.
            why = last if last_fault in (None, last) else f"{last}; before that: {last_fault}"
            raise LeaseLost(f"no keepalive was answered within {self.ttl_s + patience_s:g} s: {why}")
        finally:
            if stream is not None:
                await stream.close()

    async def _send_keepalive(self, stream: Stream) -> None:
        sent = boottime_s()
        await stream.send(pb.LeaseKeepAliveRequest(ID=self.id), self.ttl_s)
        reply = await stream.receive(self.ttl_s)
        if reply is None:  # a probe woke the reader: the answer may still arrive, and the caller limits the wait
            reply = await stream.receive(self.ttl_s)
        if reply is None:
            raise stream.report_silence()
        stream.probe_requested = False
        if reply.TTL <= 0:
            raise LeaseLost("etcd reports that the lease has expired")
        self._last_sent_at = sent

    async def revoke(self) -> None:
        """Revoke the lease, which deletes its keys at once. If etcd does not answer, it expires by itself."""
        try:
            await self._etcd.revoke(self.id, timeout_s=1.0)
        except NodectlError as error:
            log.debug("revoking lease %x: %s", self.id, error)
