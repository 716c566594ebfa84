"""Browser sessions in the store: how they begin, move and end, with two masters, faults, and virtual time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from masterd.api.access.sessions import browser_sessions
from masterd.api.access.sessions.browser_sessions import CODE_S, BrowserSessions, SessionLimits
from masterd.replication.cluster_view import ClusterView
from nodestore.errors import Conflict, OutcomeUnknown
from nodestore.etcd.session import Etcd
from nodestore.schema.keys import Keys
from nodestore.schema.models import BrowserSession
from nodestore.support.tasks import background_task
from nodestore.support.tokens import CODE_PREFIX, Token
from tests.support.fakes.clock import VirtualTime
from tests.support.fakes.etcd import MEMBERS, SETTINGS, FakeEtcd
from tests.support.fakes.link import FINE, UNHEARD, Fate, Link
from tests.support.waiting import eventually

KEYS = Keys("test")
IDLE_S, LASTS_S = 600, 3_600.0
HERE, THERE = "https://pc1:8401", "https://pc2:8401"
JO = "00000000000000aa"


class Store:
    """Two masters' sessions in one store. The first one's transactions meet `fates`."""

    def __init__(self) -> None:
        self.server = FakeEtcd()
        self.link = Link(self.server)
        self.fates: list[Fate] = []
        self.link.fates = lambda method, _: self.fates.pop(0) if method == "KV/Txn" and self.fates else FINE
        # One endpoint: another copy of a transaction would not meet a fate.
        one = SETTINGS.__class__(endpoints=MEMBERS[:1])
        self.sessions_with_etcd = [Etcd(one, connect=self.link.connect), Etcd(SETTINGS, connect=self.server.connect)]
        self.views = [ClusterView(etcd, KEYS) for etcd in self.sessions_with_etcd]
        self.both = [
            BrowserSessions(etcd, KEYS, view.browser_sessions, time.time, SessionLimits(idle_s=IDLE_S, lasts_s=LASTS_S))
            for etcd, view in zip(self.sessions_with_etcd, self.views, strict=True)
        ]

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[tuple[BrowserSessions, BrowserSessions]]:
        watching = [background_task(view.watch(), name="watch") for view in self.views]
        await eventually(lambda: all(view.revision for view in self.views), "both masters have read the store")
        yield self.both[0], self.both[1]
        for sessions, task in zip(self.both, watching, strict=True):
            await sessions.close()
            task.cancel()
        await asyncio.wait(watching)
        for etcd in self.sessions_with_etcd:
            await etcd.close()

    async def known(self) -> None:
        """Both views show what is in the store now."""
        found = await self.sessions_with_etcd[1].range(KEYS.prefix)
        for view in self.views:
            await view.bring_up_to(found.revision)


def run(test: Callable[[Store, BrowserSessions, BrowserSessions], Awaitable[None]]) -> None:
    async def whole() -> None:
        store = Store()
        async with store.opened() as (one, other):
            await test(store, one, other)

    with VirtualTime(1) as world:
        world.run(whole())


async def begin(
    sessions: BrowserSessions, grant: str = JO, replaces: str | None = None
) -> tuple[Token, BrowserSession]:
    return await sessions.begin(grant, None, "10.0.0.7", replaces)


def test_every_master_knows_a_session_and_the_store_holds_no_secret() -> None:
    async def test(store: Store, one: BrowserSessions, other: BrowserSessions) -> None:
        cookie, session = await begin(one)
        await store.known()
        assert one.find(cookie) == other.find(cookie) == session
        assert (session.grant, session.ends - session.time) == (JO, LASTS_S)
        for wrong in (cookie._replace(secret=cookie.secret[:-1] + "-"), cookie._replace(id="0" * 16)):
            assert one.find(wrong) is None
        assert all(cookie.secret.encode() not in kv.value for kv in (await store.sessions_with_etcd[0].range("/")).kvs)

    run(test)


def test_it_ends_without_a_request() -> None:
    async def test(store: Store, one: BrowserSessions, other: BrowserSessions) -> None:
        cookie, _session = await begin(one)
        await asyncio.sleep(IDLE_S - 5)
        assert one.find(cookie) is not None
        await asyncio.sleep(10)
        assert one.find(cookie) is other.find(cookie) is None

    run(test)


def test_requests_at_any_master_keep_it_until_its_absolute_end() -> None:
    """Renewals write nothing. After its end it is not renewed, so its key disappears too."""

    async def test(store: Store, one: BrowserSessions, other: BrowserSessions) -> None:
        cookie, session = await begin(one)
        revision = store.server.store.revision
        begun = time.time()
        while time.time() < begun + LASTS_S - IDLE_S / 2:
            await asyncio.sleep(IDLE_S / 3)
            for _ in range(3):
                found = other.find(cookie)
                assert found is not None
                other.note_use(found)
        assert store.server.store.revision == revision
        await asyncio.sleep(session.ends - time.time() + 1)
        assert one.find(cookie) is other.find(cookie) is None
        await asyncio.sleep(IDLE_S)
        assert (await store.sessions_with_etcd[0].get(KEYS.browser_session(cookie.id))) is None

    run(test)


def test_few_renewals_for_many_requests() -> None:
    async def test(store: Store, one: BrowserSessions, _: BrowserSessions) -> None:
        _cookie, session = await begin(one)
        renewals: list[Any] = []
        keep_alive = store.server.keep_alive

        def counted(request: Any) -> Any:
            renewals.append(request)
            return keep_alive(request)

        store.server.keep_alive = counted  # type: ignore[method-assign]
        for _number in range(1_000):
            one.note_use(session)
            await asyncio.sleep(IDLE_S / 1_000)
        assert 10 <= len(renewals) <= 17

    run(test)


def test_a_renewal_that_fails_is_tried_again_at_the_next_request() -> None:
    async def test(store: Store, one: BrowserSessions, _: BrowserSessions) -> None:
        cookie, session = await begin(one)
        await asyncio.sleep(IDLE_S * 0.7)
        store.link.down = True
        store.link.cut()
        one.note_use(session)
        await asyncio.sleep(30)
        store.link.down = False
        await asyncio.sleep(30)
        one.note_use(session)
        await asyncio.sleep(IDLE_S * 0.8)
        await store.known()
        assert one.find(cookie) is not None

    run(test)


def test_logout_ends_all_sessions_of_the_login_and_no_other() -> None:
    async def test(store: Store, one: BrowserSessions, other: BrowserSessions) -> None:
        cookie, session = await begin(one)
        stays, _session = await begin(one)
        code = await one.new_code(cookie.id, JO, THERE)
        assert (moved := await other.exchange(code, THERE, "10.0.0.7", None)) is not None
        await one.end(session)
        await store.known()
        for sessions in (one, other):
            assert sessions.find(cookie) is sessions.find(moved[0]) is None
            assert sessions.find(stays) is not None
        await one.end_all_of(JO)
        await store.known()
        assert other.find(stays) is None

    run(test)


def test_a_late_copy_of_a_login_brings_nothing_back() -> None:
    """The transaction arrives a second time, after the logout: the lease to which it attaches the session is gone."""

    async def test(store: Store, one: BrowserSessions, other: BrowserSessions) -> None:
        store.fates = [Fate(late_s=30.0)]
        with pytest.raises(OutcomeUnknown):
            await begin(one)
        assert not (await store.sessions_with_etcd[1].range(KEYS.browser_sessions)).kvs
        leases = store.server.leases
        await store.sessions_with_etcd[1].revoke(leases[-1])  # as a logout does
        await asyncio.sleep(60)
        assert not (await store.sessions_with_etcd[1].range(KEYS.browser_sessions)).kvs

    run(test)


def test_a_login_whose_answer_is_lost_gives_no_cookie_and_ends_by_itself() -> None:
    async def test(store: Store, one: BrowserSessions, other: BrowserSessions) -> None:
        store.fates = [UNHEARD]
        with pytest.raises(OutcomeUnknown):
            await begin(one)
        await asyncio.sleep(IDLE_S + 5)
        assert not (await store.sessions_with_etcd[1].range(KEYS.prefix)).kvs

    run(test)


def test_a_browser_that_logs_in_again_has_one_session() -> None:
    async def test(store: Store, one: BrowserSessions, _: BrowserSessions) -> None:
        cookie, _session = await begin(one)
        leases = len(store.server.leases)
        for number in range(10):
            newer, _session = await begin(one, f"{number:016x}", cookie.id)
            assert one.find(cookie) is None
            cookie = newer
        assert len(store.server.leases) == leases
        assert one.find(cookie) is not None

    run(test)


def test_a_token_has_a_bounded_number_of_sessions() -> None:
    """Beyond it, its oldest login ends. Beyond the limit of all tokens, there is no login."""

    async def test(store: Store, one: BrowserSessions, _: BrowserSessions) -> None:
        most = browser_sessions.SESSIONS_PER_TOKEN_MAX
        other_cookie, _session = await begin(one, "00000000000000bb")
        cookies = []
        for _number in range(most + 2):
            await asyncio.sleep(1)
            cookies.append((await begin(one))[0])
        assert [one.find(cookie) is not None for cookie in cookies] == [False, False, *[True] * most]
        assert one.find(other_cookie) is not None
        with pytest.raises(Conflict, match="log out of some"):
            await one.new_code(cookies[-1].id, JO, THERE)

    run(test)


def test_all_tokens_together_have_a_bounded_number_of_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browser_sessions, "SESSIONS_MAX", 3)

    async def test(store: Store, one: BrowserSessions, _: BrowserSessions) -> None:
        for number in range(3):
            await begin(one, f"{number:016x}")
        with pytest.raises(Conflict, match="3 browser sessions already"):
            await begin(one)

    run(test)


# --- the move to another master ---


def test_a_code_works_once_even_for_two_at_the_same_moment() -> None:
    async def test(store: Store, one: BrowserSessions, other: BrowserSessions) -> None:
        cookie, session = await begin(one)
        code = await one.new_code(cookie.id, JO, THERE)
        found = await asyncio.gather(*(each.exchange(code, THERE, "10.0.0.7", None) for each in (one, other)))
        (moved,) = [item for item in found if item is not None]
        assert (moved[1].ends, moved[1].lease, moved[1].grant) == (session.ends, session.lease, JO)
        await store.known()
        for sessions in (one, other):
            assert sessions.find(cookie) is not None
            assert sessions.find(moved[0]) is not None
            assert await sessions.exchange(code, THERE, "10.0.0.7", None) is None

    run(test)


@pytest.mark.parametrize("change", ["origin", "secret", "unknown", "late", "logged out", "ended", "deleted"])
def test_a_code_that_is_not_valid(change: str) -> None:
    """It belongs to an address, lives for seconds, and ends with its session."""

    async def test(store: Store, one: BrowserSessions, other: BrowserSessions) -> None:
        cookie, session = await begin(one)
        if change == "ended":
            for _ in range(int(LASTS_S / IDLE_S * 2)):
                await asyncio.sleep(IDLE_S / 2 - 1)
                one.note_use(session)
        code, origin = await one.new_code(cookie.id, JO, THERE), THERE
        if change == "origin":
            origin = HERE
        elif change == "secret":
            code = code._replace(secret="A" * 43)
        elif change == "unknown":
            code = Token("0" * 16, code.secret, CODE_PREFIX)
        elif change == "late":
            await asyncio.sleep(CODE_S + 1)
        elif change == "logged out":
            await one.end(session)
        elif change == "ended":
            await asyncio.sleep(session.ends - time.time())
        elif change == "deleted":
            await store.sessions_with_etcd[1].delete(KEYS.browser_session(cookie.id))
        before = await store.sessions_with_etcd[1].range(KEYS.browser_sessions)
        assert await other.exchange(code, origin, "10.0.0.7", None) is None
        assert (await store.sessions_with_etcd[1].range(KEYS.browser_sessions)).kvs == before.kvs

    run(test)


def test_a_logout_between_the_read_and_the_write_of_an_exchange_wins() -> None:
    """The write compares the session, so a session that ended meanwhile is not continued elsewhere."""

    async def test(store: Store, one: BrowserSessions, other: BrowserSessions) -> None:
        cookie, session = await begin(one)
        code = await other.new_code(cookie.id, JO, HERE)
        reads: list[str] = []
        get = store.sessions_with_etcd[0].get

        async def then_log_out(key: str) -> Any:
            found = await get(key)
            reads.append(key)
            if key == KEYS.browser_session(cookie.id):
                await store.sessions_with_etcd[1].revoke(session.lease)
            return found

        store.sessions_with_etcd[0].get = then_log_out  # type: ignore[method-assign, assignment]
        assert await one.exchange(code, HERE, "10.0.0.7", None) is None
        assert len(reads) == 2
        assert not (await store.sessions_with_etcd[1].range(KEYS.browser_sessions)).kvs

    run(test)


def test_a_browser_that_moves_back_and_forth_has_one_session_at_each_address() -> None:
    async def test(store: Store, one: BrowserSessions, other: BrowserSessions) -> None:
        here, there = (await begin(one))[0], None
        for _ in range(5):
            code = await one.new_code(here.id, JO, THERE)
            moved = await other.exchange(code, THERE, "10.0.0.7", None if there is None else there.id)
            assert moved is not None
            there = moved[0]
            back = await other.new_code(there.id, JO, HERE)
            moved = await one.exchange(back, HERE, "10.0.0.7", here.id)
            assert moved is not None
            here = moved[0]
        assert len((await store.sessions_with_etcd[1].range(KEYS.browser_sessions)).kvs) == 2

    run(test)


def test_a_session_that_another_program_wrote_without_its_lease_ends_too() -> None:
    async def test(store: Store, one: BrowserSessions, other: BrowserSessions) -> None:
        cookie, session = await begin(one)
        await store.sessions_with_etcd[1].put(KEYS.browser_session(cookie.id), session.encode())
        await store.known()
        await one.end(session)
        await store.known()
        assert one.find(cookie) is other.find(cookie) is None

    run(test)
