"""Every right in the table, tried over a socket by everybody: who may not is refused, with the role that is needed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import aiohttp
import pytest
from multidict import CIMultiDict

from masterd.api.access.rights import MAINTAINERS_COMMANDS, RIGHTS, ROLES, Right, command_refusal, missing_rights
from masterd.roles.principal import ANYONE, Kind, Principal
from nodestore.schema.models import Role
from tests.support.fakes.access import PEER_HEADER, AccessCase, peer_by_header
from tests.support.fakes.masterd_parts import serving

_ENDS_S = 10.0
OTHER_KINDS = ("host", "hostd", "etcd")


@asynccontextmanager
async def _api(case: AccessCase) -> AsyncIterator[tuple[str, aiohttp.ClientSession]]:
    async with serving(case.masterd, peer_identity=peer_by_header) as url, aiohttp.ClientSession() as session:
        yield url, session


def _path(path: str, node: str = "n1") -> str:
    return path.replace("{node}", node).replace("{path}", "a/b").replace("{name}", "s").replace("{id}", "abc")


async def _ask(
    session: aiohttp.ClientSession, method: str, url: str, headers: dict[str, str], body: Any = None
) -> tuple[int, dict[str, Any]]:
    async with session.request(method, url, headers=headers, json=body) as answer:
        return answer.status, await answer.json(content_type=None)


def _denied(right: Right, principal: Principal, node: str = "") -> bool:
    return not right.is_public and not right.allows(principal, node)


async def test_without_a_credential_nothing_but_health_probes_and_the_login_is_served() -> None:
    async with _api(AccessCase()) as (url, session):
        for (method, path), right in RIGHTS.items():
            if right.is_public:
                continue
            async with session.request(method, url + _path(path)) as answer:
                problem = await answer.json(content_type=None)
                assert (answer.status, problem["code"]) == (401, "unauthenticated"), (method, path)
                assert answer.headers["WWW-Authenticate"] == "Bearer"
                assert "leader_url" not in problem
        assert [item for item, right in RIGHTS.items() if right.is_public] == [
            ("GET", "/v1/health"), ("GET", "/leader"), ("HEAD", "/leader"), ("GET", "/ready"), ("HEAD", "/ready"),
            ("GET", "/live"), ("HEAD", "/live"), ("GET", "/"), ("GET", "/login"), ("POST", "/v1/login"),
        ]  # fmt: skip


@pytest.mark.parametrize("role", ROLES)
async def test_no_role_does_more_than_the_table_says(role: Role) -> None:
    case = AccessCase()
    headers = case.grant(role)
    denied = 0
    async with _api(case) as (url, session):
        for (method, path), right in RIGHTS.items():
            if not _denied(right, Principal(Kind.TOKEN, role, role)):
                continue
            denied += 1
            status, problem = await _ask(session, method, url + _path(path), headers)
            assert (status, problem["code"]) == (403, "forbidden"), (method, path)
            assert right.requirement() in problem["detail"]
            assert f"token:{role} has the role {role}" in problem["detail"]
    assert denied >= 3  # those of the masters and of noded


@pytest.mark.parametrize("kind", ["masterd", "noded"])
async def test_no_program_does_more_than_the_table_says(kind: str) -> None:
    principal = Principal(Kind.MASTER if kind == "masterd" else Kind.NODED, "n1")
    async with _api(AccessCase()) as (url, session):
        for (method, path), right in RIGHTS.items():
            if _denied(right, principal, "n2"):
                status, problem = await _ask(session, method, url + _path(path, "n2"), {PEER_HEADER: f"{kind}:n1"})
                assert (status, problem["code"]) == (403, "forbidden"), (method, path)


@pytest.mark.parametrize("kind", [*OTHER_KINDS, ""])
async def test_certificates_of_other_kinds_open_nothing(kind: str) -> None:
    """Certificates of the cluster's authority that are for other purposes, or name nobody."""
    async with _api(AccessCase()) as (url, session):
        for path in ("/v1/status", "/v1/follow", "/v1/nodes/n1/log-link"):
            status, problem = await _ask(session, "GET", url + path, {PEER_HEADER: f"{kind}:n1"})
            assert (status, problem["code"]) == (401, "unauthenticated"), path


async def test_a_noded_connects_only_for_its_own_node() -> None:
    async with _api(AccessCase()) as (url, session):
        status, problem = await _ask(session, "GET", f"{url}/v1/nodes/n2/log-link", {PEER_HEADER: "noded:n1"})
        assert problem["code"] == "forbidden"
        status, problem = await _ask(session, "GET", f"{url}/v1/nodes/n1/log-link", {PEER_HEADER: "noded:n1"})
        assert (status, problem["code"]) == (503, "not_leader")


