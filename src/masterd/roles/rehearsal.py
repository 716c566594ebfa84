"""Rehearses a takeover on a standby: derives the specs of all nodes with its own application, without any effect.

So an application that fails on the present state, or that would give nodes other specs, is known before this masterd
leads. A rehearsal runs after the start, after each new configuration, and otherwise at most once a minute. It works on
a copy of the state, in a thread, and in short slices, because a standby must go on receiving heartbeats.

If the application exceeds its time limit, the rehearsal proves nothing: the PC may have been busy.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from typing import NoReturn

from masterd.application.contract import Application
from masterd.application.worker import HungError, JobProgress, Worker
from masterd.replication.replica import Replica
from masterd.roles.leadership import Leadership
from masterd.state_machine.specs import SpecDeriver
from masterd.state_machine.state import State
from masterd.state_machine.transaction import Overlay
from nodestore.schema.models import RehearsalReport

log = logging.getLogger(__name__)

_CHECK_EVERY_S = 0.5
_AGAIN_S = 60.0
_AGAIN_AFTER_HANG_S = 600.0
_SLICE_S = 0.005
_PAUSES = 4.0
"""After each slice, a pause of this many times its duration: a rehearsal uses a fifth of one core at most."""
_FAILED_MAX, _DIFFERING_MAX, _TEXT_MAX = 20, 50, 200


@dataclass(slots=True)
class _Findings:
    """What the rehearsal has found so far. waiting: the nodes that are still to be derived."""

    waiting: list[str]
    failed: dict[str, str] = field(default_factory=dict)
    differing: list[str] = field(default_factory=list)

    def derive_slice(self, spec_deriver: SpecDeriver, state: State, progress: JobProgress) -> None:
        """Derive specs until the slice is used up; at least one."""
        until = time.monotonic() + _SLICE_S
        view = Overlay(state, state.inventory, state.time)
        while self.waiting:
            node = self.waiting.pop(0)
            progress.begin_step(len(self.waiting))
            spec_deriver.update(state.inventory, view, [node], tolerant=True)
            if node in spec_deriver.failed:
                self.failed[node] = spec_deriver.failed[node]
            elif spec_deriver[node].hash != state.spec_hash(node):
                self.differing.append(node)
            if time.monotonic() >= until:
                return

    def report(self, index: int, nodes: int) -> RehearsalReport:
        """The findings in the form in which they are published, with a bounded size."""
        some = list(self.failed.items())[:_FAILED_MAX]
        return RehearsalReport(
            index=index, nodes=nodes, failed={node: error[:_TEXT_MAX] for node, error in some},
            failed_count=len(self.failed), differing=tuple(self.differing[:_DIFFERING_MAX]),
            differing_count=len(self.differing),
        )  # fmt: skip


class Rehearsal:
    """Rehearses whenever it is due, and keeps the last report."""

    def __init__(self, replica: Replica, application: Application, leadership: Leadership, limit_s: float) -> None:
        """limit_s: time limit for the derivation of one node's spec."""
        self._replica, self._application, self._leadership, self._limit_s = replica, application, leadership, limit_s
        self.report: RehearsalReport | None = None
        """The last report; None before the first one, and after one in which the application exceeded its limit."""
        self._done_at: tuple[int, int] | None = None
        """Index of the adoption of the configuration, and index of the state, of the last rehearsal."""
        self._not_before = 0.0

    @property
    def problem(self) -> str | None:
        """Why this masterd could not derive all specs if it led; None if it could, as far as is known."""
        report = self.report
        if report is None or not report.failed_count:
            return None
        node, error = next(iter(report.failed.items()))
        more = f" (and {report.failed_count - 1} more nodes)" if report.failed_count > 1 else ""
        return f"its application cannot derive the spec of node {node}{more}: {error}"

    async def run(self) -> NoReturn:
        """Rehearse whenever it is due, until cancelled."""
        while True:
            await asyncio.sleep(_CHECK_EVERY_S)
            if self._is_due:
                await self._rehearse()

    @property
    def _is_due(self) -> bool:
        state = self._replica.state
        if self._leadership.leader is not None or self._replica.problem is not None or state.adopted is None:
            return False
        now_at = state.adopted.index, state.index
        if self._done_at is None or self._done_at[0] != now_at[0]:
            return True
        return self._done_at != now_at and time.monotonic() >= self._not_before

    async def _rehearse(self) -> None:
        state = _copied(self._replica.state)
        adopted = state.adopted
        if adopted is None:
            return
        self._done_at, self._not_before = (adopted.index, state.index), time.monotonic() + _AGAIN_S
        findings = _Findings(list(state.inventory.nodes))
        try:
            if await self._derive(state, findings):
                self.report = findings.report(state.index, len(state.inventory.nodes))
        except HungError as error:
            self.report, self._not_before = None, time.monotonic() + _AGAIN_AFTER_HANG_S
            log.warning("the rehearsal of a takeover proves nothing: the application %s", error)

    async def _derive(self, state: State, findings: _Findings) -> bool:
        """Derive all specs, in slices; return False if this masterd became the leader meanwhile."""
        spec_deriver, worker = SpecDeriver(self._application), Worker()
        try:
            while findings.waiting:
                if self._leadership.leader is not None:
                    return False
                begun = time.monotonic()
                await worker.run(lambda job: findings.derive_slice(spec_deriver, state, job), self._limit_s)
                await asyncio.sleep((time.monotonic() - begun) * _PAUSES)
        finally:
            worker.close()
        return True


def _copied(state: State) -> State:
    """The part of the state from which specs are derived. It stays as it is while entries are applied, because
    documents are never changed in place."""
    return State(
        index=state.index, time=state.time, documents=dict(state.documents), specs=dict(state.specs),
        adopted=state.adopted,
    )  # fmt: skip
