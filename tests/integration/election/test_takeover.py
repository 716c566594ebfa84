"""Takeovers that lag or fail: late answers, switchover orders, claims of lost replies, and a leader that gives up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from masterd.assembly import build_parts
from masterd.election import campaign as campaign_module
from masterd.election.campaign import Campaign, MasterIdentity
from masterd.election.suspicion import ElectionTiming
from masterd.replication import cluster_view as cluster_view_module
from masterd.replication.cluster_view import ClusterView
from masterd.replication.replica import Replica
from masterd.roles import master as master_module
from masterd.settings import MasterSettings
from masterd.term.leader import Leader
from nodestore.cluster.election import (
    TakeoverLost,
    TakeoverWon,
    ensure_epoch,
    new_leader_record,
    parse_leader,
    takeover,
)
from nodestore.errors import NodectlError, OutcomeUnknown, Unavailable
from nodestore.etcd.session import Compare, Etcd, EtcdSettings, Op, TxnResult
from nodestore.etcd.watch import Changes, Event, Listing
from nodestore.schema.keys import Keys
from nodestore.schema.models import Answer, Challenge, Epoch, LeaderRecord, decode
from tests.faults.late.transactions import run_leader, session, take_over
from tests.support.cluster_views import SteeredClusterView
from tests.support.etcd_cluster import EtcdCluster
from tests.support.toy_app import ToyApp
from tests.support.waiting import eventually

_M2 = MasterIdentity("m2", "m2", (), 0, "n2")
_PATIENT = ElectionTiming(connect_s=0.1, silence_s=0.8, answer_s=0.6, late_s=0.3)
"""Long enough between a challenge and what follows from it for a test to act in between."""


@asynccontextmanager
async def _silent_port() -> AsyncIterator[str]:
    """The URL of a masterd whose connections are taken and never answered, as of a frozen process."""
    held: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: held.append(writer), "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in held:
            writer.close()


@asynccontextmanager
async def _campaigning(etcd: Etcd, keys: Keys, timing: ElectionTiming = _PATIENT) -> AsyncIterator[Campaign]:
    """m2's campaigns, with a cluster view that is kept up to date."""
    cluster_view = ClusterView(etcd, keys)
    watching = asyncio.create_task(cluster_view.watch())
    try:
        await eventually(cluster_view.leader_known.is_set, "the cluster view has been read")
        yield Campaign(etcd, keys, _M2, cluster_view, Replica(etcd, keys), timing)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


@asynccontextmanager
async def _standing_by(
    cluster: EtcdCluster, keys: Keys
) -> AsyncIterator[tuple[TakeoverWon, Campaign, asyncio.Task[TakeoverWon]]]:
    """m1's term; and m2's campaign, which runs for the next one."""
    async with session(cluster) as etcd, _silent_port() as url:
        won = await _leads(etcd, keys, "m1", url)
        async with _campaigning(etcd, keys) as campaign:
            lease, _ = await etcd.grant(60)
            winning = asyncio.create_task(campaign.win(lease))
            try:
                yield won, campaign, winning
            finally:
                winning.cancel()
                await asyncio.wait([winning])


async def _leads(etcd: Etcd, keys: Keys, name: str, url: str) -> TakeoverWon:
    """`name` leads, at `url`, on a lease that decides nothing here."""
    lease, _ = await etcd.grant(60)
    me = new_leader_record(master=name, host=name, urls=(url,), nonce="n1", cause="first", why="test")
    epoch = await ensure_epoch(etcd, keys)
    won = await takeover(etcd, keys, me=me, lease=lease, seen=parse_leader(None), epoch=epoch, next_index=1)
    assert isinstance(won, TakeoverWon)
    return won


