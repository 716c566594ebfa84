"""Passing requests on while leadership changes hands."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar, cast

import pytest
from aiohttp import web

from masterd.api import leader_routing
from masterd.api.leader_routing import Forwarder, LeaderRouter, disconnected
from masterd.assembly import MasterdParts, build_parts
from masterd.election.campaign import MasterIdentity
from masterd.replication.cluster_view import ClusterView
from masterd.roles.peers import HOP_HEADER
from masterd.settings import MasterSettings
from nodestore.cluster.election import LeaderSeen
from nodestore.errors import NotLeader, OutcomeUnknown
from nodestore.etcd.session import Etcd, EtcdSettings
from nodestore.schema.keys import Keys
from nodestore.schema.models import LeaderRecord
from tests.support.toy_app import ToyApp
from tests.support.waiting import eventually


def _parts(etcd: Etcd) -> MasterdParts:
    return build_parts(etcd, Keys("c"), MasterIdentity("m1", "m1", (), 0, "n"), ToyApp(), MasterSettings())


def _router(parts: MasterdParts, forwarder: Forwarder) -> LeaderRouter:
    return LeaderRouter(
        parts.me, leadership=parts.leadership, health=parts.health, cluster_view=parts.cluster_view,
        takeovers=parts.campaign, peers=forwarder,
    )  # fmt: skip


class _Forwarder:
    """The first leader it asks has just been deposed; the next one answers."""

    def __init__(self, board: ClusterView) -> None:
        self.board, self.asked = board, 0

    async def forward(self, *_: Any) -> web.StreamResponse:
        self.asked += 1
        if self.asked > 1:
            return web.Response(body=b"{}")
        asyncio.get_running_loop().call_soon(_leads, self.board, "m3", 8)
        return web.Response(body=b'{"code":"leadership_lost"}', status=503)


class _Request(dict[Any, Any]):
    """A command without an id: not to be done twice."""

    method, path = "POST", "/v1/commands"
    headers: ClassVar[dict[str, str]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.transport = self
        self.closing = False

    def is_closing(self) -> bool:
        return self.closing

    async def read(self) -> bytes:
        return b'{"name":"add"}'


def _leads(board: ClusterView, name: str, revision: int) -> None:
    record = LeaderRecord(id=name, host=name, urls=(f"http://{name}:1",), nonce=name, since=0.0)
    board.leader = LeaderSeen(revision, record, 5)
    board.notify()


async def test_what_a_deposed_leader_has_not_done_goes_to_the_next_one_whatever_it_is() -> None:
    """The error shows that nothing happened, so a request without an id can be sent to the next leader as well."""
    async with Etcd(EtcdSettings(endpoints=("127.0.0.1:1",))) as etcd:
        parts = _parts(etcd)
        _leads(parts.cluster_view, "m2", 7)
        forwarder = _Forwarder(parts.cluster_view)
        answer = await _router(parts, forwarder).leader_or_response(cast(Any, _Request()))
        assert isinstance(answer, web.Response)
        assert (answer.status, forwarder.asked) == (200, 2)


class _Dead:
    """The leader's port refuses, until another one leads; that one answers."""

    def __init__(self, board: ClusterView, dead: str) -> None:
        self.board, self.dead, self.asked = board, dead, 0

    async def forward(self, _: Any, url: str | None, *rest: Any) -> web.StreamResponse:
        del rest
        self.asked += 1
        if url is None or url.startswith(f"http://{self.dead}:"):
            raise NotLeader("cannot be reached", url)
        return web.Response(body=b"{}")


class _Hopped(_Request):
    """It was passed on to this masterd already."""

    headers: ClassVar[dict[str, str]] = {HOP_HEADER: "1"}


async def _goes_to_the_next(parts: MasterdParts, forwarder: _Dead, request: _Request) -> None:
    """m2 leads and does not answer any more; then m3 leads and answers."""
    parts.replica.problem = None
    _leads(parts.cluster_view, "m2", 7)
    asking = asyncio.create_task(_router(parts, forwarder).leader_or_response(cast(Any, request)))
    await eventually(lambda: forwarder.asked == 1)
    _leads(parts.cluster_view, "m3", 8)
    answer = await asking
    assert isinstance(answer, web.Response)
    assert (answer.status, forwarder.asked) == (200, 2)


