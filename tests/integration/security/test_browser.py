"""Pages of strangers in a real Chromium send no command to a master and read nothing from it, also by DNS rebinding.

The two controls show that the same page can do both where the settings of the master allow it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Iterator, Sequence

import pytest

from nodestore.schema.keys import Keys
from nodestore.schema.models import Inventory, NodeConfig
from tests.support.browser.chromium import FOREIGN_NAME, find_chromium
from tests.support.browser.stranger import ATTEMPTS, Stranger, Visit
from tests.support.etcd_cluster import EtcdCluster
from tests.support.masters import Masterd, Masters

pytestmark = pytest.mark.nightly

REFUSED = (403, 415)
NOT_JSON = ("text", "text-with-answer", "no-type", "fields", "parts", "form", "beacon", "json-without-asking")


@pytest.fixture(scope="module", autouse=True)
def _warm_masters_end() -> Iterator[None]:
    yield
    Masterd.discard_warm()


@contextlib.asynccontextmanager
async def _master(cluster: EtcdCluster, keys: Keys, *arguments: str) -> AsyncIterator[Masters]:
    find_chromium()
    async with Masters(cluster, keys, arguments=arguments) as masters:
        await masters.configure(Inventory(nodes={"n1": NodeConfig()}))
        masters.start("m1")
        await masters.wait_serving("m1")
        yield masters


async def _commands(masters: Masters) -> list[str]:
    """The ids of all commands that were ever committed. A page uses the name of the attempt."""
    entries = [entry for _, entry in (await masters.history()).puts]
    return sorted(record.id for entry in entries for record in entry.commands if record.config is None)


async def _expect_nothing_done(masters: Masters, visit: Visit) -> None:
    """Each attempt reached the master, which refused it; the page read at most the refusal, and nothing changed."""
    assert set(visit.report) == ATTEMPTS
    assert [exchange for exchange in visit.exchanges if exchange.status not in REFUSED] == []
    for name, found in visit.read().items():
        problem = json.loads(found["text"])
        assert problem["code"] == "denied", (name, found)
        assert "leader_url" not in problem, (name, found)
    assert await _commands(masters) == []
    assert await masters.etcd.get(masters.keys.paused) is None


@pytest.mark.parametrize("access", [(), ("--require-credentials",)], ids=["open", "access control"])
async def test_pages_of_strangers_do_and_read_nothing(etcd_one: EtcdCluster, keys: Keys, access: Sequence[str]) -> None:
    """Of another site, of another program on this PC, and of a site whose name leads to the master later."""
    async with _master(etcd_one, keys, *access) as masters, Stranger.serving() as stranger:
        url = masters.running["m1"].url
        for host in (FOREIGN_NAME, "127.0.0.1", "localhost"):
            visit = await stranger.visited(url, host=host)
            await _expect_nothing_done(masters, visit)
            assert visit.read() == {}, "no page of another origin reads even a refusal"
        await _expect_nothing_done(masters, await stranger.visited_and_rebound(url))


async def test_control_a_page_of_a_trusted_origin_sends_json_only(etcd_one: EtcdCluster, keys: Keys) -> None:
    async with (
        Stranger.serving() as stranger,
        _master(etcd_one, keys, f"--allow-origin={stranger.origin}") as masters,
    ):
        visit = await stranger.visited(masters.running["m1"].url)
        assert visit.report["json"]["status"] == 200
        assert (visit.report["read"]["status"], visit.report["events"]) == (200, {"text": "open"})
        assert {name: visit.statuses(name) for name in NOT_JSON} == {name: [415] for name in NOT_JSON}
        assert await _commands(masters) == ["json"]
        assert await masters.etcd.get(masters.keys.paused) is not None


async def test_control_a_page_that_is_rebound_to_an_allowed_name_sends_commands(
    etcd_one: EtcdCluster, keys: Keys
) -> None:
    """The check of the name is all that stops it: for the browser the page is the master's own."""
    async with _master(etcd_one, keys, f"--allow-host={FOREIGN_NAME}") as masters, Stranger.serving() as stranger:
        visit = await stranger.visited_and_rebound(masters.running["m1"].url)
        assert (visit.report["json"]["status"], visit.report["read"]["status"]) == (200, 200)
        assert "json" in await _commands(masters)


async def test_a_page_of_a_trusted_origin_still_needs_a_credential(etcd_one: EtcdCluster, keys: Keys) -> None:
    async with (
        Stranger.serving() as stranger,
        _master(etcd_one, keys, "--require-credentials", f"--allow-origin={stranger.origin}") as masters,
    ):
        visit = await stranger.visited(masters.running["m1"].url)
        assert (visit.report["json"]["status"], visit.report["read"]["status"]) == (401, 401)
        assert visit.report["events"] == {"error": "error"}
        assert await _commands(masters) == []
        assert await masters.etcd.get(masters.keys.paused) is None
