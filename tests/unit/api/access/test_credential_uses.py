"""When credentials were last used: noted in memory, written rarely, and never an older use over a newer one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import make_mocked_request

from masterd.api.access import credential_uses
from masterd.api.access.audit import AuditLog
from masterd.api.access.credential_uses import REWRITE_AFTER_S, WRITE_AFTER_S, CredentialUses
from masterd.roles.principal import Kind, Principal
from nodestore.cluster.grants import Grants
from nodestore.schema.keys import Keys
from nodestore.schema.models import CredentialUse, Grant, decode
from tests.support.fakes.access import AccessCase
from tests.support.fakes.clock import VirtualTime
from tests.support.fakes.masterd_parts import serving
from tests.support.fakes.unsure_store import UnsureStore

KEYS = Keys("test")
ID = "00" * 8
GRANT = Grant(name="jo", kind="token", role="viewer", hash="h", actor="ann", time=1.0)
REQUEST = make_mocked_request("GET", "/v1/nodes")


def jo(address: str = "10.0.0.7", grant_id: str = ID) -> Principal:
    return Principal(Kind.TOKEN, "jo", "viewer", grant_id, address=address)


class Case(UnsureStore):
    """A store that holds a grant, and the uses that a masterd notes. Its wall clock is a number."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.now, self.known, self.audit = 1_000.0, {ID: GRANT}, AuditLog()
        self.writes(KEYS.grant(ID), GRANT.encode())()

    @asynccontextmanager
    async def uses(self, master: str = "m1") -> AsyncIterator[CredentialUses]:
        async with self.sessions() as (etcd, _):
            uses = CredentialUses(master, Grants(etcd, KEYS), lambda: self.known, self.audit, lambda: self.now)
            yield uses
            await uses.close()

    def written(self) -> CredentialUse:
        return decode(CredentialUse, self.value(KEYS.use(ID)), "the use")

    @property
    def puts(self) -> int:
        """How often the key was written."""
        [kv] = self.kvs(KEYS.use(ID))
        return int(kv.version)


def test_many_uses_are_one_write() -> None:
    """After a minute; then not again for ten minutes, however often the credential is used."""

    async def run() -> None:
        case = Case()
        async with case.uses() as uses:
            for _ in range(1_000):
                uses.note(jo(), REQUEST)
            assert case.kvs(KEYS.use(ID)) == []
            await asyncio.sleep(WRITE_AFTER_S + 1.0)
            assert (case.written().time, case.written().address, case.written().master) == (1_000.0, "10.0.0.7", "m1")
            for _ in range(8):
                case.now += WRITE_AFTER_S
                uses.note(jo(), REQUEST)
                await asyncio.sleep(WRITE_AFTER_S)
            assert case.puts == 1
            await asyncio.sleep(REWRITE_AFTER_S)
            assert (case.puts, case.written().time) == (2, case.now)

    with VirtualTime() as world:
        world.run(run())


async def test_what_was_noted_is_written_at_the_end() -> None:
    case = Case()
    async with case.uses() as uses:
        uses.note(jo(), REQUEST)
    assert case.written().time == 1_000.0


async def test_an_older_use_replaces_no_newer_one() -> None:
    """m1 has noted a use before m2 did, and writes it later."""
    case = Case()
    async with case.uses("m1") as first, case.uses("m2") as second:
        first.note(jo("10.0.0.1"), REQUEST)
        case.now += 60.0
        second.note(jo("10.0.0.2"), REQUEST)
        await second.close()
        await first.close()
        assert (case.written().master, case.puts) == ("m2", 1)


async def test_a_use_by_a_clock_that_was_wrong_is_replaced() -> None:
    case = Case()
    case.writes(KEYS.use(ID), CredentialUse(time=1e9, master="m9").encode())()
    async with case.uses() as uses:
        uses.note(jo(), REQUEST)
    assert case.written().time == 1_000.0


@pytest.mark.parametrize("known", [True, False])
async def test_nothing_is_written_for_a_grant_that_was_revoked(known: bool) -> None:
    """Also if this masterd does not know that yet: the transaction compares that the grant exists."""
    case = Case()
    async with case.uses() as uses:
        uses.note(jo(), REQUEST)
        case.deletes(KEYS.grant(ID))()
        case.known = {ID: GRANT} if known else {}
    assert case.kvs(KEYS.use(ID)) == []


async def test_a_revoked_grant_leaves_no_use() -> None:
    case = Case()
    async with case.uses() as uses:
        uses.note(jo(), REQUEST)
    async with case.sessions() as (etcd, _):
        assert await Grants(etcd, KEYS).revoke(ID)
    assert case.kvs(KEYS.use(ID)) == []


def test_etcd_that_does_not_answer_stops_nothing() -> None:
    """The use is dropped; the next one is written."""

    async def run() -> None:
        case = Case()
        async with case.uses() as uses:
            case.fates = [case.broken(arrives=False) for _ in range(20)]
            uses.note(jo(), REQUEST)
            await asyncio.sleep(WRITE_AFTER_S + 30.0)
            assert case.kvs(KEYS.use(ID)) == []
            case.fates = []
            uses.note(jo(), REQUEST)
            await asyncio.sleep(REWRITE_AFTER_S + WRITE_AFTER_S)
            assert case.puts == 1

    with VirtualTime() as world:
        world.run(run())


async def test_the_first_use_from_each_address_is_on_record_as_a_login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credential_uses, "_ADDRESSES_MAX", 2)
    case = Case()
    async with case.uses() as uses:
        for address in ("10.0.0.1", "10.0.0.1", "10.0.0.2", "10.0.0.1", "10.0.0.3"):
            uses.note(jo(address), REQUEST)
        entries = await case.audit.entries(10)
    assert [(item["event"], item["principal"], item["address"]) for item in entries] == [
        ("login", "token:jo", "10.0.0.1"), ("login", "token:jo", "10.0.0.2"), ("login", "token:jo", "10.0.0.3"),
    ]  # fmt: skip


async def test_what_is_noted_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credential_uses, "_NOTED_MAX", 5)
    case = Case()
    async with case.uses() as uses:
        for number in range(10):
            uses.note(jo(grant_id=f"{number:016x}"), REQUEST)
        assert len(uses.latest({})) == 5


async def test_a_request_that_is_admitted_counts_and_a_refused_one_does_not() -> None:
    """The list that an admin gets shows uses that are not written yet."""
    case = AccessCase()
    admin, viewer = case.grant("admin"), case.grant("viewer")
    async with serving(case.masterd) as url, aiohttp.ClientSession() as session:
        assert await _status(session, f"{url}/v1/tokens", viewer) == 403
        assert await _status(session, f"{url}/v1/whoami", admin) == 200
        async with session.get(f"{url}/v1/audit", headers=admin) as answer:
            found = (await answer.json())["entries"]
    shown = [(item["event"], item["principal"], item["request"]) for item in found]
    assert shown == [("refused", "token:viewer", "GET /v1/tokens"), ("login", "token:admin", "GET /v1/whoami")]


async def _status(session: aiohttp.ClientSession, url: str, headers: Any) -> int:
    async with session.get(url, headers=headers) as answer:
        return answer.status
