"""Small entries for etcd's raft log: they change nothing, and etcd may refuse them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from masterd.term.pacing.log_credit import LogCredit
from masterd.term.pacing.log_turnover import LogTurnover
from nodestore.etcd.session import Etcd
from nodestore.schema.keys import Keys
from tests.support.fakes.clock import VirtualTime
from tests.support.fakes.etcd import SETTINGS, FakeEtcd
from tests.support.fakes.link import LOST, REFUSED, UNHEARD, Fate, Link

KEYS = Keys("test")


class _Sent(Link):
    """A link that counts transactions, and gives them a fate."""

    def __init__(self, fate: Fate = Fate()) -> None:
        super().__init__(FakeEtcd())
        self.sent, self.fate = 0, fate
        self.fates = self._count

    def _count(self, method: str, request: Any) -> Fate:
        if method != "KV/Txn":
            return Fate()
        self.sent += 1
        assert request.success, "a transaction that can only read is no entry of the raft log"
        return self.fate


def _credit() -> LogCredit:
    """A member keeps ten entries of 100 bytes in the long run. There is no credit for a burst, and each entry is due at
    once."""
    return LogCredit(entries=10, bytes_max=1000, burst=0, together=1)


def test_small_entries_change_nothing() -> None:
    """Neither a key nor the revision: watches, compares and compaction do not see them."""
    link = _Sent()

    async def work() -> None:
        async with Etcd(SETTINGS, connect=link.connect) as etcd:
            revision = await etcd.put(KEYS.head, b"head")
            turnover = LogTurnover(etcd, KEYS, _credit())
            await turnover.catch_up()
            assert link.sent == 0, "nothing was committed yet"
            turnover.note_commit(1, 600, revision)
            await turnover.catch_up()
            assert link.sent == 5
            await turnover.catch_up()
            assert link.sent == 5
            found = await etcd.get(KEYS.head)
            assert found is not None
            assert (found.value, found.mod_revision) == (b"head", revision)
            assert (await etcd.range(KEYS.prefix)).revision == revision

    with VirtualTime() as world:
        world.run(work())


def test_small_entries_are_written_while_the_next_batch_runs() -> None:
    """The next commit waits for what is left of them. Without a next one, they are written all the same."""
    link = _Sent()

    async def work() -> None:
        async with Etcd(SETTINGS, connect=link.connect) as etcd:
            credit = _credit()
            turnover = LogTurnover(etcd, KEYS, credit)
            turnover.start()
            turnover.note_commit(1, 600, 1)
            turnover.start()
            turnover.start()
            assert link.sent == 0
            await turnover.catch_up()
            assert (link.sent, credit.entries_due) == (5, 0)
            turnover.note_commit(1, 300, 2)
            turnover.start()
            await asyncio.sleep(1.0)
            assert (link.sent, credit.entries_due) == (7, 0)
            await turnover.close()

    with VirtualTime() as world:
        world.run(work())


def test_at_the_end_of_a_term_no_small_entry_is_left_in_flight() -> None:
    link = _Sent(LOST)

    async def work() -> None:
        async with Etcd(SETTINGS, connect=link.connect) as etcd:
            turnover = LogTurnover(etcd, KEYS, _credit())
            turnover.note_commit(1, 600, 1)
            turnover.start()
            await asyncio.sleep(0.1)
            assert link.sent
            before = len(asyncio.all_tasks())
            await turnover.close()
            assert len(asyncio.all_tasks()) < before
            await turnover.close()

    with VirtualTime() as world:
        world.run(work())


def test_a_defect_is_raised_by_the_next_commit_or_logged_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    link = _Sent()

    def break_down(method: str, request: Any) -> Fate:
        raise ZeroDivisionError

    async def work() -> None:
        async with Etcd(SETTINGS, connect=link.connect) as etcd:
            turnover = LogTurnover(etcd, KEYS, _credit())
            turnover.note_commit(1, 600, 1)
            link.fates = break_down
            turnover.start()
            with pytest.raises(ZeroDivisionError):
                await turnover.catch_up()
            turnover.start()
            await asyncio.sleep(0.1)
            await turnover.close()

    with VirtualTime() as world:
        world.run(work())
    assert [record.getMessage() for record in caplog.records] == [
        "etcd's raft log was not turned over: ZeroDivisionError()"
    ]


@pytest.mark.parametrize("fate", [LOST, REFUSED, UNHEARD], ids=["lost", "refused", "unanswered"])
def test_an_etcd_that_takes_none_does_not_hold_up_commits(fate: Fate) -> None:
    """They are due after the next commit instead."""
    link = _Sent(fate)

    async def work() -> None:
        async with Etcd(SETTINGS, connect=link.connect) as etcd:
            credit = _credit()
            turnover = LogTurnover(etcd, KEYS, credit)
            turnover.note_commit(1, 600, 1)
            due = credit.entries_due
            await turnover.catch_up()
            assert link.sent >= due
            assert credit.entries_due == due
            link.fate = Fate()
            await turnover.catch_up()
            assert credit.entries_due == 0

    with VirtualTime() as world:
        world.run(work())
