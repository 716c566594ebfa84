"""Corners of a takeover: old answers, orders that nobody obeyed in time, claims, and a leader that gives up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from masterd.assembly import build_parts
from masterd.election import campaign as campaign_module
from masterd.election.campaign import Campaign, MasterIdentity
from masterd.election.suspicion import ElectionTiming
from masterd.replication import cluster_view as board_module
from masterd.replication.cluster_view import ClusterView
from masterd.replication.replica import Replica
from masterd.roles import master as master_module
from masterd.settings import MasterSettings
from masterd.term.leader import Leader
from nodestore.cluster.election import (
    EpochSeen,
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
from nodestore.schema.models import Answer, Challenge, decode
from tests.faults.late.transactions import run_leader, session, take_over
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
    """m2's campaigns, with a board that is kept up to date."""
    board = ClusterView(etcd, keys)
    watching = asyncio.create_task(board.watch())
    try:
        await eventually(lambda: board.leader_known.is_set(), "the board is read")
        yield Campaign(etcd, keys, _M2, board, Replica(etcd, keys), timing)
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
    """It lands after the newest challenge was put, so the takeover finds that something was answered: the leader is
    challenged anew, and replaced when that stays unanswered."""

    class Answered(Etcd):
        """Once m2's first challenge is there, and before m2 knows that, so is an older answer."""

        async def txn_hedged(
            self, compares: Sequence[Compare], then: Sequence[Op] = (), orelse: Sequence[Op] = (), **told: Any
        ) -> TxnResult:
            result = await super().txn_hedged(compares, then, orelse, **told)
            put = await self.get(keys.challenge("m2"))
            if put is not None and await self.get(keys.answer("m2")) is None:
                term = decode(Challenge, put.value, put.key).term
                await self.put(keys.answer("m2"), Answer(term=term, nonce="older").encode())
            return result

    async with Answered(EtcdSettings(etcd_one.endpoints)) as etcd, _silent_port() as url:
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


async def test_an_order_that_was_not_obeyed_in_time_is_forgotten(etcd_one: EtcdCluster, keys: Keys) -> None:
    """The leader that gave it has gone on, and must not be deposed by it later."""
    async with session(etcd_one) as etcd, _silent_port() as url:
        won = await _leads(etcd, keys, "m1", url)
        async with _campaigning(etcd, keys) as campaign:
            campaign._campaigning.set()
            with pytest.raises(Unavailable, match="could not take over within"):
                await campaign.take_over_from(won.fence.term.revision, "ann", 0.05)
            lease, _ = await etcd.grant(60)
            seen = await etcd.get(keys.leader)
            assert await campaign._step(lease) is None
            assert await etcd.get(keys.leader) == seen


