"""The end of a term: what callers get, views that lag, and terms that must not be claimed again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, cast

import pytest
from msgspec import structs

from masterd.api import reads
from masterd.assembly import MasterdParts, build_parts
from masterd.election.campaign import MasterIdentity
from masterd.replication.cluster_view import ClusterView
from masterd.roles.candidacy import Candidacy
from masterd.roles.master import Master
from masterd.settings import MasterSettings
from masterd.state_machine.batch import CommandRequest
from masterd.term.leader import Leader
from masterd.term.publisher import Publisher
from nodestore.cluster.election import TakeoverWon, parse_leader
from nodestore.errors import (
    LeadershipLost,
    LeaseLost,
    NodectlError,
    Unavailable,
)
from nodestore.etcd.lease import Lease
from nodestore.etcd.session import Compare, Etcd, EtcdSettings, Op, TxnResult
from nodestore.schema.keys import Keys
from nodestore.schema.models import Epoch, Paused
from tests.faults.late.scenarios import SMALL, code_of, hold_the_chunk
from tests.faults.late.transactions import (
    RunningLeader,
    Stage,
    configure,
    run_leader,
    session,
    stage,
    take_over,
    wait_shown,
)
from tests.faults.network.proxy import Mode
from tests.support.etcd_cluster import EtcdCluster
from tests.support.toy_app import ToyApp
from tests.support.waiting import eventually


async def test_a_read_under_way_when_the_term_ends(etcd_one: EtcdCluster, keys: Keys) -> None:
    """The read raises LeadershipLost. It is not cancelled, which would mean that its caller gave up."""
    async with stage(etcd_one, keys, repeats_arrive=False) as s:
        async with run_leader(s.late, s.witness, keys) as term:
            await term.add("x1")
            s.proxy.set(up=Mode.HOLD)
            reads = [asyncio.create_task(term.leader.confirm_read()) for _ in range(3)]
            await s.held()
            reads.append(asyncio.create_task(term.leader.confirm_read()))
            await asyncio.sleep(0)  # it runs up to its wait for the next read, as the one in flight began before it
            term.running.cancel()
            done, _ = await asyncio.wait(reads, timeout=10.0)
            assert done == set(reads)
            assert {type(read.exception()) for read in reads} == {LeadershipLost}
        s.proxy.forward()


async def test_a_read_after_deposition_is_refused(etcd_one: EtcdCluster, keys: Keys) -> None:
    """The read raises LeadershipLost, although the old leader's watch has not shown the takeover yet."""
    async with session(etcd_one) as etcd, run_leader(etcd, etcd, keys) as term:
        await term.add("x1")
        await term.leader.confirm_read()
        await take_over(etcd, keys, "m2")
        with pytest.raises(LeadershipLost):
            await term.leader.confirm_read()


async def test_a_new_leader_does_not_name_its_predecessor(etcd_one: EtcdCluster, keys: Keys) -> None:
    """Until its own watch shows its takeover, a new leader answers with Unavailable instead of its predecessor's
    name."""
    async with session(etcd_one) as etcd, run_leader(etcd, etcd, keys) as before:
        old = await etcd.get(keys.leader)
        async with run_leader(etcd, etcd, keys, "m2") as term:
            parts = build_parts(etcd, keys, MasterIdentity("m2", "m2", (), 0, "n"), ToyApp(), MasterSettings())
            parts.leadership.leader = term.leader
            sources = replace(parts.read_sources, cluster_view=term.cluster_view)
            term.cluster_view.show_leader(old)
            with pytest.raises(Unavailable, match="just taken over"):
                await reads.leader(sources, cast(Any, None))
            term.cluster_view.show_leader(await etcd.get(keys.leader))
            answer = await reads.leader(sources, cast(Any, None))
            assert answer["id"] == "m2"
            assert answer["term"]["revision"] > before.won.fence.term.revision