async def test_a_request_for_a_dead_leader_waits_for_the_next_one() -> None:
    """Refusing it would have its client ask again and again, in the very moment in which every turn counts."""
    async with Etcd(EtcdSettings(endpoints=("127.0.0.1:1",))) as etcd:
        parts = _parts(etcd)
        await _goes_to_the_next(parts, _Dead(parts.cluster_view, "m2"), _Request())


async def test_a_masterd_that_could_not_lead_itself_says_so_at_once() -> None:
    """The request is refused at once with the problem of the store, and is not held until a leader appears."""
    async with Etcd(EtcdSettings(endpoints=("127.0.0.1:1",))) as etcd:
        parts = _parts(etcd)
        parts.replica.problem = "the journal has a gap"
        _leads(parts.cluster_view, "m2", 7)
        forwarder = _Dead(parts.cluster_view, "m2")
        with pytest.raises(NotLeader):
            await _router(parts, forwarder).leader_or_response(cast(Any, _Request()))
        assert forwarder.asked == 1


async def test_a_request_that_was_passed_on_waits_only_for_a_takeover_that_is_under_way() -> None:
    """Its client has seen this masterd win before it has itself; without a takeover it is refused at once."""
    async with Etcd(EtcdSettings(endpoints=("127.0.0.1:1",))) as etcd:
        parts = _parts(etcd)
        _leads(parts.cluster_view, "m2", 7)
        passing = _router(parts, _Dead(parts.cluster_view, "m2"))
        parts.campaign.is_taking_over = True
        asking = asyncio.create_task(passing.leader_or_response(cast(Any, _Hopped())))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not asking.done()
        parts.leadership.leader = leader = cast(Any, _Leads())
        parts.campaign.end_attempt()
        assert await asking is leader
        parts.leadership.leader = None
        with pytest.raises(NotLeader):
            await passing.leader_or_response(cast(Any, _Hopped()))


