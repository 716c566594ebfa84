"""Runs `snapshot.restore`, the one command whose documents come from etcd and not from the state in memory."""

from __future__ import annotations

from masterd.application.worker import HungError
from masterd.state_machine.batch import SNAPSHOT_RESTORE, Batch, CommandOutcome, CommandRequest
from masterd.term.archive import SnapshotArchive
from masterd.term.committer import Committer
from masterd.term.journal import TermBroken
from masterd.term.retention import JournalRetention
from nodestore.errors import LeadershipLost, NodectlError


class SnapshotRestorer:
    """Runs restores for one term. limit_s: limit for deriving all specs from the restored documents."""

    def __init__(
        self, archive: SnapshotArchive, retention: JournalRetention, committer: Committer, limit_s: float
    ) -> None:
        self._archive, self._retention, self._committer, self._limit_s = archive, retention, committer, limit_s

    async def run(self, request: CommandRequest) -> tuple[Batch | None, CommandOutcome]:
        """Run a restore as a batch of its own; return the batch (None if the command was refused) and the outcome.

        The snapshot is pinned until `release` is called. Raises LeadershipLost and TermBroken.
        """
        try:
            name, documents = await self._archive.prepare_restore(request.args)
            return await self._committer.run_batch(
                lambda batch, _: batch.restore(request, name, documents), self._limit_s
            )
        except (LeadershipLost, TermBroken):
            raise
        except HungError as error:
            refusal = NodectlError(f"{SNAPSHOT_RESTORE} {error} in the application")
            return None, CommandOutcome(request.id, error=refusal)
        except NodectlError as error:
            return None, CommandOutcome(request.id, error=error)

    def release(self) -> None:
        """Unpin all snapshots. Call this after the commit: the entry, if committed, now protects its snapshot."""
        self._retention.pinned.clear()
