"""Leaders whose clocks are an hour apart: history reads forwards, and no command is forgotten or run twice for it."""

from __future__ import annotations

import time

import pytest

from masterd.state_machine import state
from masterd.state_machine.batch import CommandOutcome, CommandRequest
from nodestore.errors import TooOld
from nodestore.schema.keys import Keys
from nodestore.schema.models import Entry, decode
from tests.faults.late.transactions import RunningLeader, configure, run_leader, session
from tests.support.etcd_cluster import EtcdCluster

HOUR_S = 3_600.0


async def send(term: RunningLeader, known_as: str, after: int) -> CommandOutcome:
    return (await term.submit(CommandRequest(known_as, "add", {"path": "sum"}, "tester", after)))[0]


async def test_leaders_an_hour_behind_and_an_hour_ahead(
    etcd_one: EtcdCluster, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Times never go back in the journal. A leader whose clock is behind forgets no id. One whose clock is ahead makes
    an hour pass at once, so beyond the last commands (10,000; here 5) it forgets ids; what is no longer known is
    refused, never run again."""
    monkeypatch.setattr(state, "IDS_MIN", 5)
    async with session(etcd_one) as etcd:
        await configure(etcd, keys)
        sent: dict[str, int] = {}
        for leader, offset_s in (("m1", 0.0), ("m2", -HOUR_S), ("m3", HOUR_S + 60.0), ("m4", 0.0)):

            def clock(offset_s: float = offset_s) -> float:
                return time.time() + offset_s

            async with run_leader(etcd, etcd, keys, leader, wall_clock=clock) as term:
                for known_as, after in sent.items():
                    outcome = await send(term, known_as, after)
                    assert outcome.repeated or isinstance(outcome.error, TooOld), f"{known_as} ran twice: {outcome}"
                    assert outcome.repeated or leader == "m4", f"{known_as} was forgotten too early"
                for number in range(7):
                    known_as, after = f"{leader}-{number}", term.replica.index
                    sent[known_as] = after
                    for repeated in (False, True):
                        assert (await send(term, known_as, after)).repeated == repeated
        entries = [decode(Entry, kv.value, kv.key) for kv in (await etcd.range(keys.journal)).kvs]
        commands = [command for entry in entries for command in entry.commands]
        times = [command.time for command in commands]
        assert times == sorted(times)
        assert times[-1] - times[0] >= HOUR_S
        sums = [command.result for command in commands if command.id in sent]
        assert sums == list(range(1, len(sent) + 1)), "each ran once"