async def test_the_table_allows_what_each_role_is_for() -> None:
    """Requests that need nothing but memory, over the socket."""
    case = AccessCase()
    case.masterd.lead()
    headers = {role: case.grant(role) for role in ROLES}
    async with _api(case) as (url, session):
        for role in ROLES:
            status, answer = await _ask(session, "GET", f"{url}/v1/nodes?consistency=local", headers[role])
            assert status == 200
            status, answer = await _ask(session, "GET", f"{url}/v1/whoami", headers[role])
            assert (status, answer["principal"], answer["role"]) == (200, f"token:{role}", role)
            right = RIGHTS["PUT", "/v1/config"]
            assert ("PUT /v1/config" in answer["may"]) is right.allows(Principal(Kind.TOKEN, role, role))
        for method, path in (("PUT", "/v1/config"), ("POST", "/v1/leader/switchover"), ("POST", "/v1/drill")):
            status, answer = await _ask(session, method, url + path, headers["maintainer"], {})
            assert answer["code"] not in ("forbidden", "unauthenticated"), (method, path)


def test_roles_grow() -> None:
    """Each may do what those before it may, and admins all that people may."""
    allowed = [
        {item for item, right in RIGHTS.items() if right.allows(Principal(Kind.TOKEN, "x", role))} for role in ROLES
    ]
    for less, more in pairwise(allowed):
        assert less < more
    assert allowed[-1] == {item for item, right in RIGHTS.items() if right.is_public or right.least is not None}


def test_a_route_without_an_entry_is_found() -> None:
    assert missing_rights(RIGHTS) == []
    assert missing_rights([*RIGHTS, ("GET", "/v1/new")]) == ["GET /v1/new has no entry"]
    assert missing_rights(list(RIGHTS)[1:]) == ["GET /v1/health is no route"]


async def test_whoever_is_limited_may_read_and_send_commands() -> None:
    """Other requests cannot be limited to commands or nodes, so they are refused."""
    case = AccessCase()
    for headers in (case.grant("admin", commands=["scene.*"]), case.grant("admin", groups=["top"])):
        async with _api(case) as (url, session):
            for (method, path), right in RIGHTS.items():
                if right.least is None or right.for_limited:
                    continue
                status, problem = await _ask(session, method, url + _path(path), headers)
                assert (status, problem["code"]) == (403, "forbidden"), (method, path)
                assert "limited to some commands or nodes" in problem["detail"]


# --- commands ---


@pytest.mark.parametrize("name", sorted(MAINTAINERS_COMMANDS))
def test_commands_for_maintainers(name: str) -> None:
    for role in ROLES:
        refusal = command_refusal(Principal(Kind.TOKEN, "x", role), name, {})
        assert (refusal is None) is (role in ("maintainer", "admin")), role


def test_reboots_are_for_maintainers() -> None:
    operator, maintainer = Principal(Kind.TOKEN, "x", "operator"), Principal(Kind.TOKEN, "x", "maintainer")
    assert command_refusal(operator, "node.act", {"action": "restart"}) is None
    assert command_refusal(operator, "node.act", {"action": "reboot"}) == (
        "token:x may not send the command node.act reboot: it needs the role maintainer or admin"
    )
    assert command_refusal(maintainer, "node.act", {"action": "reboot"}) is None
    assert command_refusal(ANYONE, "node.act", {"action": "reboot"}) is None


def test_names_of_commands_are_limited_by_patterns() -> None:
    limited = Principal(Kind.TOKEN, "x", "operator", commands=("scene.*", "node.put"))
    assert command_refusal(limited, "scene.apply", {}) is None
    assert command_refusal(limited, "node.put", {}) is None
    for name in ("node.putt", "node.set", "xscene.apply", "SCENE.apply", "scene"):
        assert command_refusal(limited, name, {}) == (
            f"token:x may not send the command {name}: only scene.*, node.put"
        )


async def test_one_forbidden_command_refuses_the_whole_request() -> None:
    """Before any of them is queued."""
    case = AccessCase()
    leader = case.masterd.lead()
    headers = case.grant("operator", commands=["scene.*"])
    async with _api(case) as (url, session):
        body = {"commands": [{"name": "scene.apply"}, {"name": "node.put"}]}
        status, problem = await _ask(session, "POST", f"{url}/v1/commands", headers, body)
        assert (status, problem["code"]) == (403, "forbidden")
        assert not hasattr(leader, "submit")  # it would have failed otherwise


