"""Where the leader runs commands: few quick ones where it is, all others in a thread of their own."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any, cast

import pytest

from masterd.application.contract import Command
from masterd.application.scenes import BuiltinApp
from masterd.application.worker import JobProgress
from masterd.replication.replica import Replica
from masterd.state_machine.batch import Batch, CommandRequest
from masterd.state_machine.leader_clock import LeaderClock
from masterd.term.committer import Committer, LeaderSettings
from nodestore.cluster.election import Fence, TakeoverWon
from nodestore.etcd.session import Etcd, Range
from nodestore.schema.keys import Keys
from nodestore.schema.models import Term
from tests.support.toy_app import ToyApp


class _NoEtcd:
    """Running commands asks it for nothing."""


class _Quick(ToyApp):
    """Its `add` promises to end at once."""

    def commands(self) -> Mapping[str, Command]:
        offered = dict(super().commands())
        add = offered["add"]
        return {**offered, "add": Command(add.arguments, add.handler, quick=True)}


async def _committer(application: Any) -> Committer:
    keys, etcd = Keys("test"), cast(Etcd, _NoEtcd())
    won = TakeoverWon(Fence(Term(1, 7), 1, "nonce"), None, None, None, Range(1, (), False, 0))
    committer = Committer(
        etcd,
        keys,
        won,
        Replica(etcd, keys),
        application,
        LeaderSettings(),
        LeaderClock(0.0, None, time.monotonic, time.time),
    )
    await committer.rebuild_specs()
    return committer


def _requests(name: str, count: int) -> list[CommandRequest]:
    return [CommandRequest(f"x{number}", name, {}, "actor") for number in range(count)]


async def test_a_batch_in_which_all_promise_to_be_quick_runs_inline() -> None:
    """Every command in it is known and declared quick."""
    committer = await _committer(_Quick())
    assert committer.may_run_inline(_requests("add", 1))
    assert committer.may_run_inline(_requests("add", 256))
    assert not committer.may_run_inline([*_requests("add", 1), *_requests("put", 1)])
    assert not committer.may_run_inline(_requests("there is no such command", 1))
    committer.worker.close()


@pytest.mark.parametrize("here", [True, False])
async def test_a_fault_of_the_application_is_logged(here: bool, caplog: pytest.LogCaptureFixture) -> None:
    """With the command's name and the traceback, in whichever thread it ran."""
    committer = await _committer(_Quick())
    request = CommandRequest("x", "fail", {}, "actor")
    _, outcome = await committer.run_batch(lambda batch, _: batch.execute(request), 5.0, inline=here)
    committer.worker.close()
    assert outcome is not None
    assert outcome.error is not None
    (record,) = caplog.records
    assert record.getMessage() == "command fail failed in the application"
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


async def test_quick_commands_run_in_the_event_loop() -> None:
    """And others in a thread that can be given up."""
    committer = await _committer(_Quick())
    threads: list[int] = []

    def work(batch: Batch, progress: JobProgress) -> None:
        del batch, progress
        threads.append(threading.get_ident())

    try:
        await committer.run_batch(work, 5.0, inline=True)
        await committer.run_batch(work, 5.0)
    finally:
        committer.worker.close()
    assert threads[0] == threading.get_ident() != threads[1]


@pytest.mark.parametrize(("each_s", "keeps_promise"), [(0.0005, True), (0.03, False)])
async def test_what_was_not_quick_after_all_goes_to_the_thread(
    each_s: float, keeps_promise: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a while: a promise that is broken again and again costs the heartbeats once a minute at most. However many
    commands wait, those in the event loop end after 20 ms; many that each keep the promise are not slow."""
    committer = await _committer(_Quick())
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)

    def work(batch: Batch, progress: JobProgress) -> int:
        nonlocal now
        del batch
        for step in range(256):
            progress.begin_step(step)
            if progress.is_out_of_time:
                return step
            now += each_s
        return 256

    assert committer.may_run_inline(_requests("add", 1))
    _, ran = await committer.run_batch(work, 5.0, inline=True)
    assert ran in ((40, 41) if keeps_promise else (1,))
    assert committer.may_run_inline(_requests("add", 1)) == keeps_promise
    committer.worker.close()


def test_of_the_built_in_application_what_concerns_one_node_is_quick() -> None:
    """A scene may concern any number of them."""
    quick = {name for name, command in BuiltinApp().commands().items() if command.quick}
    assert quick == {"node.set", "node.put", "node.clear"}
