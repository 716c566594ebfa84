"""What the nodes did, on its way into the journal: changes that the application hears of, and actions that are over."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice

from masterd.replication.replica import Replica
from masterd.state_machine.actions import DONE, Ending
from masterd.state_machine.batch import Outcome, Request
from masterd.term.committer import Committer
from masterd.term.journal import CompareFailed
from masterd.term.node_events import CHANGED, News, next_expiry, request_of
from masterd.term.submissions import ToldLater, Waiting
from nodestore.errors import Garbage, Invalid, LeadershipLost, NodectlError, OutcomeUnknown, TooLarge, Unavailable
from nodestore.etcd.session import Compare, Etcd
from nodestore.schema.keys import Keys

log = logging.getLogger(__name__)

_NEWS_MAX = 64
_EXPIRED_MAX = 3
"""Actions that expire by one commit. So few that the views surely go with it, whatever etcd takes at once: as long as
the view still has an action, and nobody has written `acted`, the node may begin it."""
_EXPIRE_AGAIN_S = 1.0


class Endings:
    """Of one term. derive_timeout_s: for what the nodes must be once an action of theirs is closed."""

    def __init__(
        self,
        etcd: Etcd,
        keys: Keys,
        news: News,
        replica: Replica,
        committer: Committer,
        derive_timeout_s: float,
        wake: Callable[[], None],
    ) -> None:
        self._etcd, self._keys, self._news = etcd, keys, news
        self._replica, self._committer = replica, committer
        self._derive_timeout_s, self._wake = derive_timeout_s, wake
        self._closing: set[str] = set()
        """Ids of the commands that wait to close an action."""
        self._unfit: set[str] = set()
        """Of those that were refused, for what the node told: it is left out at the next try."""
        self._expire_at = 0.0

    def commands(self) -> list[Waiting]:
        """What nodes did since this was asked last, as commands to be queued in this order."""
        state = self._replica.state
        ended = self._news.endings(state, self._committer.now, unbegun=False)
        endings = list(islice((ending for ending in ended if ending.id not in self._closing), _NEWS_MAX))
        self._closing.update(ending.id for ending in endings)
        told = (request_of(ending, bare=ending.id in self._unfit) for ending in endings)
        requests = [*self._news.changes(_NEWS_MAX, state), *told]
        return [Waiting(request, ToldLater(partial(self._heard, request))) for request in requests]

    def _heard(self, request: Request, outcome: Outcome) -> None:
        self._closing.discard(request.id)
        error = outcome.error
        if error is None:
            self._unfit.discard(request.id)
        if error is None or isinstance(error, LeadershipLost):
            return
        log.warning("%s of node %s: %s", request.name, request.actor, error)
        if request.name == CHANGED and isinstance(error, Unavailable | OutcomeUnknown):
            self._news.forget(request.actor)
        if request.name == DONE and isinstance(error, Invalid | TooLarge):
            self._unfit.add(request.id)
        self._wake()

    # --- actions that expire ---

    @property
    def due(self) -> bool:
        """Whether an action is to be closed that no node has begun in time; at most once a second."""
        expiry = next_expiry(self._replica.state)
        return expiry is not None and expiry < self._committer.now and time.monotonic() >= self._expire_at

    @property
    def due_in_s(self) -> float | None:
        """When that may be so at the earliest; None: while nothing else happens, never."""
        expiry = next_expiry(self._replica.state)
        if expiry is None:
            return None
        return max(self._expire_at - time.monotonic(), expiry - self._committer.now, 0.01)

    async def expire(self) -> None:
        """Close what no node has begun in time, if it still has not when this is committed."""
        self._expire_at = time.monotonic() + _EXPIRE_AGAIN_S
        late = list(islice(self._news.endings(self._replica.state, self._committer.now, unbegun=True), _EXPIRED_MAX))
        try:
            looked = [await self._news.reread(self._etcd, self._keys, ending) for ending in late]
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

    async def close_those_before(self, epoch: int) -> None:
        """A backup was restored: what is still to be done in it may have been done since. Before any view is written,
        so that no node is told to do it again."""
        every = self._news.endings(self._replica.state, self._committer.now, unbegun=False)
        old = [ending for ending in every if ending.action.epoch < epoch]
        for start in range(0, len(old), _NEWS_MAX):
            await self._close(old[start : start + _NEWS_MAX], publish=False)

    async def _close(
        self, endings: Sequence[Ending], compares: tuple[Compare, ...] = (), *, publish: bool = True
    ) -> None:
        requests = [request_of(ending) for ending in endings]
        batch, _ = await self._committer.run(
            lambda batch, _: [batch.run(request) for request in requests], self._derive_timeout_s
        )
        if batch.records:
            await self._committer.commit(batch, compares, publish=publish)