async def test_an_order_to_who_does_not_campaign_is_refused_soon(
    etcd_one: EtcdCluster, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It pauses after a term that it had to give up, say; the leader that asks keeps commands waiting meanwhile."""
    monkeypatch.setattr(campaign_module, "_STANDBY_WAIT_S", 0.05)
    async with session(etcd_one) as etcd, _campaigning(etcd, keys) as campaign:
        with pytest.raises(Unavailable, match="m2 is not a standby at the moment"):
            await campaign.take_over_from(7, "ann", 600.0)


async def test_an_order_whose_takeover_landed_unheard_is_answered_once_the_term_is_taken_up(
    etcd_one: EtcdCluster, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asked for a switchover that came about is not told that it did not."""

    async def unheard(*told: Any, **settings: Any) -> TakeoverWon | TakeoverLost:
        monkeypatch.undo()
        await takeover(*told, **settings)
        raise OutcomeUnknown("its reply was lost")

    monkeypatch.setattr(campaign_module, "takeover", unheard)
    async with _standing_by(etcd_one, keys) as (won, campaign, winning):
        obeyed = await campaign.take_over_from(won.fence.term.revision, "ann", 10.0)
        assert (await winning).fence == obeyed.fence


async def test_an_order_whose_takeover_is_undecided_when_time_is_up_is_not_told_as_refused(
    etcd_one: EtcdCluster, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may land yet: whoever took that for a refusal would order another one, and undo this."""

    async def unheard(*_: Any, **__: Any) -> TakeoverWon | TakeoverLost:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(campaign_module, "takeover", unheard)
    async with _standing_by(etcd_one, keys) as (won, campaign, _):
        asking = asyncio.create_task(campaign.take_over_from(won.fence.term.revision, "ann", 5.0))
        await eventually(lambda: campaign.is_taking_over, "the order is being obeyed")
        with pytest.raises(OutcomeUnknown, match="and may still do so"):
            await asking


async def test_an_order_that_cannot_be_obeyed_is_answered_at_once(etcd_one: EtcdCluster, keys: Keys) -> None:
    """The leader that gave it keeps commands waiting meanwhile."""
    async with _standing_by(etcd_one, keys) as (won, campaign, _):
        with pytest.raises(Unavailable, match="did not take over"):
            await campaign.take_over_from(won.fence.term.revision - 1, "ann", 10.0)


async def test_a_takeover_that_landed_unheard_is_claimed_though_the_epoch_was_written_anew(
    etcd_one: EtcdCluster, keys: Keys
) -> None:
    """What was known of the epoch is out of date: it is read again, or nobody would ever lead."""
    async with session(etcd_one) as etcd:
        lease, _ = await etcd.grant(60)
        me = new_leader_record(master="m2", host="m2", urls=(), nonce="mine", cause="first", why="test")
        epoch = await ensure_epoch(etcd, keys)
        won = await takeover(etcd, keys, me=me, lease=lease, seen=parse_leader(None), epoch=epoch, next_index=1)
        assert isinstance(won, TakeoverWon)
        async with _campaigning(etcd, keys) as campaign:
            campaign._attempts.append("mine")
            campaign._epoch_seen = EpochSeen(1, epoch.revision - 1)
            async with asyncio.timeout(30.0):
                claimed = await campaign.win(lease)
            assert claimed.fence == won.fence


async def test_who_gives_up_does_not_lead_while_it_pauses(etcd_one: EtcdCluster, keys: Keys) -> None:
    """Its heartbeats would keep the others from taking over where it could not resign, and its requests go nowhere."""

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


async def test_who_has_handed_over_stays_until_it_has_seen_that(
    etcd_one: EtcdCluster, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests that waited in its term are passed on only then; before, the end of the process would cut them off."""

    async def handed_over(*_: object) -> bool:
        return True

    monkeypatch.setattr(master_module, "hand_over_to_any", handed_over)
    async with session(etcd_one) as etcd, run_leader(etcd, etcd, keys) as seat:
        parts = build_parts(etcd, keys, _M2, ToyApp(), MasterSettings())
        parts.leadership.leader = seat.leader
        stopping = asyncio.create_task(parts.master.stand_down("asked to stop"))
        await eventually(lambda: len(parts.cluster_view._subscribers) == 1, "it waits for the end of its term")
        assert not stopping.done()
        parts.leadership.leader = None
        parts.cluster_view.notify()
        await asyncio.wait_for(stopping, 30.0)
        assert parts.cluster_view._subscribers == []


async def test_an_event_from_before_what_was_read_is_passed_over(
    etcd_one: EtcdCluster, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new leader whose watch still lags behind would take the end of the term before for that of its own."""
    async with session(etcd_one) as etcd:
        await take_over(etcd, keys, "m2")
        read = await etcd.get(keys.leader)
        assert read is not None
        term = read.mod_revision
        board = ClusterView(etcd, keys)

        async def late(*_: object, **__: object) -> AsyncIterator[tuple[int, Listing | Changes]]:
            for revision in (term - 1, term + 1):
                yield 0, Changes(revision, (Event(keys.leader, None, revision, 0, 0),))

        monkeypatch.setattr(board_module, "mirror_all", late)
        board.observe_leader(read)
        seen: list[int] = []
        board.subscribe(lambda: seen.append(board.leader.revision))
        await board._watch(asyncio.Event())
        assert seen == [0], "only the later one counts"
