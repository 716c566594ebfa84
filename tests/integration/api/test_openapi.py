"""The HTTP API does what its OpenAPI document says, whatever it is sent: Schemathesis makes the requests up.

Valid and invalid requests for every operation, to a leader and to a standby that passes them on. The examples follow
from the operation's name alone, so a failure comes again; what the masters hold depends on what ran before.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from schemathesis import APIOperation, GenerationMode

from nodestore.schema.keys import Keys
from nodestore.schema.models import Inventory
from tests.support.access.openapi_cases import (
    ANSWER_S,
    ANSWERED,
    DOCUMENT,
    SEED,
    STREAMS,
    VALID,
    in_own_thread,
    judges_of,
)
from tests.support.etcd_cluster import EtcdCluster
from tests.support.masters import Masterd, Masters

EXAMPLES = int(os.environ.get("NODECTL_EXAMPLES", "15"))
STREAM_EXAMPLES = 5
WALL = {"nodes": {"n1": {"position": [0, 0]}, "n2": {}}, "groups": {"top": {"nodes": ["n1"]}}}


@pytest.fixture(scope="module")
def masters(etcd_one: EtcdCluster) -> Iterator[Masters]:
    """A leader and a standby."""

    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[Masters]:
        async with Masters(etcd_one, Keys("test-openapi")) as found:
            found.start("m1")
            await found.wait_serving("m1")
            found.start("m2")
            await found.wait_candidate("m2")
            await found.configure(Inventory.model_validate(WALL))
            yield found

    with in_own_thread(opened) as found:
        yield found
    Masterd.discard_warm()


def _operation(master: Masterd, method: str, path: str) -> APIOperation[Any, Any, Any, Any]:
    schema = schemathesis.openapi.from_url(f"{master.url}/openapi.json")
    found: APIOperation[Any, Any, Any, Any] = schema[path][method]
    return found


def _lives(master: Masterd) -> None:
    assert master.exit_code is None, f"{master.name} has ended with {master.exit_code}:\n{master.log_tail(80)}"


@pytest.mark.parametrize("name", ["m1", "m2"])
@pytest.mark.parametrize(("method", "path", "mode"), ANSWERED)
def test_answers_are_as_published(masters: Masters, name: str, method: str, path: str, mode: GenerationMode) -> None:
    """No request causes an internal error, malformed requests are refused, and every answer matches the document."""
    master = masters.running[name]
    operation, judges = _operation(master, method, path), judges_of(method, mode)

    @seed(SEED)
    @settings(max_examples=EXAMPLES, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(mode))
    def every(case: Any) -> None:
        answer = case.call(timeout=ANSWER_S)
        assert answer.status_code != 500, f"{case.as_curl_command()}\n{answer.text}\n{master.log_tail(80)}"
        case.validate_response(answer, checks=judges)

    every()
    _lives(master)


@pytest.mark.parametrize("name", ["m1", "m2"])
@pytest.mark.parametrize("path", STREAMS)
def test_streams_begin_as_published(masters: Masters, name: str, path: str) -> None:
    """A stream begins with events, or is refused with a reason: the position is too old, or beyond the journal. Closing
    it has no other effect."""
    master, declared = masters.running[name], DOCUMENT["paths"][path]["get"]["responses"]

    @seed(SEED)
    @settings(max_examples=STREAM_EXAMPLES, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=_operation(master, "get", path).as_strategy(VALID))
    def every(case: Any) -> None:
        asked = case.as_transport_kwargs(base_url=master.url)
        with requests.request(**asked, stream=True, timeout=ANSWER_S) as answer:
            kinds = declared["200" if answer.status_code == 200 else "default"]["content"]
            assert answer.headers["Content-Type"].split(";")[0] in kinds
            assert answer.status_code in (200, 400, 410), case.as_curl_command()
            if answer.status_code == 400:
                assert "beyond the end of the journal" in answer.json()["detail"], case.as_curl_command()

    every()
    _lives(master)


JSON = {"Content-Type": "application/json"}
MANY_NINES = "9" * 5000
CANNOT_BE = [
    ("GET", f"/v1/history?limit={MANY_NINES}", None, {}, 400),
    ("GET", "/v1/history?limit=0", None, {}, 400),
    ("GET", f"/v1/events?after={MANY_NINES}", None, {}, 400),
    ("GET", "/v1/events", None, {"Last-Event-ID": "yesterday"}, 400),
    ("GET", "/v1/documents/%ff", None, {}, 404),
    ("POST", "/v1/commands", b"not gzip", {"Content-Encoding": "gzip"}, 415),
    ("POST", "/v1/commands", b'{"name": "\\ud800"}', {}, 400),
    ("POST", "/v1/commands", b"[" * 5000, {}, 400),
    ("PUT", "/v1/config", b'{"inventory": {"settings": {"a": 1e999}}}', {}, 400),
    ("PUT", "/v1/config", b'{"inventory": {"settings": {"a": %s}}}' % MANY_NINES[:400].encode(), {}, 400),
    ("PUT", "/v1/config", b'{"inventory": {"settings": %s1%s}}' % (b'{"a":' * 100, b"}" * 100), {}, 400),
    ("PUT", "/v1/config", b'{"inventory": {}, "expect_version": true}', {}, 400),
    ("PUT", "/v1/paused", b'{"reason": 5}', {}, 400),
    ("TRACE", "/v1/status", None, {}, 405),
    ("PUT", "/v1/nodes", b"{}", {}, 405),
]


@pytest.mark.parametrize("name", ["m1", "m2"])
@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status"), CANNOT_BE, ids=[f"{row[0]} {row[1][:30]}" for row in CANNOT_BE]
)
def test_what_cannot_be_is_refused(
    masters: Masters, name: str, method: str, path: str, body: bytes | None, headers: dict[str, str], status: int
) -> None:
    """Requests that the generator does not make: each gets one problem document with the status of HTTP."""
    answer = requests.request(
        method, masters.running[name].url + path, data=body, headers=JSON | headers, timeout=ANSWER_S
    )
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert (answer.status_code, answer.json()["status"]) == (status, status), answer.text
    assert status != 405 or "GET" in answer.headers["Allow"]
    _lives(masters.running[name])


@pytest.mark.parametrize("revision", [True, 0, -1, 10**30, "1", None])
def test_no_order_to_take_over_ends_a_master(masters: Masters, revision: Any) -> None:
    """Masters send it to one another; a term that cannot be is refused, by a standby and (leading already) a leader."""
    for master in masters.running.values():
        body = json.dumps({"revision": revision, "actor": "test"})
        assert requests.post(f"{master.url}/v1/campaign", body, headers=JSON, timeout=ANSWER_S).status_code in (
            400,
            409,
        )
        _lives(master)
