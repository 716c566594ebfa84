"""The wiring of one term: creates all of its parts, and shows which part uses which."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from masterd.application.contract import Application
from masterd.election.timeline import Timeline
from masterd.replication.cluster_view import ClusterView
from masterd.replication.replica import Replica
from masterd.state_machine.leader_clock import LeaderClock
from masterd.term.action_closing import ActionCloser
from masterd.term.archive import SnapshotArchive
from masterd.term.batch_runner import BatchRunner
from masterd.term.challenge_responder import ChallengeResponder
from masterd.term.command_queue import CommandQueue
from masterd.term.committer import Committer, LeaderSettings
from masterd.term.config_adoption import ConfigAdopter
from masterd.term.derivation.hung_nodes import HungNodes
from masterd.term.derivation.warm_start import WarmStart
from masterd.term.node_events import NodeEvents
from masterd.term.read_index import ReadIndex
from masterd.term.repair.store_repair import StoreRepair
from masterd.term.restore import SnapshotRestorer
from masterd.term.results.forgetter import ResultForgetter
from masterd.term.results.recall import ResultRecall
from masterd.term.retention import JournalRetention
from masterd.term.takeover_record import TakeoverRecord
from masterd.term.term_end import TermEnd
from masterd.upkeep.removed_nodes import RemovedNodes
from masterd.upkeep.space_keeper import SpaceKeeper
from nodestore.cluster.election import TakeoverWon
from nodestore.errors import NoSpace
from nodestore.etcd.session import Etcd
from nodestore.schema.keys import Keys


@dataclass(frozen=True, slots=True, kw_only=True)
class TermParts:
    """The parts of one term: first what the caller passed in, then the objects that live as long as the term."""

    etcd: Etcd
    keys: Keys
    master: str
    won: TakeoverWon
    replica: Replica
    cluster_view: ClusterView
    settings: LeaderSettings
    space_keeper: SpaceKeeper | None
    warm_start: WarmStart | None

    wake: asyncio.Event
    """Wakes the task that commits."""
    serving: asyncio.Event
    """Set while the leader serves clients."""
    term_end: TermEnd
    takeover_record: TakeoverRecord
    read_index: ReadIndex
    committer: Committer
    queue: CommandQueue
    batch_runner: BatchRunner
    config_adopter: ConfigAdopter
    node_events: NodeEvents
    action_closer: ActionCloser
    retention: JournalRetention
    store_repair: StoreRepair
    archive: SnapshotArchive
    result_forgetter: ResultForgetter
    result_recall: ResultRecall
    challenge_responder: ChallengeResponder
    removed_nodes: RemovedNodes
    hung_nodes: HungNodes


def build_term_parts(
    etcd: Etcd,
    keys: Keys,
    *,
    master: str,
    won: TakeoverWon,
    replica: Replica,
    cluster_view: ClusterView,
    application: Application,
    settings: LeaderSettings,
    space_keeper: SpaceKeeper | None = None,
    timeline: Timeline | None = None,
    warm_start: WarmStart | None = None,
    wall_clock: Callable[[], float] = time.time,
    target_time: Callable[[], float] | None = None,
) -> TermParts:
    """Create the parts of the term that was won, for `Leader`.

    master: the id of this masterd. timeline: that of the takeover. wall_clock: returns seconds since the Unix epoch.
    target_time: the time by the clocks of the PCs; None: by `wall_clock`.
    """
    fence, derive_s = won.fence, settings.derive_timeout_s

    def space_refusal() -> NoSpace | None:
        return None if space_keeper is None else space_keeper.refusal()

    wake, serving = asyncio.Event(), asyncio.Event()
    term_end = TermEnd(wake)
    takeover_record = TakeoverRecord(etcd, keys, fence, timeline or Timeline(), serving)

    read_index = ReadIndex(etcd, keys, fence)
    clock = LeaderClock(
        replica.state.time, replica.elapsed_time.now(time.monotonic()), time.monotonic, target_time or wall_clock
    )
    committer = Committer(etcd, keys, won, replica, application, settings, clock)
    queue = CommandQueue(settings.queue_max, term_end, takeover_record, space_refusal, wake, committer.pace)
    retention = JournalRetention(
        fence, replica, committer.publisher, settings.retention, wall_clock, budget=settings.budget
    )  # fmt: skip
    archive = SnapshotArchive(fence, retention)
    result_forgetter = ResultForgetter(
        master, settings.budget.ids_bytes_max, replica, committer, retention,
        lambda: space_keeper is not None and space_keeper.is_refusing,
    )  # fmt: skip
    restorer = SnapshotRestorer(archive, retention, committer, derive_s)
    batch_runner = BatchRunner(
        queue, committer, read_index, restorer, replica, takeover_record, term_end, settings
    )  # fmt: skip

    node_events = NodeEvents(cluster_view, application, fence.term.epoch, wake.set)
    action_closer = ActionCloser(etcd, keys, node_events, replica, committer, derive_s, wake.set)
    config_adopter = ConfigAdopter(etcd, keys, cluster_view, replica, committer, derive_s, settings.handler_timeout_s)
    challenge_responder = ChallengeResponder(etcd, keys, fence, cluster_view)

    store_repair = StoreRepair(
        etcd, keys, fence, replica=replica, cluster_view=cluster_view, retention=retention, committer=committer,
        settings=settings, wake=wake.set,
    )  # fmt: skip

    return TermParts(
        etcd=etcd, keys=keys, master=master, won=won, replica=replica, cluster_view=cluster_view, settings=settings,
        space_keeper=space_keeper, warm_start=warm_start, wake=wake, serving=serving, term_end=term_end,
        takeover_record=takeover_record, read_index=read_index, committer=committer, queue=queue,
        batch_runner=batch_runner, config_adopter=config_adopter, node_events=node_events,
        action_closer=action_closer, retention=retention, archive=archive, result_forgetter=result_forgetter,
        result_recall=ResultRecall(etcd, keys), challenge_responder=challenge_responder,
        removed_nodes=RemovedNodes(etcd, keys, fence, replica, cluster_view), store_repair=store_repair,
        hung_nodes=HungNodes(replica, application, committer, settings.derivation.node_s, wake.set),
    )  # fmt: skip
