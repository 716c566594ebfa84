"""Which branches of the protocol a simulated run has taken: evidence from the store's history, the log and results."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from masterd.term.journal import CommitFate, Journal
from nodestore.errors import NodectlError, TooOld
from nodestore.etcd.pb import etcd_pb2 as pb
from nodestore.schema.models import CommandRecord, Entry, Epoch, TermRecord, decode
from tests.simulation.world import World

CAUSES = ("first", "died", "silent", "stuck", "expired", "resigned", "switchover", "restarted")
"""Causes of takeovers."""

LINES = {
    "suspects the leader": "a standby suspects",
    "did not take over": "a takeover is lost",
    "leading, term": "a takeover without reply is claimed",
    "answered the challenge": "a leader answers a challenge",
    "sending an empty commit": "a commit is given up",
    "gave up term": "a term is given up",
    "deposed:": "a leader is deposed",
    "deposed during a commit": "a leader is deposed during a commit",
    "discarding the state": "a replica forgets a former epoch",
    "loaded the snapshot": "a replica loads a snapshot",
    "truncated the journal": "the journal is truncated",
    "deleted the incomplete snapshot": "a fragment is deleted",
    "config/current changed while": "a configuration is replaced during its adoption",
}
"""Parts of masterd's log lines, and the branches that they show."""

RESULTS = (
    "a challenge is written", "an epoch begins", "an action expires", "an action is lost", "a floor rises",
    "a command is too old", "a repeat is answered", "a snapshot is restored", "views are written in chunks",
)  # fmt: skip
_BY_OTHERS = (CommitFate.FOREIGN, CommitFate.OVERWRITTEN)
FATES = tuple(f"a commit is found {fate.name}" for fate in CommitFate if fate not in _BY_OTHERS)
"""The others need another program that writes `head`; unit tests and tests/simulation/stores have it."""

BRANCHES = (*(f"takeover: {cause}" for cause in CAUSES), *LINES.values(), *RESULTS, *FATES)


class Branches(logging.Handler):
    """Counts the branches of a run, while `recording` is entered."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.taken: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        for part, branch in LINES.items():
            if part in line:
                self.taken[branch] += 1

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Take the log of masterd, and note the fate of each commit that is found in doubt."""
        logger, fate_of = logging.getLogger("masterd"), Journal._fate
        level = logger.level

        def noted(journal: Journal, *arguments: object) -> CommitFate:
            fate: CommitFate = fate_of(journal, *arguments)  # type: ignore[arg-type]
            self.taken[f"a commit is found {fate.name}"] += 1
            return fate

        logger.addHandler(self)
        logger.setLevel(logging.INFO)
        Journal._fate = noted  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            Journal._fate = fate_of  # type: ignore[method-assign]
            logger.setLevel(level)
            logger.removeHandler(self)

    def read(self, world: World) -> None:
        """Add what the store and the clients' results show. Call it at the end of the run."""
        floor = 0
        for _, events in world.server.store.log:
            for event in events:
                if event.type == pb.Event.PUT:
                    floor = max(floor, self._read_put(world, event.kv, floor))
        refusals: list[NodectlError | None] = [command.refused for command in world.commands]
        self.taken["a command is too old"] += sum(isinstance(error, TooOld) for error in refusals)
        self.taken["a repeat is answered"] += sum(command.repeated for command in world.commands)

    def _read_put(self, world: World, kv: Any, floor: int) -> int:
        """Read one put; return the floor if it is an entry, else 0. floor: that of the entries before."""
        keys, key, value = world.keys, kv.key.decode(), kv.value
        if key.startswith(keys.terms):
            self.taken[f"takeover: {decode(TermRecord, value, key).cause}"] += kv.version == 1
        elif key.startswith(keys.challenges):
            self.taken["a challenge is written"] += 1
        elif key == keys.epoch:
            self.taken["an epoch begins"] += decode(Epoch, value, key).epoch > 1
        elif key == keys.applied:
            self.taken["views are written in chunks"] += b'"through":"' in value
        elif key.startswith(keys.journal):
            entry = decode(Entry, value, key)
            self.taken["a floor rises"] += (entry.floor or 0) > floor
            for command in entry.commands:
                self._read_command(command)
            return entry.floor or 0
        return 0

    def _read_command(self, command: CommandRecord) -> None:
        self.taken["a snapshot is restored"] += command.restore is not None
        if command.name == "action.done" and isinstance(command.result, dict):
            state = command.result["state"]
            self.taken[f"an action {'is lost' if state == 'lost' else 'expires'}"] += state in ("lost", "expired")

    @property
    def missing(self) -> list[str]:
        return [branch for branch in BRANCHES if not self.taken[branch]]
