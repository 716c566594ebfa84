"""What the nodes did, on its way into the journal: changes that the application hears of, and actions that are over."""

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

_NEWS_MAX = 64
_EXPIRED_MAX = 3
"""Actions that expire by one commit. So few that the views surely go with it, whatever etcd takes at once: as long as
the view still has an action, and nobody has written `acted`, the node may begin it."""
_EXPIRE_AGAIN_S = 1.0


class ActionCloser:
    """Of one term. derive_timeout_s: for what the nodes must be once an action of theirs is closed."""

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
        """Ids of the commands that wait to close an action."""
        self._without_result: set[str] = set()
        """Of those that were refused, for what the node told: it is left out at the next try."""
        self._expire_at = 0.0

    def take_submissions(self) -> list[Submission]:
        """What nodes did since this was asked last, as commands to be queued in this order."""
        state = self._replica.state
        ended = self._node_events.closures(state, self._committer.now, not_started=False)
        endings = list(islice((ending for ending in ended if ending.id not in self._closing), _NEWS_MAX))
        self._closing.update(ending.id for ending in endings)
        told = (closing_request(ending, omit_result=ending.id in self._without_result) for ending in endings)
        requests = [*self._node_events.take_change_requests(_NEWS_MAX, state), *told]
        return [Submission(request, OutcomeCallback(partial(self._on_outcome, request))) for request in requests]

    def _on_outcome(self, request: CommandRequest, outcome: CommandOutcome) -> None:
        self._closing.discard(request.id)
        error = outcome.error
        if error is None:
            self._without_result.discard(request.id)
        if error is None or isinstance(error, LeadershipLost):
            return
        log.warning("%s of node %s: %s", request.name, request.actor, error)
        if request.name == NODE_CHANGED and isinstance(error, Unavailable | OutcomeUnknown):
            self._node_events.requeue(request.actor)
        if request.name == ACTION_DONE and isinstance(error, Invalid | TooLarge):
            self._without_result.add(request.id)
        self._wake()

    # --- actions that expire ---

    @property
    def has_expired_actions(self) -> bool:
        """Whether an action is to be closed that no node has begun in time; at most once a second."""
        expiry = next_expiry_at(self._replica.state)
        return expiry is not None and expiry < self._committer.now and time.monotonic() >= self._expire_at

    @property
    def next_expiry_in_s(self) -> float | None:
        """When that may be so at the earliest; None: while nothing else happens, never."""
        expiry = next_expiry_at(self._replica.state)
        if expiry is None:
            return None
        return max(self._expire_at - time.monotonic(), expiry - self._committer.now, 0.01)

    async def expire_actions(self) -> None:
        """Close what no node has begun in time, if it still has not when this is committed."""
        self._expire_at = time.monotonic() + _EXPIRE_AGAIN_S
        late = list(
            islice(self._node_events.closures(self._replica.state, self._committer.now, not_started=True), _EXPIRED_MAX)
        )
        try:
            looked = [await self._node_events.refetch_closure(self._etcd, self._keys, ending) for ending in late]
            still = [found for found in looked if found is not None]
            if still:
                await self._close([ending for ending, _ in still], tuple(compare for _, compare in still))
                self._expire_at = 0.0  # there may be more
        except (LeadershipLost, OutcomeUnknown, Garbage):
            raise
        except CompareFailed:
            log.info("an action was begun just before it expired")
        except NodectlError as error:
            log.warning("actions that have expired are closed later: %s", error)

    async def close_before_epoch(self, epoch: int) -> None:
        """A backup was restored: what is still to be done in it may have been done since. Before any view is written,
        so that no node is told to do it again."""
        every = self._node_events.closures(self._replica.state, self._committer.now, not_started=False)
        old = [ending for ending in every if ending.action.epoch < epoch]
        for start in range(0, len(old), _NEWS_MAX):
            await self._close(old[start : start + _NEWS_MAX], publish=False)

    async def _close(
        self, endings: Sequence[ActionClosure], compares: tuple[Compare, ...] = (), *, publish: bool = True
    ) -> None:
        requests = [closing_request(ending) for ending in endings]
        batch, _ = await self._committer.run_batch(
            lambda batch, _: [batch.execute(request) for request in requests], self._derive_timeout_s
        )
        if batch.records:
            await self._committer.commit(batch, compares, publish=publish)