# --- credentials ---


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "Bearer x", "Basic YWRtaW46YWRtaW4=", "Bearer NCT1.0123456789abcdef." + "A" * 43,
     "Bearer NCT1.0123456789abcdef." + "A" * 42, "NCT1.0123456789abcdef." + "A" * 43],
)  # fmt: skip
async def test_no_difference_tells_which_tokens_exist(header: str) -> None:
    """Of a token that exists with a wrong secret, one that does not exist, has ended, or is none: the same answer, and
    not before a fixed time has passed."""
    case = AccessCase()
    valid, ended = case.grant("admin")["Authorization"], case.grant("admin", ends=1.0)["Authorization"]
    wrong = valid[:-1] + ("B" if valid[-1] == "A" else "A")
    loop = asyncio.get_running_loop()
    async with _api(case) as (url, session):
        answers = []
        for tried in (header, wrong, ended):
            begun = loop.time()
            status, problem = await _ask(session, "GET", f"{url}/v1/status", {"Authorization": tried})
            assert loop.time() - begun >= 0.3
            answers.append((status, problem))
        assert answers[0] == answers[1] == answers[2]
        assert (answers[0][0], answers[0][1]["code"]) == (401, "unauthenticated")


async def test_a_token_that_arrives_a_moment_later_is_accepted() -> None:
    """It was made at another masterd just now."""
    case = AccessCase()
    headers = case.grant("viewer")
    [(grant_id, grant)] = case.masterd.view.grants.items.items()
    case.revoke(grant_id)
    async with _api(case) as (url, session):
        asyncio.get_running_loop().call_later(0.1, case.put, grant_id, grant)
        assert (await _ask(session, "GET", f"{url}/v1/whoami", headers))[0] == 200


async def test_no_token_is_called_invalid_before_the_grants_were_read() -> None:
    """A masterd that has just started, or cannot reach etcd, does not know: its clients try again, also elsewhere."""
    case = AccessCase()
    headers = case.grant("viewer")
    [grant_id] = case.masterd.view.grants.items
    case.revoke(grant_id)
    case.masterd.view.grants.is_known = False
    async with _api(case) as (url, session):
        status, problem = await _ask(session, "GET", f"{url}/v1/whoami", headers)
        assert (status, problem["code"]) == (503, "unavailable")


@pytest.mark.parametrize("name", ["Authorization", "Cookie", "Nodectl-Principal", "Origin", "Content-Type"])
async def test_a_header_that_decides_is_there_once(name: str) -> None:
    """A proxy in front may check the second one, while masterd uses the first one."""
    case = AccessCase()
    admin, viewer = case.grant("admin"), case.grant("viewer")
    async with _api(case) as (url, session):
        values = (admin["Authorization"], viewer["Authorization"]) if name == "Authorization" else (url, url)
        headers = CIMultiDict(viewer if name != "Authorization" else {})
        for value in values:
            headers.add(name, value)
        async with session.get(f"{url}/v1/whoami", headers=headers) as answer:
            problem = await answer.json(content_type=None)
        assert (answer.status, problem["code"]) == (400, "invalid")
        assert name in problem["detail"]


async def test_a_certificate_of_an_operator_needs_a_role() -> None:
    case = AccessCase()
    async with _api(case) as (url, session):
        status, problem = await _ask(session, "GET", f"{url}/v1/status", {PEER_HEADER: "operator:anna"})
        assert status == 403
        assert "operator:anna has no role yet" in problem["detail"]
        headers = case.grant_to_certificate("anna", "viewer")
        status, answer = await _ask(session, "GET", f"{url}/v1/whoami", headers)
        assert (status, answer["principal"], answer["role"]) == (200, "operator:anna", "viewer")


async def test_an_invalid_token_is_not_replaced_by_a_certificate() -> None:
    case = AccessCase()
    headers = case.grant_to_certificate("anna", "admin") | {"Authorization": "Bearer x"}
    async with _api(case) as (url, session):
        assert (await _ask(session, "GET", f"{url}/v1/whoami", headers))[0] == 401


async def test_a_revoked_token_ends_its_streams_at_once() -> None:
    case = AccessCase()
    headers, other = case.grant("viewer"), case.grant("viewer")
    revoked, left = case.masterd.view.grants.items
    async with (
        _api(case) as (url, session),
        session.get(f"{url}/v1/cluster/watch", headers=headers) as stream,
        session.get(f"{url}/v1/cluster/watch", headers=other) as kept,
    ):
        assert await stream.content.readline()
        case.revoke(revoked)
        with pytest.raises(aiohttp.ClientError):
            await asyncio.wait_for(stream.read(), _ENDS_S)
        assert await kept.content.readline()
        assert (await _ask(session, "GET", f"{url}/v1/whoami", headers))[0] == 401
        assert (await _ask(session, "GET", f"{url}/v1/whoami", other))[0] == 200
        case.revoke(left)
        with pytest.raises(aiohttp.ClientError):
            await asyncio.wait_for(kept.read(), _ENDS_S)


