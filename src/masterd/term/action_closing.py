"""Closes the actions of nodes once they have ended or expired, and submits the commands for node events.

`node_events.py` collects the events and builds the commands; this module queues or commits them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice

from masterd.replication.replica import Replica
from masterd.state_machine.actions import ACTION_DONE, ActionClosure
from masterd.state_machine.batch import CommandOutcome, CommandRequest
from masterd.term.committer import Committer
from masterd.term.journal import CompareFailed
from masterd.term.node_events import NODE_CHANGED, NodeEvents, closing_request, next_expiry_at
from masterd.term.submissions import OutcomeCallback, Submission
from nodestore.errors import Garbage, Invalid, LeadershipLost, NodectlError, OutcomeUnknown, TooLarge, Unavailable
from nodestore.etcd.session import Compare, Etcd
from nodestore.schema.keys import Keys

log = logging.getLogger(__name__)

_EVENTS_MAX = 64
_EXPIRED_MAX = 3
"""Largest number of expired actions that one commit closes. They are so few that their removal from the views
`actions/<node>` always fits into that commit. If a view were updated later, the node could begin an action that is
closed already, because it may begin any action that `actions/<node>` lists and `acted/<node>` does not."""
_EXPIRE_AGAIN_S = 1.0


class ActionCloser:
    """Closes the actions of nodes for one term, and passes status changes to the application.

    derive_timeout_s: limit for deriving the specs of the nodes whose actions were closed.
    """

    def __init__(
        self,
        etcd: Etcd,
        keys: Keys,
        node_events: NodeEvents,
        replica: Replica,
        committer: Committer,
        derive_timeout_s: float,
        wake: Callable[[], None],
    ) -> None:
        self._etcd, self._keys, self._node_events = etcd, keys, node_events
        self._replica, self._committer = replica, committer
        self._derive_timeout_s, self._wake = derive_timeout_s, wake
        self._closing: set[str] = set()
        """Ids of the closing commands that are queued."""
        self._without_result: set[str] = set()
        """Ids of closing commands that were refused because of the node's result. The next attempt omits the result."""
        self._expire_at = 0.0

    @property
    def may_have_events(self) -> bool:
        """Whether `take_submissions` may return commands. False before nearly every batch, and quickly known."""
        return bool(self._replica.state.actions) or self._node_events.has_changes

    def take_submissions(self) -> list[Submission]:
        """Return commands for all node events since the last call, in the order in which they must be queued."""
        state = self._replica.state
        ended = self._node_events.closures(state, self._committer.now, not_started=False)
        closures = list(islice((closure for closure in ended if closure.id not in self._closing), _EVENTS_MAX))
        self._closing.update(closure.id for closure in closures)
        closings = (closing_request(closure, omit_result=closure.id in self._without_result) for closure in closures)
        requests = [*self._node_events.take_change_requests(_EVENTS_MAX, state), *closings]
        return [Submission(request, OutcomeCallback(partial(self._on_outcome, request))) for request in requests]

    def _on_outcome(self, request: CommandRequest, outcome: CommandOutcome) -> None:
        self._closing.discard(request.id)
        error = outcome.error
        if error is None:
            self._without_result.discard(request.id)
        if error is None or isinstance(error, LeadershipLost):
            return
        log.warning("command %s for node %s failed: %s", request.name, request.actor, error)
        if request.name == NODE_CHANGED and isinstance(error, Unavailable | OutcomeUnknown):
            self._node_events.requeue(request.actor)
        if request.name == ACTION_DONE and isinstance(error, Invalid | TooLarge):
            self._without_result.add(request.id)
        self._wake()

    # --- actions that expire ---

    @property
    def has_expired_actions(self) -> bool:
        """Whether a pending action has expired. False for one second after an attempt that closed none."""
        expiry = next_expiry_at(self._replica.state)
        return expiry is not None and expiry < self._committer.now and time.monotonic() >= self._expire_at

    @property
    def next_expiry_in_s(self) -> float | None:
        """Seconds until `has_expired_actions` may become true; None if no action is pending."""
        expiry = next_expiry_at(self._replica.state)
        if expiry is None:
            return None
        return max(self._expire_at - time.monotonic(), expiry - self._committer.now, 0.01)

    async def expire_actions(self) -> None:
        """Close expired actions. The commit compares `acted/<node>`: if a node has begun one meanwhile, it fails."""
        self._expire_at = time.monotonic() + _EXPIRE_AGAIN_S
        expired = list(
            islice(self._node_events.closures(self._replica.state, self._committer.now, not_started=True), _EXPIRED_MAX)
        )
        try:
            fetched = [await self._node_events.refetch_closure(self._etcd, self._keys, closure) for closure in expired]
            not_started = [found for found in fetched if found is not None]
            if not_started:
                await self._close([closure for closure, _ in not_started], tuple(compare for _, compare in not_started))
                self._expire_at = 0.0  # there may be more
        except (LeadershipLost, OutcomeUnknown, Garbage):
            raise
        except CompareFailed:
            log.info("a node began an action just before it expired; the action is kept")
        except NodectlError as error:
            log.warning("could not close expired actions, trying again in a second: %s", error)

    async def close_before_epoch(self, epoch: int) -> None:
        """Close all actions of earlier epochs.

        A restored backup may hold actions that nodes have performed after the backup was made. The leader calls this
        before it writes any view, so that no node performs them again.
        """
        closures = self._node_events.closures(self._replica.state, self._committer.now, not_started=False)
        old = [closure for closure in closures if closure.action.epoch < epoch]
        for start in range(0, len(old), _EVENTS_MAX):
            await self._close(old[start : start + _EVENTS_MAX], publish=False)

    async def _close(
        self, closures: Sequence[ActionClosure], compares: tuple[Compare, ...] = (), *, publish: bool = True
    ) -> None:
        requests = [closing_request(closure) for closure in closures]
        batch, _ = await self._committer.run_batch(
            lambda batch, _: [batch.execute(request) for request in requests], self._derive_timeout_s
        )
        if batch.records:
            await self._committer.commit(batch, compares, publish=publish)
