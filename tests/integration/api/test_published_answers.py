"""Every answer and event of a masterd with content matches the OpenAPI document, and has no other field."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest

from nodectl import Client
from nodectl.client.connection.sse import read_events
from nodestore.errors import Unauthenticated, Unavailable
from nodestore.schema.keys import Keys
from nodestore.schema.models import Alive, Status
from nodestore.support.jsonio import Json, loads
from tests.support.etcd_cluster import EtcdCluster
from tests.support.masters import Masters
from tests.support.published import DOCUMENT, faults, named
from tests.support.waiting import eventually

WALL = {"nodes": {"n1": {"position": [0, 0], "labels": {"row": "0"}}, "n2": {}}, "groups": {"top": {"nodes": ["n1"]}}}
PLACES = {"{node}": "n1", "{path}": "nodes/n1", "{name}": "before-update"}
STREAMS = {"/v1/events": "?after=0", "/v1/cluster/watch": "", "/v1/live": "", "/v1/nodes/watch": ""}
_OF_NODED = "/v1/nodes/{node}/log"
"""Answered by a noded; see tests/integration/noded/test_program_logs.py."""
READS = [path for path, item in DOCUMENT["paths"].items() if "get" in item and path not in (*STREAMS, _OF_NODED)]


def _answer(method: str, path: str) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENT["paths"][path][method]["responses"]["200"]["content"]["application/json"]["schema"]
    return found


class Wall:
    """A leader m1 and a standby m2 that have some of everything, readable and not. An admin asks them."""

    def __init__(self, masters: Masters, token: str) -> None:
        self.masters, self._token = masters, token

    async def ask(self, name: str, method: str, path: str, body: Json = None) -> Any:
        """What that master answers, which is as published."""
        place = path
        for part, value in PLACES.items():
            place = place.replace(part, value)
        found = await self.masters.ask(name, method, place, body, token=self._token)
        assert faults(_answer(method.lower(), path), found) == [], f"{method} {path} of {name}: {found}"
        return found

    async def furnish(self) -> None:
        """By requests, whose answers count too; and, for what noded writes and for garbage, in etcd itself."""
        await self._configure()
        await self.ask("m1", "POST", "/v1/commands", {"name": "node.set", "args": {"node": "n1", "values": {"a": 1}}})
        listed = [{"name": "node.act", "args": {"node": "n1", "action": "restart"}}, {"name": "no.such"}]
        await self.ask("m2", "POST", "/v1/commands", {"commands": listed})
        await self.ask("m2", "POST", "/v1/commands/outcome", {"id": "unknown", "after": 0})
        await self.ask("m1", "POST", "/v1/snapshots", {"name": PLACES["{name}"]})
        await self.ask("m2", "PUT", "/v1/paused", {"actor": "test", "reason": "to see it"})
        etcd, keys = self.masters.etcd, self.masters.keys
        alive = Alive(host_id="h", nonce="a", host="pc1", pid=7)
        await etcd.put(keys.alive_of("n1"), alive.encode())
        status = Status(node="n1", nonce="a", host="pc1", phase="failed", error="no display", warning="hot")
        await etcd.put(keys.status_of("n1"), status.encode())
        for key in (keys.status_of("n2"), keys.term("unreadable"), keys.config_version(99)):
            await etcd.put(key, b"garbage")
        await self._shown("/v1/nodes/n1", lambda view: view["status"] is not None)

    async def _configure(self) -> None:
        await self.ask("m2", "PUT", "/v1/config", {"inventory": WALL, "source": "# a wall"})
        await self._shown("/v1/config", lambda view: view["adopted"] is not None)

    async def _shown(self, path: str, seen: Callable[[Any], bool]) -> None:
        async def shown() -> bool:
            local = f"{path}?consistency=local"
            return all([seen(await self.masters.ask(name, "GET", local)) for name in self.masters.running])

        await eventually(shown, f"both masters show {path}")


@contextlib.asynccontextmanager
async def _wall(etcd: EtcdCluster, keys: Keys) -> AsyncIterator[Wall]:
    async with Masters(etcd, keys) as masters:
        masters.start("m1")
        await masters.wait_serving("m1")
        masters.start("m2")
        await masters.wait_candidate("m2")
        await eventually(lambda: _shows_leader(masters), "m1's own watch shows that it leads")
        async with Client(etcd.endpoints, cluster=keys.cluster) as bootstrap:
            made = await bootstrap.token_create("jo", "admin")
        token = made["token"]
        assert token is not None
        await eventually(lambda: _know(masters, token), "both masters know the token")
        yield Wall(masters, token)


async def _know(masters: Masters, token: str) -> bool:
    with contextlib.suppress(Unauthenticated):
        return all([await masters.ask(name, "GET", "/v1/whoami", token=token) for name in masters.running])
    return False


async def _shows_leader(masters: Masters) -> bool:
    with contextlib.suppress(Unavailable):
        return str((await masters.ask("m1", "GET", "/v1/leader"))["id"]) == "m1"
    return False


async def test_answers_are_as_published(etcd_one: EtcdCluster, keys: Keys) -> None:
    """Of the leader and of a standby, empty and full; what cannot be read is shown as such."""
    async with _wall(etcd_one, keys) as wall:
        for path in READS:
            if "{" not in path:
                await wall.ask("m1", "GET", path)
        await wall.furnish()
        for name in wall.masters.running:
            found = {path: await wall.ask(name, "GET", path) for path in READS}
            assert found["/v1/nodes/{node}"]["status"]["phase"] == "failed"
            assert ["problem" in term for term in found["/v1/terms"]["terms"]].count(True) == 1
            assert found["/v1/config/history"]["versions"][0]["version"] is None
            assert found["/v1/paused"]["reason"] == "to see it"
        await wall.ask("m1", "DELETE", "/v1/paused")
        await wall.ask("m1", "DELETE", "/v1/snapshots/{name}")
        await wall.ask("m1", "POST", "/v1/leader/switchover", {"to": "m2"})


@pytest.mark.parametrize(("path", "query"), STREAMS.items())
async def test_events_are_as_published(etcd_one: EtcdCluster, keys: Keys, path: str, query: str) -> None:
    """Of each kind that the document names, but for the end of the journal."""
    published = DOCUMENT["paths"][path]["get"]["responses"]["200"]["content"]["text/event-stream"]["x-event-data"]
    async with _wall(etcd_one, keys) as wall, aiohttp.ClientSession() as session:
        await wall.furnish()
        missing = {*published} - {"gone"}
        async with contextlib.aclosing(
            read_events(session, f"{wall.masters.running['m1'].url}{path}{query}")
        ) as stream:
            async for event in stream:
                if event.data:
                    assert faults(published[event.name], loads(event.data)) == [], event.data
                    missing.discard(event.name)
                if not missing:
                    break


def test_an_undescribed_field_is_a_fault() -> None:
    """What these tests would find: too little, and too much."""
    health = {"id": "m1", "role": "leader", "index": 1, "problem": None}
    assert faults(named("Health"), health) == []
    assert len(faults(named("Health"), {**health, "more": 1})) == 1
    assert len(faults(named("Health"), {"id": "m1", "role": "leader", "index": -1})) == 2
