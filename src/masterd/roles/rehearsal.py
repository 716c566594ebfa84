"""Rehearses a takeover on a standby: derives the specs of all nodes with its own application, without any effect.

So an application that fails on the present state, or that would give nodes other specs, is known before this masterd
leads. A rehearsal runs after the start, after each new configuration, and otherwise at most once a minute. It works on
a copy of the state, in a thread, and in short slices, because a standby must go on receiving heartbeats.

A node for which the application exceeds its time limit is left out and counts as one that fails: a leader would do the
same (`term/derivation/all_specs.py`). The PC may only have been busy; then the next rehearsal shows it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from functools import partial
from typing import NoReturn

from masterd.application.contract import Application
from masterd.application.worker import HungError, JobProgress, Worker, too_many_hang
from masterd.replication.replica import Replica
from masterd.roles.leadership import Leadership
from masterd.state_machine.specs import SpecDeriver
from masterd.state_machine.state import State
from masterd.state_machine.transaction import Overlay
from masterd.term.derivation.all_specs import HUNG_NODES_MAX, hung_reason
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
    """What the rehearsal has found so far. waiting: the nodes that are still to be derived, the present one first."""

    waiting: list[str]
    failed: dict[str, str] = field(default_factory=dict)
    differing: list[str] = field(default_factory=list)
    hung_count: int = 0

    def derive_slice(self, spec_deriver: SpecDeriver, state: State, progress: JobProgress) -> None:
        """Derive specs until the slice is used up; at least one."""
        until = time.monotonic() + _SLICE_S
        view = Overlay(state, state.inventory, state.time)
        while self.waiting:
            node = self.waiting[0]
            progress.begin_step(len(self.waiting))
            spec_deriver.update(state.inventory, view, [node], tolerant=True)
            self.waiting.pop(0)
            if node in spec_deriver.failed:
                self.failed[node] = spec_deriver.failed[node]
            elif spec_deriver[node].hash != state.spec_hash(node):
                self.differing.append(node)
            if time.monotonic() >= until:
                return

    def after_hang(self, node: str, limit_s: float) -> _Findings:
        """The findings with `node` as one that failed. A new object, because the abandoned thread may change this one.

        At the last node that may hang, all that wait are left out.
        """
        why = hung_reason(node, limit_s)
        hung_count = self.hung_count + 1
        waiting = [] if hung_count >= HUNG_NODES_MAX else [name for name in self.waiting if name != node]
        return _Findings(waiting, {**self.failed, node: why}, list(self.differing), hung_count)

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
        self._last: RehearsalReport | None = None
        self._last_of: tuple[int, int] | None = None
        """Index of the adoption of the rehearsed configuration, and its mod_revision in etcd."""
        self._done_at: tuple[int, int] | None = None
        """Index of the adoption of the configuration, and index of the state, of the last rehearsal."""
        self._not_before = 0.0

    @property
    def report(self) -> RehearsalReport | None:
        """The last report; None if there is none yet with the present configuration."""
        return self._last if self._is_current else None

    @property
    def problem(self) -> str | None:
        """Why this masterd could not derive all specs if it led; None if it could, as far as is known.

        Until the present configuration has been rehearsed, a problem of the previous one counts.
        """
        report = self._last
        if report is None or not report.failed_count:
            return None
        node, error = next(iter(report.failed.items()))
        more = f" (and {report.failed_count - 1} more nodes)" if report.failed_count > 1 else ""
        age = "" if self._is_current else " (with an earlier configuration; the present one is not rehearsed yet)"
        return f"its application cannot derive the spec of node {node}{more}{age}: {error}"

    @property
    def _is_current(self) -> bool:
        adopted = self._replica.state.adopted
        return adopted is not None and self._last_of == (adopted.index, adopted.revision)

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
        if too_many_hang():
            return False
        now_at = state.adopted.index, state.index
        if self._done_at is None or self._done_at[0] != now_at[0]:
            return True
        return self._done_at != now_at and time.monotonic() >= self._not_before

    async def _rehearse(self) -> None:
        state = self._replica.state.for_derivation()
        adopted = state.adopted
        if adopted is None:
            return
        self._done_at, self._not_before = (adopted.index, state.index), time.monotonic() + _AGAIN_S
        findings = await self._derive(state, _Findings(list(state.inventory.nodes)))
        if findings is None:
            self._done_at = None
            return
        self._last = findings.report(state.index, len(state.inventory.nodes))
        self._last_of = adopted.index, adopted.revision
        if findings.hung_count:
            self._not_before = time.monotonic() + _AGAIN_AFTER_HANG_S
            log.warning("the rehearsal of a takeover: %s", self.problem)

    async def _derive(self, state: State, findings: _Findings) -> _Findings | None:
        """Derive all specs, in slices; return the findings, or None if this masterd became the leader meanwhile."""
        spec_deriver, worker = SpecDeriver(self._application), Worker()
        try:
            while findings.waiting:
                if self._leadership.leader is not None:
                    return None
                begun = time.monotonic()
                try:
                    await worker.run(
                        partial(findings.derive_slice, spec_deriver, state),
                        self._limit_s,
                        spec_deriver.node_in_progress,
                    )
                except HungError:
                    findings = findings.after_hang(findings.waiting[0], self._limit_s)
                    spec_deriver = SpecDeriver(self._application)
                    begun = time.monotonic()
                await asyncio.sleep((time.monotonic() - begun) * _PAUSES)
        finally:
            worker.close()
        return findings
