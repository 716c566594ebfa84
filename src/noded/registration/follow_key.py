"""Follows one key of etcd and retries after every error, denied access included."""

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
    """Yield the key's value from a linearizable read, then each newer value; None if the key is absent.

    Never ends and never raises. A denied request is logged once and retried like an outage, because a change of the
    access control must not stop the node.
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
            log_once.log(logging.ERROR, f"cannot watch {key}, tries again: {error}")
        await asyncio.sleep(backoff.next_s())


def _values(item: Listing | Changes) -> list[bytes | None]:
    """Return the newest value of the key in `item`, in a list of at most one: earlier changes do not matter."""
    if isinstance(item, Listing):
        return [item.kvs[0].value if item.kvs else None]
    return [item.events[-1].value] if item.events else []


def _closable(items: AsyncIterator[Listing | Changes]) -> AsyncGenerator[Listing | Changes, None]:
    # `mirror` is an async generator, declared as an iterator; `aclosing` needs its aclose
    return cast("AsyncGenerator[Listing | Changes, None]", items)
