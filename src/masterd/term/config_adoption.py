"""Adopts `config/current` by a journal entry that holds it.

An unreadable or invalid configuration is rejected, and the last adopted one stays in force.
"""

from __future__ import annotations

import asyncio
import logging

from pydantic import ValidationError

from masterd.application.worker import HungError
from masterd.replication.cluster_view import ClusterView
from masterd.replication.replica import Replica
from masterd.state_machine.batch import Batch
from masterd.state_machine.transaction import Overlay
from masterd.term.committer import Committer
from masterd.term.journal import CompareFailed
from nodestore.errors import Garbage, LeadershipLost, NodectlError, OutcomeUnknown, TooLarge, Unavailable
from nodestore.etcd.session import KV, Etcd, cmp_mod
from nodestore.schema.keys import Keys
from nodestore.schema.models import ConfigRecord, decode, first_problem

log = logging.getLogger(__name__)

_RETRY_S = 0.2


class ConfigAdopter:
    """Adopts configurations for one term.

    limit_s: limit for deriving all specs. handler_limit_s: limit for the application's `config_changed`.
    """

    def __init__(
        self,
        etcd: Etcd,
        keys: Keys,
        cluster_view: ClusterView,
        replica: Replica,
        committer: Committer,
        limit_s: float,
        handler_limit_s: float,
    ) -> None:
        self._etcd, self._keys, self._cluster_view, self._replica = etcd, keys, cluster_view, replica
        self._committer, self._limit_s, self._handler_limit_s = committer, limit_s, handler_limit_s
        self.rejection: tuple[int, str] | None = None
        """The mod_revision of the rejected `config/current`, and the reason."""
        self._hung_revision = 0
        """The mod_revision of the last configuration for which `config_changed` hung; 0 if it never did."""

    def is_due(self, config: KV | None) -> bool:
        """Whether this value of `config/current` is neither adopted nor rejected yet."""
        if config is None or (self.rejection is not None and self.rejection[0] == config.mod_revision):
            return False
        adopted = self._replica.state.adopted
        return adopted is None or adopted.revision != config.mod_revision

    async def adopt(self, config: KV | None) -> None:
        """Adopt this value of `config/current`, or record why it is rejected.

        Raises LeadershipLost and OutcomeUnknown, which end the term. If the value can be neither adopted nor rejected
        now, for example because etcd does not answer, it stays due.
        """
        if config is None or not self.is_due(config):
            return
        try:
            await self._commit(config)
        except CompareFailed:
            log.info("config/current changed while it was being adopted; reading it again")
            await self._refetch_config()
        except (LeadershipLost, OutcomeUnknown):
            raise
        except TooLarge as error:
            self._reject(config, error)
        except NodectlError as error:
            log.warning("could not adopt config/current, trying again: %s", error)
            await asyncio.sleep(_RETRY_S)

    async def _commit(self, config: KV) -> None:
        """Commit the adoption, or reject the configuration. Raises only the errors of the commit."""
        try:
            record = decode(ConfigRecord, config.value, config.key)
            batch, adoption_error = await self._run_with_changes(record, config.mod_revision)
        except HungError as error:
            self._reject(config, NodectlError(f"cannot derive the specs of the nodes: the application {error}"))
            return
        except Garbage as error:
            self._reject(config, error)
            return
        if adoption_error is not None:
            await self._committer.undo(batch)
            self._reject(config, adoption_error)
            return
        await self._committer.commit(batch, (cmp_mod(config.key, config.mod_revision),))
        self.rejection = None
        log.info("adopted configuration version %d as index %d", record.version, self._replica.index)

    async def _run_with_changes(
        self, record: ConfigRecord, revision: int
    ) -> tuple[Batch, ValidationError | NodectlError | None]:
        """Run a batch that adopts the configuration, with the writes of the application's `config_changed` if possible.

        Returns the batch, and why the configuration cannot be adopted, or None. One entry holds the adoption and the
        writes. So they are atomic, and the writes happen exactly once: after a takeover, either the entry is in the
        journal, or the new leader runs `config_changed` again.
        """
        changes = await self._run_handler(record, revision)
        if changes is not None:
            error: Exception | None
            try:
                batch, error = await self._run_adoption(record, revision, changes)
            except HungError as hung:
                error = hung
            else:
                if error is None:
                    return batch, None
                await self._committer.undo(batch)
            log.error("configuration version %d: adopting it without the writes of the application: %s",
                      record.version, _one_line(error))  # fmt: skip
        return await self._run_adoption(record, revision, None)

    async def _run_handler(self, record: ConfigRecord, revision: int) -> Overlay | None:
        if revision == self._hung_revision:
            return None  # each further attempt would abandon one more thread that hangs
        try:
            return (
                await self._committer.run_batch(lambda batch, _: _handler_writes(batch, record), self._handler_limit_s)
            )[1]
        except HungError as error:
            self._hung_revision = revision
            log.error("configuration version %d: the application's config_changed %s", record.version, error)
            return None

    async def _run_adoption(
        self, record: ConfigRecord, revision: int, changes: Overlay | None
    ) -> tuple[Batch, ValidationError | NodectlError | None]:
        return await self._committer.run_batch(
            lambda batch, _: _adoption_error(batch, record, revision, changes), self._limit_s
        )

    def _reject(self, config: KV, error: ValidationError | NodectlError) -> None:
        self.rejection = (config.mod_revision, _one_line(error))
        log.error("config/current is not adopted: %s", self.rejection[1])

    async def _refetch_config(self) -> None:
        """Read `config/current` directly, because the watch may lag behind the compare that failed."""
        try:
            self._cluster_view.config = await self._etcd.get(self._keys.config_current)
        except Unavailable as error:
            log.warning("could not adopt config/current, trying again: %s", error)
            await asyncio.sleep(_RETRY_S)


def _handler_writes(batch: Batch, record: ConfigRecord) -> Overlay | None:
    try:
        return batch.run_config_handler(record)
    except (ValidationError, NodectlError):
        return None  # the configuration is not a valid inventory: `_adoption_error` reports that


def _adoption_error(
    batch: Batch, record: ConfigRecord, revision: int, changes: Overlay | None
) -> ValidationError | NodectlError | None:
    """Adopt the configuration in this batch; return why it cannot be adopted, or None."""
    try:
        batch.adopt(record, revision, changes)
    except (ValidationError, NodectlError) as error:
        return error
    return None


def _one_line(error: Exception) -> str:
    return first_problem(error) if isinstance(error, ValidationError) else str(error)