async def test_a_read_waits_for_a_commit_that_memory_does_not_know_yet(etcd_one: EtcdCluster, keys: Keys) -> None:
    """A read of `head` may overtake the reply of a commit. The read must then wait until memory holds that commit."""
    async with LateReplies(EtcdSettings(endpoints=etcd_one.endpoints)) as etcd, run_leader(etcd, etcd, keys) as term:
        await term.add("x1")
        etcd.reply.clear()
        adding = asyncio.create_task(term.add("x2"))
        await asyncio.wait_for(etcd.landed.wait(), 30.0)
        assert await term.parts.read_index.confirm() == 2
        read = asyncio.create_task(term.leader.confirm_read())
        await asyncio.wait([asyncio.create_task(term.parts.read_index.confirm())])
        assert not read.done()
        etcd.reply.set()
        await asyncio.wait_for(read, 30.0)
        assert term.replica.index == 2
        assert (await adding).index == 2


class LateReplies(Etcd):
    """Holds back the replies of transactions that write, while `reply` is cleared; reads are answered at once."""

    def __init__(self, settings: EtcdSettings) -> None:
        super().__init__(settings)
        self.landed, self.reply = asyncio.Event(), asyncio.Event()
        """landed: set when a reply is being held back."""
        self.reply.set()

    async def txn(
        self, compares: Sequence[Compare], then: Sequence[Op] = (), orelse: Sequence[Op] = (), **options: Any
    ) -> TxnResult:
        result = await super().txn(compares, then, orelse, **options)
        if not self.reply.is_set() and any(not op.HasField("request_range") for op in then):
            self.landed.set()
            await self.reply.wait()
        return result


async def test_a_deposed_leader_returns_no_result(etcd_one: EtcdCluster, keys: Keys) -> None:
    """A deposed leader returns no result that it computed, neither a refusal nor the result of a repeat."""
    async with session(etcd_one) as etcd, run_leader(etcd, etcd, keys) as term:
        await term.add("x1")
        await take_over(etcd, keys, "m2")
        assert code_of(await term.add("x1")) == "leadership_lost"


async def test_an_epoch_that_changes_ends_the_term(etcd_one: EtcdCluster, keys: Keys) -> None:
    """A change of the epoch ends the term, even while views are written: the leader does not retry for ever."""
    async with stage(etcd_one, keys, repeats_arrive=False) as s:
        await configure(s.witness, keys)
        async with run_leader(s.late, s.witness, keys, settings=SMALL) as term:
            await _change_the_epoch_during_a_chunk(s, term)
            assert isinstance(await term.ended(), LeadershipLost)


async def _change_the_epoch_during_a_chunk(s: Stage, term: RunningLeader) -> None:
    hold_the_chunk(s)
    call = asyncio.create_task(term.put("nodes/n1", x=1))
    await s.held()
    await s.witness.put(s.keys.epoch, Epoch(epoch=2).encode())
    await s.deliver()
    assert code_of(await call) is None


async def test_a_journal_index_that_differs_from_memory_ends_the_term(etcd_one: EtcdCluster, keys: Keys) -> None:
    """If the journal's index is not that of memory, the term ends.

    Otherwise an entry could overwrite a committed one.
    """
    async with session(etcd_one) as etcd, run_leader(etcd, etcd, keys) as term:
        await term.add("x1")
        term.parts.committer.journal.index += 1
        assert code_of(await term.add("x2")) == "outcome_unknown"
        await term.ended()
        found = await etcd.get(keys.entry(2))
        assert found is None


async def test_head_changed_by_a_stranger_changes_nothing(etcd_one: EtcdCluster, keys: Keys) -> None:
    """The commit is sent again and compares `head` as it is now. The term goes on."""
    async with session(etcd_one) as etcd, run_leader(etcd, etcd, keys) as term:
        await term.add("x1")
        head = await etcd.get(keys.head)
        assert head is not None
        await etcd.put(keys.head, head.value)
        assert (await term.add("x2")).result == 2
        await etcd.delete(keys.head)
        assert (await term.add("x3")).result == 3


