"""A web page of another site can send no request to masterd, not even with a name that points to this PC."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from masterd.api import routes
from masterd.api.access.browser_rules import BrowserRules, content_type_refusal
from masterd.settings import MasterSettings
from nodestore.cluster.election import LeaderSeen
from nodestore.schema.models import LeaderRecord
from tests.support.fakes.access import AccessCase
from tests.support.fakes.masterd_parts import FakeMasterd, serving

RULES = BrowserRules(["pc1", "Pc1.Plant.Example."], ["https://wall.example"])
JSON = "application/json"


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.1:8401", "10.0.0.7:8401", "[::1]:8401", "[fd00::1]", "localhost:8401", "LOCALHOST", "pc1",
     "PC1:8401", "pc1.plant.example", "pc1.plant.example.:8401"],
)  # fmt: skip
def test_own_hosts_are_known(host: str) -> None:
    for _ in range(2):  # the second time from memory
        assert RULES.refusal({"Host": host}, is_tls=False) is None


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "evil.example:8401", "pc1.evil.example", "pc11", "localhost.evil.example", "x.localhost",
     "127.0.0.1.evil.example", "127.0.0.1@evil.example", "evil.example#@127.0.0.1", "[::1].evil.example", "127.1",
     "[127.0.0.1]", "[127.0.0.1]:8401", "[]", "::1",
     "2130706433", "0x7f000001", "127.0.0.1:8401:1", "127.0.0.1, evil.example", "[::1", "pc1:port", "pc1:123456"],
)  # fmt: skip
def test_other_hosts_are_refused(host: str) -> None:
    """Only an exact address cannot be a name that another site has pointed to this PC."""
    for _ in range(2):
        refusal = RULES.refusal({"Host": host}, is_tls=False)
        assert refusal is not None
        assert "--allow-host" in refusal


def test_many_hosts_are_not_all_remembered() -> None:
    rules = BrowserRules()
    for port in range(1, 1000):
        assert rules.refusal({"Host": f"10.0.0.1:{port}"}, is_tls=False) is None
        assert rules.refusal({"Host": f"evil.example:{port}"}, is_tls=False) is not None


@pytest.mark.parametrize(
    ("origin", "is_tls"),
    [("http://pc1:8401", False), ("https://pc1:8401", True), ("https://wall.example", False),
     ("https://wall.example", True)],
)  # fmt: skip
def test_own_and_trusted_origins(origin: str, is_tls: bool) -> None:
    assert RULES.refusal({"Host": "pc1:8401", "Origin": origin}, is_tls=is_tls) is None


@pytest.mark.parametrize(
    "origin",
    ["null", "", "http://evil.example", "http://pc1", "http://pc1:3000", "https://pc1:8401", "http://pc1:8401.evil",
     "http://wall.example", "https://wall.example:444", "https://wall.example.evil.example", "file://", "pc1:8401"],
)  # fmt: skip
def test_other_origins_are_refused(origin: str) -> None:
    """The port and the scheme count: another program of the same PC may serve pages of a stranger."""
    assert RULES.refusal({"Host": "pc1:8401", "Origin": origin}, is_tls=False) is not None


@pytest.mark.parametrize(
    ("site", "refused"), [("none", False), ("same-origin", False), ("same-site", True), ("cross-site", True)]
)
def test_pages_of_other_sites_that_send_no_origin(site: str, refused: bool) -> None:
    """As for an image or a script, which browsers fetch without Origin."""
    assert (RULES.refusal({"Host": "pc1", "Sec-Fetch-Site": site}, is_tls=False) is not None) is refused


@pytest.mark.parametrize("kind", [JSON, "application/json; charset=utf-8", "Application/JSON"])
def test_json_is_accepted(kind: str) -> None:
    assert content_type_refusal("/v1/commands", kind) is None


@pytest.mark.parametrize(
    "kind",
    [None, "", "text/plain", "text/plain; application/json", "application/x-www-form-urlencoded",
     "multipart/form-data; boundary=application/json", "application/octet-stream", "application/jsonp"],
)  # fmt: skip
def test_other_types_are_refused(kind: str | None) -> None:
    refusal = content_type_refusal("/v1/commands", kind)
    assert refusal is not None
    assert "Content-Type: application/json" in refusal


def test_an_earlier_masterd_may_order_a_takeover() -> None:
    assert content_type_refusal("/v1/campaign", "application/octet-stream") is None
    assert content_type_refusal("/v1/campaign", "text/plain") is not None


# --- over a socket ---


@asynccontextmanager
async def _masterd(**options: Any) -> AsyncIterator[tuple[str, aiohttp.ClientSession]]:
    masterd = FakeMasterd()
    masterd.parts = replace(masterd.parts, settings=MasterSettings(**options))
    async with serving(masterd) as url, aiohttp.ClientSession() as session:
        yield url, session


async def _status(answer: Any) -> tuple[int, dict[str, Any]]:
    async with answer as response:
        return response.status, await response.json(content_type=None)


ROUTES = re.findall(r'\("([A-Z]+)", "(/[^"]*)"', Path(routes.__file__).read_text("utf-8"))


@pytest.mark.parametrize(
    "headers",
    [{"Host": "evil.example:8401"}, {"Origin": "http://evil.example"}, {"Origin": "null"},
     {"Sec-Fetch-Site": "cross-site"}],
    ids=repr,
)  # fmt: skip
async def test_no_route_serves_a_foreign_page(headers: dict[str, str]) -> None:
    """Streams, the connection of noded and a path that does not exist included."""
    async with _masterd() as (url, session):
        for method, path in [*ROUTES, ("GET", "/"), ("GET", "/v1/nothing")]:
            there = path.replace("{path:.+}", "a").replace("{node}", "n1").replace("{name}", "s")
            status, problem = await _status(session.request(method, url + there, headers=headers))
            assert (status, problem["code"]) == (403, "denied"), (method, path)
        status, problem = await _status(session.request("OPTIONS", f"{url}/v1/commands", headers=headers))
        assert status == 403


async def test_a_refused_page_does_not_learn_where_the_leader_is() -> None:
    """With access control, no answer to a request without a valid credential names the leader."""
    case = AccessCase()
    record = LeaderRecord(id="m2", host="pc2", urls=("http://10.0.0.2:8401",), nonce="n", since=0.0)
    case.masterd.view.leader = LeaderSeen(7, record, 5)
    viewer = case.grant("viewer")
    async with serving(case.masterd) as url, aiohttp.ClientSession() as session:
        for headers in ({"Host": "evil.example"}, {"Origin": "null"}, {}, {"Authorization": "Bearer x"}):
            _, problem = await _status(session.get(f"{url}/v1/status", headers=headers))
            assert "leader_url" not in problem, headers
        _, problem = await _status(session.get(f"{url}/v1/nodes?consistency=x", headers=viewer))
        assert problem["leader_url"] == "http://10.0.0.2:8401"


async def test_a_refused_page_does_not_learn_it_without_access_control_either() -> None:
    case = AccessCase(is_on=False)
    record = LeaderRecord(id="m2", host="pc2", urls=("http://10.0.0.2:8401",), nonce="n", since=0.0)
    case.masterd.view.leader = LeaderSeen(7, record, 5)
    async with serving(case.masterd) as url, aiohttp.ClientSession() as session:
        _, problem = await _status(session.get(f"{url}/v1/nodes?consistency=x"))
        assert problem["leader_url"] == "http://10.0.0.2:8401"
        _, problem = await _status(session.get(f"{url}/v1/nodes", headers={"Host": "evil.example"}))
        assert problem["code"] == "denied"
        assert "leader_url" not in problem


async def test_a_form_sends_no_command() -> None:
    """A body of a type that browsers send to any site without asking is not read."""
    async with _masterd() as (url, session):
        for data in ('{"name":"node.put","args":{}}', b'{"name":"node.put","args":{}}', {"name": "node.put"}):
            status, problem = await _status(session.post(f"{url}/v1/commands", data=data))
            assert (status, problem["code"]) == (415, "invalid")
        status, problem = await _status(session.put(f"{url}/v1/paused", data="{}"))
        assert status == 415


async def test_the_settings_allow_more() -> None:
    async with _masterd(allowed_hosts=("wall.example",), allowed_origins=("https://wall.example",)) as (url, session):
        own = {"Host": "wall.example", "Origin": "https://wall.example", "Sec-Fetch-Site": "cross-site"}
        async with session.get(f"{url}/v1/health", headers=own) as answer:
            assert answer.status == 200
            assert answer.headers["Access-Control-Allow-Origin"] == "https://wall.example"
        asks = {"Origin": "https://wall.example", "Access-Control-Request-Method": "POST"}
        async with session.options(f"{url}/v1/commands", headers=asks) as answer:
            assert answer.status == 204
            assert "POST" in answer.headers["Access-Control-Allow-Methods"]
            assert "Access-Control-Allow-Credentials" not in answer.headers
        status, _ = await _status(session.get(f"{url}/v1/health", headers={"Origin": "https://other.example"}))
        assert status == 403


async def test_without_settings_no_page_may_read() -> None:
    async with _masterd() as (url, session):
        async with session.get(f"{url}/v1/health", headers={"Origin": url}) as answer:
            assert answer.status == 200
            assert not [name for name in answer.headers if name.lower().startswith("access-control")]
        async with session.options(f"{url}/v1/commands", headers={"Origin": url}) as answer:
            assert answer.status == 405
