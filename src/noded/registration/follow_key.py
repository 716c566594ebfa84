"""Following one key through everything that can go wrong with etcd, refusals included."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import cast

from nodestore.errors import NodectlError
from nodestore.etcd.session import Etcd
from nodestore.etcd.watch import Changes, Listing, mirror
from nodestore.support.backoff import Backoff
from nodestore.support.logs import RateLimitedLog

log = logging.getLogger(__name__)

RETRY_FIRST_S = 0.1
RETRY_MAX_S = 2.0


async def follow_key(etcd: Etcd, key: str) -> AsyncGenerator[bytes | None, None]:
    """The key's value as a linearizable read finds it, then each newer one; None for absent. Never ends or raises.

    A refusal (access control was changed) is logged once and waited out like an outage: the work must not stop for it.
    """
    backoff, log_once = Backoff(RETRY_FIRST_S, RETRY_MAX_S), RateLimitedLog(log, math.inf)
    while True:
        try:
            async with aclosing(_closable(mirror(etcd, key, prefix=False))) as items:
                async for item in items:
                    backoff.reset()
                    log_once.reset()
                    for value in _values(item):
                        yield value
        except NodectlError as error:
            log_once.log(logging.ERROR, f"cannot watch {key}: {error}")
        await asyncio.sleep(backoff.next_s())


def _values(item: Listing | Changes) -> list[bytes | None]:
    """What an item says of the one key; of several changes only the last one matters."""
    if isinstance(item, Listing):
        return [item.kvs[0].value if item.kvs else None]
    return [item.events[-1].value] if item.events else []


def _closable(items: AsyncIterator[Listing | Changes]) -> AsyncGenerator[Listing | Changes, None]:
    return cast("AsyncGenerator[Listing | Changes, None]", items)