async def test_an_answer_to_an_older_challenge_does_not_keep_a_dead_leader_in_office(
    etcd_one: EtcdCluster, keys: Keys
) -> None:
    """The answer lands after the newest challenge, so the takeover fails.

    The leader is challenged again, and replaced when that challenge is not answered.
    """

    class Answered(Etcd):
        """Once m2's first challenge is there, and before m2 knows that, so is an older answer."""

        async def txn_hedged(
            self, compares: Sequence[Compare], then: Sequence[Op] = (), orelse: Sequence[Op] = (), **options: Any
        ) -> TxnResult:
            result = await super().txn_hedged(compares, then, orelse, **options)
            put = await self.get(keys.challenge("m2"))
            if put is not None and await self.get(keys.answer("m2")) is None:
                term = decode(Challenge, put.value, put.key).term
                await self.put(keys.answer("m2"), Answer(term=term, nonce="older").encode())
            return result

    async with Answered(EtcdSettings(endpoints=etcd_one.endpoints)) as etcd, _silent_port() as url:
        won = await _leads(etcd, keys, "m1", url)
        async with _campaigning(etcd, keys) as campaign:
            lease, _ = await etcd.grant(60)
            async with asyncio.timeout(30.0):
                after = await campaign.win(lease)
            assert after.fence.term.revision > won.fence.term.revision
            put = await etcd.get(keys.challenge("m2"))
            assert put is not None
            assert decode(Challenge, put.value, put.key).term == won.fence.term.revision
            assert put.version > 1, "it was challenged once more"


async def test_an_order_that_was_not_begun_in_time_is_forgotten(etcd_one: EtcdCluster, keys: Keys) -> None:
    """The leader that sent the order continues, and must not be deposed by it later."""
    unsuspecting = replace(_PATIENT, connect_s=600.0)
    async with session(etcd_one) as etcd, _silent_port() as url:
        won = await _leads(etcd, keys, "m1", url)
        cluster_view = ClusterView(etcd, keys)  # not watched yet: the campaign waits for its first listing
        campaign = Campaign(etcd, keys, _M2, cluster_view, Replica(etcd, keys), unsuspecting)
        lease, _ = await etcd.grant(60)
        winning = asyncio.create_task(campaign.win(lease))
        with pytest.raises(Unavailable, match="could not take over within"):
            await campaign.take_over_from(won.fence.term.revision, "ann", 0.05)
        watching = asyncio.create_task(cluster_view.watch())
        try:
            # If ann's order were executed now, bob's would be lost: the term that it names would be over.
            await campaign.take_over_from(won.fence.term.revision, "bob", 30.0)
            await winning
            assert "bob" in (await _leader_record(etcd, keys)).why
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


async def _leader_record(etcd: Etcd, keys: Keys) -> LeaderRecord:
    record = parse_leader(await etcd.get(keys.leader)).record
    assert record is not None
    return record


