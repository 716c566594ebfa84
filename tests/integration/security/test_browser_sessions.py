"""A person logs in with a real Chromium, over TLS that it trusts as docs/security.md shows it, moves to another master,
and logs out. Pages of another program on the same PC, which get the cookie too, can do nothing with it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from nodectl import Client
from nodestore.pki.authority import Authorities
from nodestore.pki.identity import Subject
from nodestore.schema.keys import Keys
from nodestore.schema.models import Inventory, NodeConfig
from nodestore.support.tls_files import TlsFiles
from tests.support.browser.driven import DrivenPage, driven
from tests.support.browser.stranger import ATTEMPTS, Stranger
from tests.support.etcd_cluster import EtcdCluster, free_ports
from tests.support.masters import Masterd, Masters
from tests.support.waiting import eventually

pytestmark = pytest.mark.nightly

LOGGED_IN = "!document.getElementById('session').hidden"
LOGGED_OUT = "!document.getElementById('login').hidden"
COMMAND = (
    "{method: 'POST', headers: {'Content-Type': 'application/json'},"
    " body: JSON.stringify({name: 'node.set', args: {node: 'n1', values: {x: 1}}})}"
)
MASTERS = {"m1": "127.0.0.1", "m2": "localhost"}
"""Two hosts, for a browser: a cookie of one is not sent to the other."""


@pytest.fixture(scope="module", autouse=True)
def _warm_masters_end() -> Iterator[None]:
    yield
    Masterd.discard_warm()


@dataclass(frozen=True, slots=True)
class Plant:
    """Masters with TLS that require credentials, and a token of an operator."""

    masters: Masters
    urls: dict[str, str]
    authorities: Authorities
    token: str

    @property
    def ca(self) -> Path:
        return self.authorities.directory / "ca.crt"


@contextlib.asynccontextmanager
async def _plant(cluster: EtcdCluster, keys: Keys, folder: Path, *arguments: str) -> AsyncIterator[Plant]:
    authorities = Authorities(folder / "pki")
    await asyncio.to_thread(authorities.init, "plant")
    urls = {}
    async with Masters(cluster, keys, arguments=["--require-credentials", *arguments]) as masters:
        await masters.configure(Inventory(nodes={"n1": NodeConfig()}))
        for name, host in MASTERS.items():
            own = (await asyncio.to_thread(authorities.issue, Subject("masterd", name))).directory
            port = free_ports(1)[0]
            urls[name] = f"https://{host}:{port}"
            masters.start(
                name,
                arguments=[
                    f"--listen=127.0.0.1:{port}", f"--advertise={urls[name]}", f"--tls-ca={own / 'ca.crt'}",
                    f"--tls-cert={own / f'{name}.crt'}", f"--tls-key={own / f'{name}.key'}",
                ],
            )  # fmt: skip
            await masters.wait_candidate(name)
        async with Client(cluster.endpoints, cluster=keys.cluster) as bootstrap:
            made = await bootstrap.token_create("jo", "operator")
        assert made["token"] is not None
        yield Plant(masters, urls, authorities, made["token"])


async def _log_in(page: DrivenPage, token: str) -> None:
    await page.until(LOGGED_OUT)
    await page.run(
        f"document.getElementById('token').value = '{token}'; document.getElementById('login').requestSubmit()"
    )
    await page.until(LOGGED_IN)


async def _click(page: DrivenPage, selector: str) -> None:
    await page.run(f"document.querySelector('{selector}').click()")


async def test_from_the_login_by_another_master_to_the_logout(
    etcd_one: EtcdCluster, keys: Keys, tmp_path: Path
) -> None:
    async with _plant(etcd_one, keys, tmp_path) as plant, driven(f"{plant.urls['m1']}/", authority=plant.ca) as page:
        await page.until(LOGGED_OUT)
        assert await page.run("location.href") == f"{plant.urls['m1']}/login"
        await page.run("document.getElementById('token').value = 'NCT1.wrong'")
        await page.run("document.getElementById('login').requestSubmit()")
        await page.until("document.getElementById('message').textContent.includes('is not valid')")
        await _log_in(page, plant.token)
        assert "You are token:jo, with the role operator." in await page.text()
        [cookie] = await page.cookies(plant.urls["m1"])
        assert (cookie["httpOnly"], cookie["secure"], cookie["sameSite"]) == (True, True, "Strict")
        stored = await page.run("document.cookie + JSON.stringify(localStorage) + JSON.stringify(sessionStorage)")
        assert stored == "{}{}"
        assert await page.run("fetch('/v1/documents').then((answer) => answer.status)") == 200
        assert await page.run(f"fetch('/v1/commands', {COMMAND}).then((answer) => answer.status)") == 200
        await _leave_by_another_window(page, plant)


async def _leave_by_another_window(page: DrivenPage, plant: Plant) -> None:
    """Move to the other master in the same tab, and log out there: that is the end of the session here too."""
    await page.until("document.querySelector('[data-master=m2]')")
    await _click(page, "[data-master=m2]")
    await page.until(f"location.origin === '{plant.urls['m2']}' && {LOGGED_IN}")
    assert await page.run("location.href") == f"{plant.urls['m2']}/login"  # no code is left in the address
    assert await page.run("fetch('/v1/documents').then((answer) => answer.status)") == 200
    here, there = [await page.cookies(plant.urls[name]) for name in MASTERS]
    assert here[0]["value"] != there[0]["value"]
    await _click(page, "#logout")
    await page.until(LOGGED_OUT)
    assert await page.cookies(plant.urls["m2"]) == []
    await page.open(f"{plant.urls['m1']}/login")
    await page.until(LOGGED_OUT)
    assert await page.cookies(plant.urls["m1"]) != []  # the cookie of an ended session, which opens nothing
    assert await page.run("fetch('/v1/documents').then((answer) => answer.status)") == 401


async def test_a_stream_ends_with_the_session(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    async with _plant(etcd_one, keys, tmp_path) as plant, driven(f"{plant.urls['m1']}/", authority=plant.ca) as page:
        await _log_in(page, plant.token)
        await page.run(
            "window.source = new EventSource('/v1/cluster/watch');"
            "window.state = ''; source.onopen = () => state += 'open '; source.onerror = () => state += 'error '"
        )
        await page.until("state === 'open '")
        async with Client(etcd_one.endpoints, cluster=keys.cluster) as direct:
            await direct.token_revoke(plant.token.split(".")[1])
        await page.until("state === 'open error ' || state === 'open error error '")
        await page.until("source.readyState === EventSource.CLOSED")  # its next attempt was refused


async def test_a_browser_that_does_not_know_the_authority_shows_nothing(
    etcd_one: EtcdCluster, keys: Keys, tmp_path: Path
) -> None:
    """The control: it is the imported certificate that makes the browser trust the master."""
    async with _plant(etcd_one, keys, tmp_path) as plant, driven(f"{plant.urls['m1']}/") as page:
        await page.until("document.body.innerText.includes('ERR_CERT_AUTHORITY_INVALID')")


async def test_without_tls_there_is_no_form_for_a_token(etcd_one: EtcdCluster, keys: Keys) -> None:
    async with Masters(etcd_one, keys, arguments=["--require-credentials"]) as masters:
        masters.start("m1")
        await masters.wait_candidate("m1")
        async with driven(f"{masters.running['m1'].url}/") as page:
            await page.until("document.body.innerText.includes('A login needs TLS')")
            assert not await page.run(LOGGED_OUT)


@pytest.mark.parametrize("is_trusted", [False, True], ids=["stranger", "trusted origin"])
async def test_another_web_server_on_the_pc_does_nothing_with_the_cookie(
    etcd_one: EtcdCluster, keys: Keys, tmp_path: Path, is_trusted: bool
) -> None:
    """For the browser it is the same site, so it sends the cookie with what these pages ask for."""
    port = free_ports(1)[0]
    arguments = [f"--allow-origin=https://127.0.0.1:{port}"] if is_trusted else []
    async with _plant(etcd_one, keys, tmp_path, *arguments) as plant:
        own = (await asyncio.to_thread(plant.authorities.issue, Subject("masterd", "other"))).directory
        files = TlsFiles(ca=own / "ca.crt", cert=own / "other.crt", key=own / "other.key")
        context = files.read().server
        assert context is not None
        async with (
            Stranger.serving_with_tls(context, port) as stranger,
            driven(f"{plant.urls['m1']}/", authority=plant.ca) as page,
        ):
            await _log_in(page, plant.token)
            await page.open(stranger.prepare(plant.urls["m1"]))
            report = await stranger.reported()
            assert set(report) == ATTEMPTS
            assert stranger.cookies_seen(), "the browser sends the cookie to each port of the host"
            read = {name: found for name, found in report.items() if found.get("text")}
            statuses = {found.get("status") for found in read.values()}
            assert statuses <= ({401, 403, 415} if is_trusted else set()), read
            with_cookie = (
                f"fetch('{plant.urls['m1']}/v1/documents', {{credentials: 'include', mode: 'no-cors'}})"
                ".then((answer) => answer.type, () => 'error')"
            )
            assert await page.run(with_cookie) in ("opaque", "error")
        entries = [entry for _, entry in (await plant.masters.history()).puts]
        assert [record.id for entry in entries for record in entry.commands if record.config is None] == []
        assert await plant.masters.etcd.get(keys.paused) is None
        await _expect_refusal(plant, etcd_one, keys, "a browser session counts only" if is_trusted else "a web page of")


async def _expect_refusal(plant: Plant, cluster: EtcdCluster, keys: Keys, why: str) -> None:
    """Among the refusals on record is this one."""
    async with Client(cluster.endpoints, cluster=keys.cluster) as bootstrap:
        admin = await bootstrap.token_create("admin", "admin")
    async with Client(plant.urls["m1"], ca=plant.ca, token=admin["token"]) as client:

        async def is_there() -> bool:
            return any(why in entry["detail"] for _, entry in await client.audit())

        await eventually(is_there, f"a refusal with {why!r} is on record")
