"""A leader under five times the load that it can serve goes on serving, and refuses the rest early."""

from __future__ import annotations

import secrets

import psutil
import pytest

from bench.harness.open_loop import offer, saturate
from bench.measures.overload import make_commands
from nodestore.schema.keys import Keys
from nodestore.schema.models import Inventory
from tests.support.etcd_cluster import EtcdCluster
from tests.support.masters import Masters

INVENTORY = Inventory.model_validate({"nodes": {f"n{number}": {} for number in range(1, 10)}})
_SECONDS = 6.0
_CALLERS = 16
_FACTOR = 5.0


@pytest.mark.timeout(300)
async def test_five_times_the_load_does_not_stop_a_leader(keys: Keys) -> None:
    """Clients that neither wait nor back off: nearly as much is served as at the best, no term ends, memory is bounded,
    and every refusal says when to come back. Afterwards a command is served at once."""
    async with EtcdCluster(3) as cluster, Masters(cluster, keys) as masters:
        await masters.configure(INVENTORY)
        master = masters.start("m1")
        await masters.wait_serving("m1")
        masters.start("m2")
        await masters.wait_candidate("m2")
        await saturate(master.url, make_commands("warm"), _CALLERS, 2.0)
        best = await saturate(master.url, make_commands(secrets.token_hex(4)), _CALLERS, _SECONDS)
        term = (await masters.leader()).revision
        before = psutil.Process(master.process.pid).memory_info().rss
        load = await offer(master.url, make_commands(secrets.token_hex(4)), _FACTOR * best.rate, _SECONDS)
        shown = f"best {best.rate:.0f}/s, then {load}"
        assert load.offered >= 0.8 * _FACTOR * best.rate * _SECONDS, shown
        # The generator shares the two cores with the cluster, and at five times the load it uses most of one.
        assert load.rate >= 0.5 * best.rate, shown
        assert load.refused > 0, shown
        assert load.without_retry_after == 0, shown
        assert load.failed <= 0.05 * load.offered, shown
        assert (await masters.leader()).revision == term, "no masterd took over"
        assert psutil.Process(master.process.pid).memory_info().rss - before < 300 << 20
        await masters.command("node.set", node="n1", values={"text": "after"})
