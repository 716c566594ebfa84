"""Configuration comes into force by a journal entry that holds it. Garbage leaves the last one in force."""

from __future__ import annotations

import asyncio
import logging

from pydantic import ValidationError

from masterd.application.worker import HungError
from masterd.replication.cluster_view import ClusterView
from masterd.replication.replica import Replica
from masterd.state_machine.batch import Batch
from masterd.term.committer import Committer
from masterd.term.journal import CompareFailed
from nodestore.errors import Garbage, LeadershipLost, NodectlError, OutcomeUnknown, TooLarge, Unavailable
from nodestore.etcd.session import KV, Etcd, cmp_mod
from nodestore.schema.keys import Keys
from nodestore.schema.models import ConfigRecord, decode, first_problem

log = logging.getLogger(__name__)

_RETRY_S = 0.2


class ConfigAdopter:
    """The leader's, for one term."""

    def __init__(
        self, etcd: Etcd, keys: Keys, cluster_view: ClusterView, replica: Replica, committer: Committer, limit_s: float
    ) -> None:
        self._etcd, self._keys, self._cluster_view, self._replica = etcd, keys, cluster_view, replica
        self._committer, self._limit_s = committer, limit_s
        self.rejection: tuple[int, str] | None = None
        """config/current's mod_revision and why it is not adopted."""

    def is_due(self, config: KV | None) -> bool:
        """Whether this value of `config/current` is still to be adopted, or refused."""
        if config is None or (self.rejection is not None and self.rejection[0] == config.mod_revision):
            return False
        adopted = self._replica.state.adopted
        return adopted is None or adopted.revision != config.mod_revision

    async def adopt(self, config: KV | None) -> None:
        """Bring it into force, or note why not. LeadershipLost, OutcomeUnknown: the term is over."""
        if config is None or not self.is_due(config):
            return
        try:
            await self._commit(config)
        except CompareFailed:
            log.info("config/current changed while it was being adopted; looking again")
            await self._refetch_config()
        except (LeadershipLost, OutcomeUnknown):
            raise
        except TooLarge as error:
            self._reject(config, error)
        except NodectlError as error:
            log.warning("adopting configuration later: %s", error)
            await asyncio.sleep(_RETRY_S)

    async def _commit(self, config: KV) -> None:
        """Adopt it. What is wrong with it rejects it; errors that are raised are the commit's."""
        try:
            record = decode(ConfigRecord, config.value, config.key)
            batch, wrong = await self._committer.run_batch(
                lambda batch, _: _adoption_error(batch, record, config.mod_revision), self._limit_s
            )
        except HungError as error:
            self._reject(config, NodectlError(f"what the application says the nodes must be {error}"))
            return
        except Garbage as error:
            self._reject(config, error)
            return
        if wrong is not None:
            await self._committer.undo(batch)
            self._reject(config, wrong)
            return
        await self._committer.commit(batch, (cmp_mod(config.key, config.mod_revision),))
        self.rejection = None
        log.info("adopted configuration version %d as index %d", record.version, self._replica.index)

    def _reject(self, config: KV, error: ValidationError | NodectlError) -> None:
        self.rejection = (config.mod_revision, _one_line(error))
        log.error("config/current is not adopted: %s", self.rejection[1])

    async def _refetch_config(self) -> None:
        """The watch may lag behind the compare that failed: look for ourselves."""
        try:
            self._cluster_view.config = await self._etcd.get(self._keys.config_current)
        except Unavailable as error:
            log.warning("adopting configuration later: %s", error)
            await asyncio.sleep(_RETRY_S)


def _adoption_error(batch: Batch, record: ConfigRecord, revision: int) -> ValidationError | NodectlError | None:
    """Adopt it in this batch; what is wrong with it, if anything is."""
    try:
        batch.adopt(record, revision)
    except (ValidationError, NodectlError) as error:
        return error
    return None


def _one_line(error: Exception) -> str:
    return first_problem(error) if isinstance(error, ValidationError) else str(error)
