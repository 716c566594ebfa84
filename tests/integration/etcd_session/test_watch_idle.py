"""A watch on a store where nothing happens."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing

import pytest

from nodestore.etcd.session import Etcd, EtcdSettings
from nodestore.etcd.watch import Changes, mirror
from nodestore.schema.keys import Keys
from tests.support.etcd_cluster import EtcdCluster


async def test_watch_of_an_idle_store_shows_that_it_is_alive(
    etcd_one: EtcdCluster, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    """etcd sends no progress to a watch that begins after its newest revision.

    The session must not take that for a dead member.
    """
    caplog.set_level(logging.DEBUG, logger="nodestore.etcd.watch")
    signs = 0
    async with Etcd(EtcdSettings(endpoints=etcd_one.endpoints)) as etcd:
        await etcd.put(keys.leader, b"x")
        async with (
            asyncio.timeout(20),
            aclosing(mirror(etcd, keys.leader, prefix=False, progress_s=0.2, silence_s=30.0)) as stream,
        ):
            async for item in stream:
                signs += isinstance(item, Changes)
                if signs == 5:
                    break
    assert not [record for record in caplog.records if "opening another" in record.getMessage()]
