"""Derives the specs of all nodes from one state, although the application may hang for some of the nodes.

A node for which `desired` does not return counts as one for which it fails: it keeps its last order, and no leader is
stopped by it. The thread that hangs is abandoned together with the SpecDeriver that it may still change, and all nodes
are derived again without that node. Each node that hangs costs one limit, so after some of them, or if all nodes
together take too long, the remaining nodes are left out unasked. While too many threads of the process hang, the nodes
for which they hang are left out unasked too, so that terms that follow one another do not collect threads.
`hung_nodes.py` asks for all of these again later.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from masterd.application.contract import Application, GivenUp
from masterd.application.worker import HungError, JobProgress, Worker, hung_nodes, too_many_hang
from masterd.state_machine.batch import Batch
from masterd.state_machine.specs import SpecDeriver
from nodestore.errors import NodectlError

log = logging.getLogger(__name__)

HUNG_NODES_MAX = 3
"""After this many nodes that hang, one after another, no other node is derived that was not derived before them:
each of them may leave a thread that does not end."""


@dataclass(frozen=True, slots=True)
class DerivationLimits:
    """Time limits. node_s: for one node. all_s: for all nodes together."""

    node_s: float
    all_s: float


@dataclass(frozen=True, slots=True)
class DerivedSpecs:
    """The specs of all nodes. matches_recorded: they equal the specs recorded in the state.

    hung: by node, why its spec was not derived, because the application hung. `spec_deriver` uses the same mapping, so
    a node that is removed from it is derived again.
    """

    spec_deriver: SpecDeriver
    quick_commands: frozenset[str]
    matches_recorded: bool
    hung: dict[str, str]


def hung_reason(node: str, limit_s: float) -> str:
    """Why the spec of `node` is not derived."""
    return f"the application did not return from desired(node {node}) within {limit_s:g} s"


async def derive_all(
    new_batch: Callable[[SpecDeriver], Batch],
    application: Application,
    worker: Worker,
    limits: DerivationLimits,
    hung: dict[str, str],
) -> DerivedSpecs:
    """Derive the specs of all nodes with the batches that `new_batch` creates, and find the `quick` commands.

    hung: the nodes that must not be asked for; those that hang now are added. A node whose spec cannot be derived does
    not count: it keeps its last order and must not stop a leader. Raises no error of the application.
    """
    attempt = _Attempt(application, time.monotonic() + limits.all_s)
    if too_many_hang():
        why = "not derived: too many threads of this process hang in the application, one of them for this node"
        hung.update((node, why) for node in hung_nodes() if node not in hung)
    hung_before = len(hung)
    while True:
        spec_deriver = SpecDeriver(application, hung)
        batch = new_batch(spec_deriver)
        try:
            quick, matches = await worker.run(partial(attempt.run, batch), limits.node_s, spec_deriver.node_in_progress)
            return DerivedSpecs(spec_deriver, quick, matches, hung)
        except _OutOfTime:
            attempt.deadline = float("inf")
            _leave_out_rest(batch, hung, f"not derived: all nodes together took longer than {limits.all_s:g} s")
        except HungError as error:
            if error.node is None:
                log.error("the application %s: no command runs in the event loop", error)
                attempt.asks_for_commands = False
                continue
            hung[error.node] = hung_reason(error.node, limits.node_s)
            log.error("node %s keeps its last order: %s", error.node, hung[error.node])
            if len(hung) - hung_before >= HUNG_NODES_MAX:
                _leave_out_rest(batch, hung, f"not derived: the application hung for {HUNG_NODES_MAX} other nodes")


class _OutOfTime(NodectlError):
    """All nodes together take too long."""


@dataclass(slots=True)
class _Attempt:
    """What one attempt does in the application's thread. deadline: when all nodes must be derived."""

    application: Application
    deadline: float
    asks_for_commands: bool = True

    def run(self, batch: Batch, progress: JobProgress) -> tuple[frozenset[str], bool]:
        """Derive all; return the names of the `quick` commands, and whether the specs equal the recorded ones."""

        def before_each() -> None:
            if time.monotonic() > self.deadline:
                raise _OutOfTime
            progress.begin_step(progress.step + 1)

        batch.rebuild_specs(tolerant=True, before_each=before_each)
        progress.begin_step(progress.step + 1)
        return self._quick_commands(), not batch.differing_nodes()

    def _quick_commands(self) -> frozenset[str]:
        if not self.asks_for_commands:
            return frozenset()
        try:
            return frozenset(name for name, command in self.application.commands().items() if command.quick)
        except GivenUp:
            raise
        except BaseException:
            log.exception("the application does not list its commands: no command runs in the event loop")
            return frozenset()


def _leave_out_rest(batch: Batch, hung: dict[str, str], why: str) -> None:
    """Leave out every node that was not derived in this attempt. Nodes without a spec are derived, and not left out."""
    derived = {*batch.spec_deriver.nodes, *batch.spec_deriver.failed}
    rest = [node for node in batch.overlay.config.nodes if node not in derived and node not in hung]
    hung.update(dict.fromkeys(rest, why))
    if rest:
        log.error("%d more nodes keep their last order: %s", len(rest), why)