async def test_a_takeover_that_is_lost_lets_go_of_what_waited_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, not when its patience is over."""
    monkeypatch.setattr(leader_routing, "_TERM_BEGIN_WAIT_S", 600.0)
    async with Etcd(EtcdSettings(endpoints=("127.0.0.1:1",))) as etcd:
        parts = _parts(etcd)
        _leads(parts.cluster_view, "m2", 7)
        forwarder = _Dead(parts.cluster_view, "nobody")
        parts.campaign.is_taking_over = True
        asking = asyncio.create_task(_router(parts, forwarder).leader_or_response(cast(Any, _Request())))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert forwarder.asked == 0
        parts.campaign.end_attempt()
        async with asyncio.timeout(30.0):
            answer = await asking
        assert isinstance(answer, web.Response)
        assert answer.status == 200


class _Leads:
    has_ended = False


async def test_a_command_whose_client_has_gone_is_not_done_for_it() -> None:
    """The command has no id and was held without a leader.

    Its client closed the connection and may have repeated it elsewhere.
    """
    async with Etcd(EtcdSettings(endpoints=("127.0.0.1:1",))) as etcd:
        parts = _parts(etcd)
        parts.campaign.is_taking_over = True
        forwarder = _Forwarder(parts.cluster_view)
        request = _Request()
        finding = asyncio.create_task(_router(parts, forwarder).leader_or_response(cast(Any, request)))
        await asyncio.sleep(0)
        request.closing = True
        parts.campaign.is_taking_over = False
        _leads(parts.cluster_view, "m2", 7)
        with pytest.raises(NotLeader):
            await finding
        assert forwarder.asked == 0


class _Breaks(_Dead):
    """The leader dies with the request: its connection breaks, until another one leads; that one answers."""

    async def forward(self, request: Any, url: str | None, *rest: Any) -> web.StreamResponse:
        try:
            return await super().forward(request, url, *rest)
        except NotLeader:
            raise OutcomeUnknown("the connection broke") from None


class _WithId(_Request):
    async def read(self) -> bytes:
        return b'{"name":"add","id":"x"}'


async def test_a_command_with_an_id_that_died_with_the_leader_goes_to_the_next_one() -> None:
    """Done twice it does nothing; its client need not even know. One without an id is answered with the truth."""
    async with Etcd(EtcdSettings(endpoints=("127.0.0.1:1",))) as etcd:
        parts = _parts(etcd)
        await _goes_to_the_next(parts, _Breaks(parts.cluster_view, "m2"), _WithId())
        with pytest.raises(OutcomeUnknown):
            await _router(parts, _Breaks(parts.cluster_view, "m3")).leader_or_response(cast(Any, _Request()))


class _CallsTooOld(_Breaks):
    """The next leader refuses the command, whose id it no longer knows."""

    async def forward(self, request: Any, url: str | None, *rest: Any) -> web.StreamResponse:
        await super().forward(request, url, *rest)
        return web.Response(body=b'{"results":[{"id":"x","problem":{"code":"too_old"}}]}')


@pytest.mark.parametrize("died", [False, True])
async def test_a_command_that_a_dead_leader_may_have_run_is_never_called_too_old(died: bool) -> None:
    """Its client would take a refusal of the only attempt that it made as a proof that the command has not run."""

    async def act(_: Any) -> web.StreamResponse:
        raise AssertionError("this masterd does not lead")

    async with Etcd(EtcdSettings(endpoints=("127.0.0.1:1",))) as etcd:
        parts = _parts(etcd)
        parts.replica.problem = None
        _leads(parts.cluster_view, "m2" if died else "m3", 7)
        forwarder = _CallsTooOld(parts.cluster_view, "m2")
        asking = asyncio.create_task(_router(parts, forwarder).run_on_leader(cast(Any, _WithId()), act))
        if not died:
            answer = await asking
            assert isinstance(answer, web.Response)
            assert answer.status == 200
            return
        await eventually(lambda: forwarder.asked == 1)
        _leads(parts.cluster_view, "m3", 8)
        with pytest.raises(OutcomeUnknown, match="no longer knows"):
            await asking


class _RunsNothing(_Breaks):
    """The next leader refuses the command because it has too much to do."""

    async def forward(self, request: Any, url: str | None, *rest: Any) -> web.StreamResponse:
        await super().forward(request, url, *rest)
        return web.Response(body=b'{"code":"unavailable"}', status=503)


async def test_a_command_that_a_dead_leader_may_have_run_is_not_refused_as_overload() -> None:
    async def act(_: Any) -> web.StreamResponse:
        raise AssertionError("this masterd does not lead")

    async with Etcd(EtcdSettings(endpoints=("127.0.0.1:1",))) as etcd:
        parts = _parts(etcd)
        parts.replica.problem = None
        _leads(parts.cluster_view, "m2", 7)
        forwarder = _RunsNothing(parts.cluster_view, "m2")
        asking = asyncio.create_task(_router(parts, forwarder).run_on_leader(cast(Any, _WithId()), act))
        await eventually(lambda: forwarder.asked == 1)
        _leads(parts.cluster_view, "m3", 8)
        with pytest.raises(OutcomeUnknown, match="did not run it now"):
            await asking


class _DiesAlone(_Forwarder):
    """The leader dies with the request, and no other one leads."""

    async def forward(self, *_: Any) -> web.StreamResponse:
        self.asked += 1
        if self.asked > 1:
            raise NotLeader("there is no leader")
        asyncio.get_running_loop().call_soon(_leads, self.board, "m3", 8)
        raise OutcomeUnknown("the connection broke")


async def test_a_command_that_a_dead_leader_may_have_run_is_never_called_not_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its client would take the refusal as a proof that no attempt has run."""

    async def act(_: Any) -> web.StreamResponse:
        raise AssertionError("this masterd does not lead")

    monkeypatch.setattr(leader_routing, "_NO_LEADER_WAIT_S", 0.05)
    async with Etcd(EtcdSettings(endpoints=("127.0.0.1:1",))) as etcd:
        parts = _parts(etcd)
        parts.replica.problem = None
        _leads(parts.cluster_view, "m2", 7)
        forwarder = _DiesAlone(parts.cluster_view)
        with pytest.raises(OutcomeUnknown, match="there is no leader"):
            await _router(parts, forwarder).run_on_leader(cast(Any, _WithId()), act)
        assert forwarder.asked == 2


@pytest.mark.parametrize(
    ("closing", "transport", "expected"), [(False, True, False), (True, True, True), (False, False, True)]
)
def test_a_request_is_disconnected_once_its_connection_closes(closing: bool, transport: bool, expected: bool) -> None:
    """Also once there is no connection at all."""
    request: Any = _Request()
    request.closing = closing
    if not transport:
        request.transport = None
    assert disconnected(request) is expected
