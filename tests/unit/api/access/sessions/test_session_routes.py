"""Browser sessions over HTTP: login, cookie, rules for its use, the move to another master, logout, and the record."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import aiohttp
import pytest

from masterd.api.access import session_routes
from masterd.api.access.rates import Rates
from masterd.api.access.rights import RIGHTS
from tests.support.fakes.access import AccessCase
from tests.support.fakes.masterd_parts import serving
from tests.support.fakes.sessions import COOKIE, Page, SessionCase
from tests.support.waiting import eventually

WHOAMI = "/v1/whoami"


async def _until(page: Page, status: int) -> None:
    async def answered() -> bool:
        return (await page.send("GET", WHOAMI)).status == status

    await eventually(answered, f"the answer is {status}")


async def test_from_the_login_to_the_logout() -> None:
    """With the role and the limits of the token, and a cookie that no script and no other site can use."""
    case = SessionCase()
    async with case.opened() as (page, _):
        token = await case.token("jo", "operator", commands=["scene.*"])
        assert (await page.send("GET", WHOAMI)).status == 401
        done = await page.log_in(token)
        assert (done.status, done.body["principal"], done.body["role"]) == (200, "token:jo", "operator")
        assert done.set_cookie.startswith(f"{COOKIE.name}=NCS1.")
        assert done.set_cookie.endswith("; Path=/; Secure; HttpOnly; SameSite=Strict")
        assert token not in str(done)
        me = await page.send("GET", WHOAMI)
        assert (me.body["principal"], me.body["commands"], me.body["browser_session"]) == (
            "token:jo",
            ["scene.*"],
            True,
        )
        assert (await page.send("PUT", "/v1/config", {})).body["code"] == "forbidden"
        cookie = page.cookie
        out = await page.send("POST", "/v1/logout", {})
        assert (out.status, page.cookie) == (200, None)
        assert out.set_cookie.startswith(f"{COOKIE.name}=; Max-Age=0; Path=/; Secure; HttpOnly")
        page.cookie = cookie
        assert (await page.send("GET", WHOAMI)).status == 401
        assert await case.sessions() == 0


async def test_a_session_is_valid_at_every_master_that_gets_its_cookie() -> None:
    """At once: a masterd whose watch does not show it yet waits a moment before it refuses."""
    case = SessionCase()
    async with case.opened() as (page, other):
        await page.log_in(await case.token())
        other.cookie = page.cookie
        assert (await other.send("GET", WHOAMI)).status == 200
        await other.send("POST", "/v1/logout", {})
        await _until(page, 401)


@pytest.mark.parametrize("stream", ["/v1/cluster/watch", "/v1/nodes/watch"])
@pytest.mark.parametrize("end", ["logout", "revoked", "logout elsewhere"])
async def test_streams_end_with_their_session(stream: str, end: str) -> None:
    case = SessionCase()
    async with case.opened() as (page, other), aiohttp.ClientSession() as session:
        token = await case.token()
        await page.log_in(token)
        headers = {"Host": page.headers["Host"], "Cookie": page.cookie or "", "Sec-Fetch-Site": "same-origin"}
        async with session.get(page.url + stream, headers=headers) as answer:
            assert answer.status == 200
            assert await answer.content.readline()
            if end == "logout":
                await page.send("POST", "/v1/logout", {})
            elif end == "revoked":
                await case.revoke(token)
            else:
                await other.log_in(token)
                await other.send("POST", "/v1/logout", {"all": True})
            with pytest.raises(aiohttp.ClientError):
                await asyncio.wait_for(answer.read(), 10.0)


async def test_a_revoked_token_ends_its_sessions() -> None:
    case = SessionCase()
    async with case.opened() as (page, other):
        token = await case.token()
        await page.log_in(token)
        await other.log_in(await case.token("anna", "viewer"))
        await case.revoke(token)
        await _until(page, 401)
        assert (await other.send("GET", WHOAMI)).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},  # a program, or a page from which the browser hides where it is
        {"Origin": "null"},
        {"Origin": "https://m1.example:8443"},  # another port of the same host gets the cookie too
        {"Origin": "http://m1.example"},
        {"Origin": "https://m2.example"},  # another master, whose pages could be those of an attacker
        {"Sec-Fetch-Site": "same-origin"},  # enough to read only
    ],
    ids=str,
)
async def test_only_pages_of_this_master_change_something_with_a_cookie(headers: dict[str, str]) -> None:
    case = SessionCase()
    async with case.opened() as (page, _):
        await page.log_in(await case.token("jo", "admin"))
        sent = {"Host": page.headers["Host"], "Cookie": page.cookie or "", **headers}
        for (method, path), right in RIGHTS.items():
            if right.is_public or method == "GET" or right.least is None:
                continue
            there = path.replace("{name}", "s").replace("{id}", "abc")
            answer = await page.send(method, there, {}, headers=sent)
            assert (answer.status, answer.body["code"]) == (403, "denied"), (method, path)
            assert "leader_url" not in answer.body


@pytest.mark.parametrize(
    ("site", "status"), [("same-origin", 200), ("none", 403), ("same-site", 403), ("cross-site", 403), ("", 403)]
)
async def test_reads_with_a_cookie_come_from_own_pages(site: str, status: int) -> None:
    case = SessionCase()
    async with case.opened() as (page, _):
        await page.log_in(await case.token())
        headers = {
            "Host": page.headers["Host"],
            "Cookie": page.cookie or "",
            **({"Sec-Fetch-Site": site} if site else {}),
        }
        assert (await page.send("GET", WHOAMI, headers=headers)).status == status


async def test_a_token_counts_before_a_cookie_and_a_cookie_before_a_certificate() -> None:
    case = SessionCase()
    async with case.opened() as (page, _):
        await page.log_in(await case.token())
        viewer = await case.token("anna", "viewer")
        both = {**page.headers, "Authorization": f"Bearer {viewer}"}
        assert (await page.send("GET", WHOAMI, headers=both)).body["principal"] == "token:anna"
        wrong = {**page.headers, "Authorization": "Bearer x"}
        assert (await page.send("GET", WHOAMI, headers=wrong)).status == 401


@pytest.mark.parametrize(
    "cookie", ["", "x", "NCS1.0123456789abcdef." + "A" * 43, "NCT1.0123456789abcdef." + "A" * 43, "a b=\t;;=", '"']
)
async def test_cookies_that_are_not_valid(cookie: str) -> None:
    """None of them is replaced by another credential, or causes an error."""
    case = SessionCase()
    async with case.opened() as (page, _):
        page.cookie = f"theme=dark; {COOKIE.name}={cookie}; lang=en"
        answer = await page.send("GET", WHOAMI)
        assert (answer.status, answer.body["code"]) == (401, "unauthenticated")


async def test_two_cookies_of_the_name_are_refused() -> None:
    case = SessionCase()
    async with case.opened() as (page, _):
        await page.log_in(await case.token())
        page.cookie = f"{page.cookie}; {page.cookie}"
        answer = await page.send("GET", WHOAMI)
        assert (answer.status, answer.body["code"]) == (400, "invalid")


# --- the login ---


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ({}, "only the login page"),
        ({"Origin": "https://m2.example"}, "may"),
        ({"Sec-Fetch-Site": "same-origin"}, "only the login page"),
        ({"Origin": "http://m1.example"}, "a login needs TLS"),
    ],
    ids=str,
)
async def test_only_the_login_page_logs_in_and_only_over_tls(headers: dict[str, str], why: str) -> None:
    case = SessionCase()
    async with case.opened() as (page, _):
        token = await case.token()
        sent = {"Host": page.headers["Host"], **headers}
        answer = await page.send("POST", "/v1/login", {"token": token}, headers=sent)
        assert (answer.status, answer.body["code"]) == (403, "denied")
        assert why in answer.body["detail"]
        assert (await case.sessions(), answer.set_cookie) == (0, "")


@pytest.mark.parametrize(
    "body",
    [{}, {"token": "", "code": ""}, {"token": "a", "code": "b"}, {"token": 5}, [], {"token": "x" * 5_000}],
    ids=lambda body: str(body)[:20],
)
async def test_logins_that_cannot_be(body: Any) -> None:
    case = SessionCase()
    async with case.opened() as (page, _):
        answer = await page.send("POST", "/v1/login", body)
        assert answer.status in (400, 413)
        assert answer.set_cookie == ""


async def test_no_difference_shows_which_tokens_exist() -> None:
    """Neither in the text nor in the time; and codes are no different."""
    case = SessionCase()
    async with case.opened() as (page, _):
        token = await case.token()
        ended = await case.token("late", lasts_s=0.001)
        secret = token.rsplit(".", 1)[1]
        wrong = [token[:-43] + "A" * 43, ended, "x", f"NCT1.{'0' * 16}.{secret}", f"NCS1.{token[5:]}"]
        loop, answers = asyncio.get_running_loop(), []
        for credential in ({"token": each} for each in wrong):
            begun = loop.time()
            answer = await page.send("POST", "/v1/login", credential)
            assert loop.time() - begun >= 0.3
            answers.append((answer.status, answer.body, answer.set_cookie))
        code = await page.send("POST", "/v1/login", {"code": f"NCC1.{'0' * 16}.{secret}"})
        assert [(code.status, code.body, code.set_cookie)] * len(answers) == answers
        assert (code.status, code.body["code"]) == (401, "unauthenticated")


async def test_a_token_logs_in_only_so_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_routes, "_LOGINS_BURST", 2.0)
    case = SessionCase()
    async with case.opened() as (page, _):
        token, other = await case.token(), await case.token("anna")
        assert [(await page.log_in(token)).status for _ in range(3)] == [200, 200, 503]
        assert (await page.log_in(other)).status == 200
        assert await case.sessions() == 1  # each login of this browser has replaced the one before


async def test_requests_of_all_sessions_count_for_their_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("masterd.api.access.gate.Rates", lambda: Rates(0.01, 3.0))
    case = SessionCase()
    async with case.opened() as (page, _):
        token = await case.token()
        statuses = []
        for _ in range(4):
            page.cookie = None
            await page.log_in(token)
            statuses.append((await page.send("GET", WHOAMI)).status)
        assert statuses == [200, 200, 200, 503]


# --- the move to another master ---


async def test_a_browser_moves_to_another_master_with_a_code() -> None:
    case = SessionCase()
    async with case.opened() as (page, other):
        await page.log_in(await case.token())
        made = await page.send("POST", "/v1/session/code", {"master": "m2"})
        assert made.body["url"] == f"https://m2.example/login#code={made.body['code']}"
        moved = await other.send("POST", "/v1/login", {"code": made.body["code"]})
        assert (moved.status, moved.body["principal"]) == (200, "token:jo")
        assert moved.set_cookie.startswith(f"{COOKIE.name}=NCS1.")
        assert other.cookie != page.cookie
        assert (await other.send("GET", WHOAMI)).body["browser_session"]
        again = await other.send("POST", "/v1/login", {"code": made.body["code"]})
        assert (again.status, again.set_cookie) == (401, "")
        await page.send("POST", "/v1/logout", {})
        await _until(other, 401)


async def test_a_code_is_for_one_address() -> None:
    case = SessionCase()
    async with case.opened() as (page, _):
        await page.log_in(await case.token())
        made = await page.send("POST", "/v1/session/code", {"master": "m2"})
        assert (await page.send("POST", "/v1/login", {"code": made.body["code"]})).status == 401


@pytest.mark.parametrize(("master", "status"), [("m9", 404), ("", 404), (5, 400)])
async def test_codes_for_masters_that_are_none(master: Any, status: int) -> None:
    case = SessionCase()
    async with case.opened() as (page, _):
        await page.log_in(await case.token())
        assert (await page.send("POST", "/v1/session/code", {"master": master})).status == status


@pytest.mark.parametrize("path", ["/v1/logout", "/v1/session/code"])
async def test_a_token_is_no_session(path: str) -> None:
    case = SessionCase()
    async with case.opened() as (page, _):
        headers = {"Authorization": f"Bearer {await case.token()}"}
        answer = await page.send("POST", path, {}, headers=headers)
        assert (answer.status, answer.body["code"]) == (400, "invalid")


# --- on record ---


async def test_logins_moves_and_refusals_are_on_record() -> None:
    case = SessionCase()
    async with case.opened() as (page, other):
        token, admin = await case.token(), await case.token("anna", "admin")
        await page.log_in(token)
        made = await page.send("POST", "/v1/session/code", {"master": "m2"})
        await other.send("POST", "/v1/login", {"code": made.body["code"]})
        await other.send("POST", "/v1/login", {"code": made.body["code"]})
        await page.log_in("x" + token)
        await page.send("POST", "/v1/logout", {"all": True})
        found = []
        for each in (page, other):
            headers = {"Authorization": f"Bearer {admin}"}
            entries = (await each.send("GET", "/v1/audit", headers=headers)).body["entries"]
            found += [
                (item["event"], item["principal"], item["detail"]) for item in entries if item["event"] != "login"
            ]
            assert {item["address"] for item in entries} == {"127.0.0.1"}
        assert found == [
            ("browser login", "token:jo", ""),
            ("refused", "stranger", "invalid token"),
            ("browser logout", "token:jo", "all sessions of its token"),
            ("browser move", "token:jo", ""),
            ("refused", "stranger", "invalid code"),
        ]
        assert token.rsplit(".", 1)[1] not in str(found)


# --- pages ---


@pytest.mark.parametrize(("path", "status"), [("/", 302), ("/login", 200)])
async def test_pages_need_no_credential_and_load_nothing(path: str, status: int) -> None:
    async with serving(AccessCase().masterd) as url, aiohttp.ClientSession() as session:
        async with session.get(url + path, allow_redirects=False) as answer:
            text = await answer.text()
            assert answer.status == status
            policy = answer.headers["Content-Security-Policy"]
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert re.search(r"(?:https?:)?//\w", text) is None  # the page names schemes, and no address
        if status == 302:
            assert answer.headers["Location"] == "/login"


@pytest.mark.parametrize(
    ("dest", "status"), [("document", 200), ("iframe", 403), ("embed", 403), ("empty", 403), ("script", 403)]
)
async def test_a_link_of_another_site_may_open_a_page_but_not_embed_it(dest: str, status: int) -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": dest}
    async with serving(AccessCase().masterd) as url, aiohttp.ClientSession() as session:
        async with session.get(f"{url}/login", headers=headers) as answer:
            assert answer.status == status
        async with session.get(f"{url}/v1/health", headers=headers) as answer:
            assert answer.status == 403