async def test_a_lesser_role_ends_streams_too() -> None:
    case = AccessCase()
    headers = case.grant("admin")
    [(grant_id, grant)] = case.masterd.view.grants.items.items()
    async with _api(case) as (url, session), session.get(f"{url}/v1/cluster/watch", headers=headers) as stream:
        assert await stream.content.readline()
        case.put(grant_id, grant.model_copy(update={"groups": ("top",)}))
        with pytest.raises(aiohttp.ClientError):
            await asyncio.wait_for(stream.read(), _ENDS_S)


@pytest.mark.parametrize("peer", ["noded:n1", "operator:anna", "masterd:pc1", "etcd:pc1"])
async def test_streams_without_a_right_end_when_access_control_is_switched_on(peer: str) -> None:
    """A certificate that has no role, or only the rights of a daemon, may open any stream while it is off."""
    case = AccessCase(is_on=False)
    viewer = case.grant("viewer")
    [grant_id] = case.masterd.view.grants.items
    async with (
        _api(case) as (url, session),
        session.get(f"{url}/v1/cluster/watch", headers={PEER_HEADER: peer}) as stream,
        session.get(f"{url}/v1/cluster/watch", headers=viewer) as kept,
    ):
        assert await stream.content.readline()
        case.switch_on()
        with pytest.raises(aiohttp.ClientError):
            await asyncio.wait_for(stream.read(), 5.0)
        assert await kept.content.readline()
        case.revoke(grant_id)
        with pytest.raises(aiohttp.ClientError):
            await kept.read()


# --- forwarded requests ---


async def test_only_a_master_says_who_sent_a_forwarded_request() -> None:
    case = AccessCase()
    case.grant("viewer")
    [grant_id] = case.masterd.view.grants.items
    token = Principal(Kind.TOKEN, "viewer", grant_id=grant_id, address="10.0.0.7")
    claims = {"Nodectl-Principal": token.header()}
    async with _api(case) as (url, session):
        status, answer = await _ask(session, "GET", f"{url}/v1/whoami", claims | {PEER_HEADER: "masterd:pc1"})
        assert (status, answer["principal"], answer["role"], answer["address"]) == (
            200, "token:viewer", "viewer", "10.0.0.7",
        )  # fmt: skip
        assert (await _ask(session, "GET", f"{url}/v1/whoami", claims))[0] == 401
        anna = case.grant_to_certificate("anna", "admin")
        _, answer = await _ask(session, "GET", f"{url}/v1/whoami", claims | anna)
        assert answer["principal"] == "operator:anna"
        _, answer = await _ask(session, "GET", f"{url}/v1/whoami", claims | {PEER_HEADER: "noded:n1"})
        assert answer["principal"] == "noded:n1"


@pytest.mark.parametrize("kind", [Kind.ANYONE, Kind.STRANGER, Kind.MASTER, Kind.NODED])
async def test_a_forwarded_request_is_that_of_a_person(kind: Kind) -> None:
    """A masterd on which access control is still off, or one that is taken over, opens no more than its own rights."""
    headers = {"Nodectl-Principal": Principal(kind, "pc2").header(), PEER_HEADER: "masterd:pc1"}
    async with _api(AccessCase()) as (url, session):
        for method, path in (("GET", "/v1/status"), ("POST", "/v1/campaign")):
            assert (await _ask(session, method, url + path, headers))[0] == 401


@pytest.mark.parametrize("header", ["", "{", "[]", '{"kind":"king"}', '{"kind":"token","grant":7}', "x" * 9000])
async def test_headers_that_cannot_be_read(header: str) -> None:
    headers = {"Nodectl-Principal": header, PEER_HEADER: "masterd:pc1"}
    async with _api(AccessCase()) as (url, session):
        assert (await _ask(session, "GET", f"{url}/v1/whoami", headers))[0] in (400, 401)


# --- without access control ---


async def test_without_access_control_all_is_as_before() -> None:
    case = AccessCase(is_on=False)
    headers = case.grant("viewer")
    async with _api(case) as (url, session):
        assert (await _ask(session, "GET", f"{url}/v1/nodes?consistency=local", {}))[0] == 200
        _, answer = await _ask(session, "GET", f"{url}/v1/whoami", {})
        assert (answer["principal"], answer["access_control"]) == ("anyone", False)
        assert (await _ask(session, "GET", f"{url}/v1/whoami", headers))[1]["principal"] == "token:viewer"
        assert (await _ask(session, "PUT", f"{url}/v1/config", headers, {}))[1]["code"] == "not_leader"


async def test_tokens_are_never_made_without_a_credential() -> None:
    """A token that anyone made before access control was switched on would open the cluster for ever."""
    case = AccessCase(is_on=False)
    viewer = case.grant("viewer")
    async with _api(case) as (url, session):
        for (method, path), right in RIGHTS.items():
            if right.needs_credential:
                assert (await _ask(session, method, url + _path(path), {}, {}))[0] == 401
                assert (await _ask(session, method, url + _path(path), viewer, {}))[0] == 403