async def test_an_entry_of_a_stranger_ends_the_term(etcd_one: EtcdCluster, keys: Keys) -> None:
    """The outcome of the commit is unknown to its caller. The next term continues with the store as it is."""
    async with session(etcd_one) as etcd:
        async with run_leader(etcd, etcd, keys) as term:
            await term.add("x1")
            await _meddle(etcd, keys)
            assert code_of(await term.add("x2")) == "outcome_unknown"
            await term.ended()
        await etcd.delete(keys.entry(2))
        async with run_leader(etcd, etcd, keys, "m2") as term:
            again = await term.add("x2")
            assert (again.result, again.repeated) == (2, False)


async def _meddle(etcd: Etcd, keys: Keys) -> None:
    """Another program writes `head` again, and an entry after it."""
    head = await etcd.get(keys.head)
    assert head is not None
    await etcd.put(keys.entry(2), b"{}")
    await etcd.put(keys.head, head.value)


async def test_views_that_cannot_be_written_end_the_term(
    etcd_one: EtcdCluster, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller gets its committed outcome.

    The term ends, because going on would mark incomplete views as complete.
    """

    async def refused(*_: Any) -> None:
        raise NodectlError("etcd refuses this view")

    async with session(etcd_one) as etcd:
        await configure(etcd, keys)
        async with run_leader(etcd, etcd, keys, settings=SMALL) as term:
            monkeypatch.setattr(Publisher, "write_views", refused)
            outcome = await term.put("nodes/n1", x=1)
            assert (outcome.error, outcome.index) == (None, 2)
            assert (await term.ended()).code == "outcome_unknown"
            monkeypatch.undo()
        async with run_leader(etcd, etcd, keys, "m2", settings=SMALL):
            await wait_shown(etcd, keys, {"n1": {"x": 1}})


@pytest.mark.parametrize(
    ("case", "seen", "ends"),
    [
        ("no leader shown yet", [None], False),
        ("the leader before us", [-1], False),
        ("the leader before us, then deleted", [-1, None], False),
        ("ourselves", [0], False),
        ("the leader before us, then ourselves", [-1, 0], False),
        ("ourselves, then deleted", [0, None], True),
        ("a newer one", [1], True),
        ("ourselves, then a newer one", [0, 1], True),
        ("a newer one, then deleted", [1, None], True),
    ],
)
async def test_the_watch_may_lag_behind_the_term(
    etcd_one: EtcdCluster, keys: Keys, case: str, seen: list[int | None], ends: bool
) -> None:
    """A value of `leader` from before this term does not end it."""
    async with session(etcd_one) as etcd, run_leader(etcd, etcd, keys) as term:
        ours = await etcd.get(keys.leader)
        assert ours is not None
        for revision in seen:
            kv = None if revision is None else replace(ours, mod_revision=ours.mod_revision + revision)
            term.cluster_view.show_leader(kv)
        outcome = None
        with suppress(LeadershipLost):
            outcome = await term.add("x1")
        assert (outcome is None or outcome.error is not None) is ends, case


def test_a_cluster_view_begins_without_a_known_leader() -> None:
    """Before the first listing, `leader_known` is not set: nothing may conclude that there is no leader."""
    view = ClusterView(None, Keys("x"))  # type: ignore[arg-type]
    assert not view.leader_known.is_set()


async def test_a_lease_that_is_lost_only_by_the_masters_own_clock(
    etcd_one: EtcdCluster, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The master considers its lease lost while etcd still holds it.

    It finds its own old nonce in `leader`, and wins a new term with a new lease. No command is lost.
    """
    lost = asyncio.Event()
    kept = Lease.keep_alive

    async def keep(self: Lease, *, patience_s: float = 0.0) -> None:
        if lost.is_set():
            await kept(self, patience_s=patience_s)
        await lost.wait()
        raise LeaseLost("by our own clock")

    async def revoke(self: Lease) -> None:
        """The revocation is lost."""

    monkeypatch.setattr(Lease, "keep_alive", keep)
    monkeypatch.setattr(Lease, "revoke", revoke)
    async with session(etcd_one) as etcd:
        parts = build_parts(
            etcd, keys, MasterIdentity("m1", "pc", (), 0, "process"), ToyApp(), MasterSettings(lease_ttl_s=60)
        )
        living = asyncio.create_task(parts.master.run())
        try:
            first = await _leads(parts, None)
            await first.submit([CommandRequest("x1", "add", {"path": "sum"}, "t", 0)])
            before = parse_leader(await etcd.get(keys.leader))
            lost.set()
            await etcd.delete(keys.entry(2))
            second = await _leads(parts, first)
            after = parse_leader(await etcd.get(keys.leader))
            assert after.lease != before.lease
            assert after.revision > before.revision
            outcome = (await second.submit([CommandRequest("x1", "add", {"path": "sum"}, "t", 0)]))[0]
            assert (outcome.result, outcome.repeated) == (1, True)
        finally:
            living.cancel()
            await asyncio.wait([living])


async def test_a_takeover_without_a_valid_lease_is_repeated_with_a_new_one(
    etcd_one: EtcdCluster, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an outage etcd has ended all leases.

    The takeover fails first, before a keepalive or the candidacy does; the master then gets a new lease.
    """

    async def far_away(*_: Any, **__: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Lease, "keep_alive", far_away)
    monkeypatch.setattr(Candidacy, "keep_fresh", far_away)
    async with session(etcd_one) as etcd:
        await etcd.put(keys.paused, Paused(actor="test", time=0.0).encode())
        parts = build_parts(
            etcd, keys, MasterIdentity("m1", "pc", (), 0, "process"), ToyApp(), MasterSettings(lease_ttl_s=60)
        )
        living = asyncio.create_task(parts.master.run())
        try:
            await eventually(lambda: parts.cluster_view.candidates.items.keys() == {"m1"}, "it is a candidate")
            candidacy = await etcd.get(keys.candidate("m1"))
            assert candidacy is not None
            await etcd.revoke(candidacy.lease)
            await etcd.delete(keys.paused)
            await _leads(parts, None)
            assert parse_leader(await etcd.get(keys.leader)).lease != candidacy.lease
        finally:
            living.cancel()
            await asyncio.wait([living])


async def _leads(parts: MasterdParts, other_than: Leader | None) -> Leader:
    def serving() -> bool:
        leader = parts.leadership.leader
        return leader is not None and leader is not other_than and leader.serving.is_set()

    await eventually(serving, "the master leads")
    assert parts.leadership.leader is not None
    return parts.leadership.leader


async def test_a_term_given_up_is_not_claimed_again(
    etcd_one: EtcdCluster, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A term that was given up is not claimed again, even if the resignation was lost: late copies of its writes must
    fail."""

    async def resign(self: Master, won: TakeoverWon, why: str) -> None:
        """The resignation is lost."""

    monkeypatch.setattr(Master, "_resign", resign)  # private: only the resignation is to be lost
    async with session(etcd_one) as etcd:
        parts = build_parts(
            etcd, keys, MasterIdentity("m1", "pc", (), 0, "process"), ToyApp(), MasterSettings(lease_ttl_s=60)
        )
        living = asyncio.create_task(parts.master.run())
        try:
            first = await _leads(parts, None)
            add = CommandRequest("x1", "add", {"path": "sum"}, "t", 0)
            await first.submit([add])
            await _meddle(etcd, keys)  # this term no longer knows what is committed
            other = structs.replace(add, id="x2")
            assert code_of((await first.submit([other]))[0]) == "outcome_unknown"
            second = await _leads(parts, first)
            assert second.fence.term > first.fence.term
            assert (await second.submit([other]))[0].result == 2
        finally:
            living.cancel()
            await asyncio.wait([living])