async def test_an_order_to_a_master_that_does_not_campaign_is_refused_soon(
    etcd_one: EtcdCluster, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The master may pause after a term that it gave up.

    The leader that sends the order holds back commands until the answer.
    """
    monkeypatch.setattr(campaign_module, "_STANDBY_WAIT_S", 0.05)
    async with session(etcd_one) as etcd, _campaigning(etcd, keys) as campaign:
        with pytest.raises(Unavailable, match="m2 is not a standby at the moment"):
            await campaign.take_over_from(7, "ann", 600.0)


async def test_an_order_whose_takeover_lost_its_reply_is_answered_once_the_term_is_claimed(
    etcd_one: EtcdCluster, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A switchover that succeeded must not be reported as failed."""

    async def lose_reply(*args: Any, **settings: Any) -> TakeoverWon | TakeoverLost:
        monkeypatch.undo()
        await takeover(*args, **settings)
        raise OutcomeUnknown("its reply was lost")

    monkeypatch.setattr(campaign_module, "takeover", lose_reply)
    async with _standing_by(etcd_one, keys) as (won, campaign, winning):
        executed = await campaign.take_over_from(won.fence.term.revision, "ann", 10.0)
        assert (await winning).fence == executed.fence


async def test_an_order_whose_takeover_is_undecided_when_time_is_up_is_not_reported_as_refused(
    etcd_one: EtcdCluster, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may still land. A caller that took this for a refusal would order another switchover, and undo this one."""

    async def hang(*_: Any, **__: Any) -> TakeoverWon | TakeoverLost:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(campaign_module, "takeover", hang)
    async with _standing_by(etcd_one, keys) as (won, campaign, _):
        asking = asyncio.create_task(campaign.take_over_from(won.fence.term.revision, "ann", 5.0))
        await eventually(lambda: campaign.is_taking_over, "the order is being executed")
        with pytest.raises(OutcomeUnknown, match="and may still do so"):
            await asking


async def test_an_order_that_cannot_be_executed_is_answered_at_once(etcd_one: EtcdCluster, keys: Keys) -> None:
    """The leader that sent the order holds back commands until the answer."""
    async with _standing_by(etcd_one, keys) as (won, campaign, _):
        with pytest.raises(Unavailable, match="did not take over"):
            await campaign.take_over_from(won.fence.term.revision - 1, "ann", 10.0)


async def test_a_takeover_whose_reply_was_lost_is_claimed_though_the_epoch_was_written_again(
    etcd_one: EtcdCluster, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The campaign's knowledge of the epoch is out of date. It must read it again, or no master would ever lead."""
    landed: list[TakeoverWon | TakeoverLost] = []

    async with session(etcd_one) as etcd:

        async def lose_reply(*args: Any, **settings: Any) -> TakeoverWon | TakeoverLost:
            landed.append(await takeover(*args, **settings))
            await etcd.put(keys.epoch, Epoch(epoch=1).encode())
            raise OutcomeUnknown("its reply was lost")

        monkeypatch.setattr(campaign_module, "takeover", lose_reply)
        async with _campaigning(etcd, keys) as campaign:
            lease, _ = await etcd.grant(60)
            async with asyncio.timeout(30.0):
                claimed = await campaign.win(lease)
        (won,) = landed
        assert isinstance(won, TakeoverWon)
        assert (claimed.fence.term, claimed.fence.nonce) == (won.fence.term, won.fence.nonce)
        assert claimed.fence.epoch_revision > won.fence.epoch_revision


async def test_a_master_that_gives_up_does_not_lead_while_it_pauses(etcd_one: EtcdCluster, keys: Keys) -> None:
    """If it could not resign, its heartbeats would keep the others from taking over, and it would serve no request."""

    class Failing(Leader):
        async def run(self) -> None:
            raise NodectlError("as asked")

    async with session(etcd_one) as etcd:
        won = await take_over(etcd, keys, "m2")
        parts = build_parts(etcd, keys, _M2, ToyApp(), MasterSettings(give_up_retry_s=600.0), leader_type=Failing)
        leading = asyncio.create_task(parts.master.become_leader(won))
        await eventually(lambda: "gave up term" in (parts.health.role_problem or ""), "it has given up")
        assert not leading.done()
        assert parts.leadership.role == "standby"
        leading.cancel()
        await asyncio.gather(leading, return_exceptions=True)


async def test_a_master_that_has_handed_over_stays_until_its_watch_shows_the_new_leader(
    etcd_one: EtcdCluster, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests that waited in its term are passed on only then. An earlier end of the process would cut them off."""
    has_handed_over = asyncio.Event()

    async def handed_over(*_: object) -> bool:
        has_handed_over.set()
        return True

    monkeypatch.setattr(master_module, "hand_over_to_any", handed_over)
    async with session(etcd_one) as etcd, run_leader(etcd, etcd, keys) as term:
        cluster_view = SteeredClusterView(etcd, keys)
        parts = build_parts(etcd, keys, _M2, ToyApp(), MasterSettings(), cluster_view=cluster_view)
        parts.leadership.leader = term.leader
        stopping = asyncio.create_task(parts.master.stand_down("asked to stop"))
        await asyncio.wait_for(has_handed_over.wait(), 30.0)
        await eventually(lambda: cluster_view.subscriber_count == 1, "it waits for the end of its term")
        assert not stopping.done()
        parts.leadership.leader = None
        parts.cluster_view.notify()
        await asyncio.wait_for(stopping, 30.0)
        assert cluster_view.subscriber_count == 0


async def test_an_event_older_than_what_was_read_is_ignored(
    etcd_one: EtcdCluster, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a new leader whose watch lags would take the end of the previous term for the end of its own."""
    async with session(etcd_one) as etcd:
        await take_over(etcd, keys, "m2")
        read = await etcd.get(keys.leader)
        assert read is not None
        term = read.mod_revision
        cluster_view = ClusterView(etcd, keys)

        async def late(*_: object, **__: object) -> AsyncIterator[tuple[int, Listing | Changes]]:
            for revision in (term - 1, term + 1):
                yield 0, Changes(revision, (Event(keys.leader, None, revision, 0, 0),))
            await asyncio.Event().wait()

        monkeypatch.setattr(cluster_view_module, "mirror_all", late)
        cluster_view.observe_leader(read)
        seen: list[int] = []
        cluster_view.subscribe(lambda: seen.append(cluster_view.leader.revision))
        watching = asyncio.create_task(cluster_view.watch())
        await eventually(lambda: len(seen) > 0, "an event is applied")
        watching.cancel()
        await asyncio.wait([watching])
        assert seen == [0], "only the later one counts"
