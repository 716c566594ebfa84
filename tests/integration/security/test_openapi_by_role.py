"""The HTTP API over TLS, for a stranger, for each role, for a limited token and for a browser session: Schemathesis
makes the requests up, from the whole OpenAPI document.

Whatever is sent, no sender may do more than the table of rights says, nothing causes an internal error, and each answer
is as published. The examples follow from the operation's name alone, so a failure comes again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, given, seed, settings
from schemathesis import GenerationMode

from masterd.api.access.rights import RIGHTS, Right
from masterd.roles.principal import Kind, Principal
from nodectl import Client
from nodestore.pki.authority import Authorities
from nodestore.pki.identity import Subject
from nodestore.schema.keys import Keys
from nodestore.schema.models import Inventory
from tests.support.access.openapi_cases import ANSWER_S, ANSWERED, SEED, STREAMS, in_own_thread, judges_of, operation_of
from tests.support.etcd_cluster import EtcdCluster
from tests.support.masters import Masterd, Masters

pytestmark = pytest.mark.nightly

EXAMPLES = int(os.environ.get("NODECTL_EXAMPLES", "8"))
REFUSED_EXAMPLES = 3
COMMANDS = ("/v1/commands", "/v1/commands/outcome")
"""What a role may not send by these depends on the command."""
INVENTORY = {"nodes": {"n1": {}, "n2": {}}, "groups": {"top": {"nodes": ["n1"]}}}
WHO: dict[str, Principal] = {
    "stranger": Principal(Kind.STRANGER),
    **{role: Principal(Kind.TOKEN, role, role) for role in ("viewer", "operator", "maintainer", "admin")},
    "limited": Principal(Kind.TOKEN, "limited", "admin", commands=("scene.*",)),
    "session": Principal(Kind.TOKEN, "operator", "operator", session="x"),
}
TRIED = [
    (who, *row)
    for who in WHO
    for row in ANSWERED
    if (who, row[1]) != ("session", "/v1/logout")  # it would end the session of the other tests
]


@dataclass(frozen=True, slots=True)
class Plant:
    """A master with TLS that requires credentials, and the headers of each sender."""

    master: Masterd
    url: str
    ca: str
    headers: dict[str, dict[str, str]]


@contextlib.asynccontextmanager
async def _opened(cluster: EtcdCluster, keys: Keys, folder: Path) -> AsyncIterator[Plant]:
    authorities = Authorities(folder / "pki")
    await asyncio.to_thread(authorities.init, "plant")
    own = (await asyncio.to_thread(authorities.issue, Subject("masterd", "m1"))).directory
    tls = [f"--tls-ca={own / 'ca.crt'}", f"--tls-cert={own / 'm1.crt'}", f"--tls-key={own / 'm1.key'}"]
    async with Masters(cluster, keys, arguments=["--require-credentials", *tls]) as masters:
        await masters.configure(Inventory.model_validate(INVENTORY))
        masters.start("m1")
        await masters.wait_candidate("m1")
        url, ca = masters.running["m1"].url.replace("http://", "https://"), str(own / "ca.crt")
        headers = await _headers(cluster, keys)
        async with Client(url, ca=Path(ca), token=headers["admin"]["Authorization"].split()[1]) as admin:
            await admin.node_set("n1", {"x": 1}, timeout_s=60.0)
        token = headers["operator"]["Authorization"].split()[1]
        headers["session"] = await asyncio.to_thread(_session, url, ca, token)
        yield Plant(masters.running["m1"], url, ca, headers)


async def _headers(cluster: EtcdCluster, keys: Keys) -> dict[str, dict[str, str]]:
    made = {}
    async with Client(cluster.endpoints, cluster=keys.cluster) as bootstrap:
        for name, principal in WHO.items():
            if principal.role is not None:
                token = await bootstrap.token_create(name, principal.role, commands=list(principal.commands))
                made[name] = {"Authorization": f"Bearer {token['token']}"}
    return made | {"stranger": {}}


def _session(url: str, ca: str, token: str) -> dict[str, str]:
    answer = requests.post(
        f"{url}/v1/login", json={"token": token}, headers={"Origin": url}, verify=ca, timeout=ANSWER_S
    )
    assert answer.status_code == 200, answer.text
    return {"Origin": url, "Cookie": answer.headers["Set-Cookie"].split(";")[0]}


@pytest.fixture(scope="module")
def plant(etcd_one: EtcdCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    folder = tmp_path_factory.mktemp("openapi")
    with in_own_thread(lambda: _opened(etcd_one, Keys("test-openapi-roles"), folder)) as found:
        yield found
    Masterd.discard_warm()


def _is_denied(right: Right, who: str) -> bool:
    return not right.allows(WHO[who])


@pytest.mark.parametrize(("who", "method", "path", "mode"), TRIED)
def test_no_sender_does_more_than_the_table_says(
    plant: Plant, who: str, method: str, path: str, mode: GenerationMode
) -> None:
    right = RIGHTS[method.upper(), path]
    denied = _is_denied(right, who)
    expected = (401 if who == "stranger" else 403) if denied else None
    may_be_refused = path in COMMANDS or path == "/v1/login"
    judges = [] if denied else judges_of(method, mode)

    @seed(SEED)
    @settings(
        max_examples=REFUSED_EXAMPLES if denied else EXAMPLES, database=None, deadline=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation_of(method, path).as_strategy(mode))
    def every(case: Any) -> None:
        answer = case.call(base_url=plant.url, headers=plant.headers[who], verify=plant.ca, timeout=ANSWER_S)
        where = f"{case.as_curl_command()}\n{answer.status_code} {answer.text[:2000]}\n{plant.master.log_tail(60)}"
        assert answer.status_code != 500, where
        problem = answer.json() if answer.status_code >= 400 else {}
        if denied:
            assert answer.status_code in (expected, 404, 415), where
            assert "leader_url" not in problem or who != "stranger", where
        else:
            assert may_be_refused or problem.get("code") not in ("unauthenticated", "forbidden"), where
        case.validate_response(answer, checks=judges)

    every()
    assert plant.master.exit_code is None, plant.master.log_tail(80)


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("path", STREAMS)
def test_streams_open_for_those_who_may(plant: Plant, who: str, path: str) -> None:
    denied = _is_denied(RIGHTS["GET", path], who)
    with requests.get(
        plant.url + path, headers=plant.headers[who], verify=plant.ca, stream=True, timeout=ANSWER_S
    ) as answer:
        assert answer.status_code == (401 if denied else 200)


def test_every_operation_of_the_document_is_in_the_table() -> None:
    assert {(method.upper(), path) for method, path, _ in ANSWERED} <= RIGHTS.keys()
