"""What nodectl writes into etcd itself, by compare-and-swap: the configuration, and the pause.

Both must be possible while no master runs. Each write is one transaction that compares what was read, so a
transaction whose outcome is unknown may be sent again as it is: it lands once or not at all.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from nodectl.client.wire import ConfigView
from nodestore.errors import Conflict, Garbage, NoSpace, NoSpaceUnknown, OutcomeUnknown, Unavailable
from nodestore.keys import Keys
from nodestore.models import ConfigRecord, Paused, decode

if TYPE_CHECKING:
    from nodestore.etcd import KV, Compare, Etcd, Op

_ATTEMPTS = 5


class ClusterStore:
    """The keys of one cluster that nodectl may write."""

    def __init__(self, etcd: Etcd, keys: Keys) -> None:
        self._etcd = etcd
        self._keys = keys

    async def config(self) -> ConfigRecord | None:
        """The configuration applied last. Garbage when it is not readable."""
        found = await self._etcd.get(self._keys.config_current)
        return decode(ConfigRecord, found.value, found.key) if found else None

    async def config_view(self) -> ConfigView:
        """What is known of the configuration without a master."""
        from nodestore.config_versions import version_of

        found = await self._etcd.get(self._keys.config_current)
        view: ConfigView = {"current": None, "problem": None, "adopted": None, "rejected": None}
        view["version"] = await version_of(self._etcd, self._keys, found)
        if found is not None:
            try:
                view["current"] = decode(ConfigRecord, found.value, found.key).model_dump(mode="json")
            except Garbage as error:
                view["problem"] = str(error)
        return view

    async def apply_config(self, inventory: dict[str, Any], source: str, expect_version: int | None, actor: str) -> int:
        """The version it was given. Conflict when `expect_version` (0: none) is not the present one."""
        from nodestore.config_versions import version_of
        from nodestore.etcd import cmp_mod, op_put

        found = await self._etcd.get(self._keys.config_current)
        version = await version_of(self._etcd, self._keys, found)
        if expect_version is not None and version != expect_version:
            raise Conflict(f"the configuration is at version {version} now, not {expect_version}: look at the changes")
        record = ConfigRecord(version=version + 1, actor=actor, time=time.time(), inventory=inventory, source=source)
        value, history = record.encode(), self._keys.config_version(record.version)
        landed = await self._swap(
            [cmp_mod(self._keys.config_current, found.mod_revision if found else 0)],
            [op_put(self._keys.config_current, value), op_put(history, value)],
            history,
            value,
        )
        if not landed:
            raise Conflict(f"somebody applied version {record.version} at the same time: look at the changes")
        return record.version

    async def paused(self) -> Paused | None:
        """The pause; None when there is none, or none that anybody can read: masters pass over such a one."""
        found = await self._etcd.get(self._keys.paused)
        try:
            return decode(Paused, found.value, found.key) if found else None
        except Garbage:
            return None

    async def pause(self, actor: str, reason: str) -> None:
        """From now on nobody takes over by itself. Over an earlier pause it puts the new reason."""
        from nodestore.etcd import cmp_mod, op_put

        for _ in range(_ATTEMPTS):
            found = await self._etcd.get(self._keys.paused)
            value = Paused(actor=actor, time=time.time(), reason=reason).encode()
            compare = cmp_mod(self._keys.paused, _revision(found))
            if await self._swap([compare], [op_put(self._keys.paused, value)], self._keys.paused, value):
                return
        raise Conflict("others pause and resume at the same time: try again")

    async def resume(self) -> bool:
        """Ends the pause; False when there was none."""
        from nodestore.etcd import cmp_mod, op_delete

        for _ in range(_ATTEMPTS):
            found = await self._etcd.get(self._keys.paused)
            if found is None:
                return False
            compare = cmp_mod(self._keys.paused, found.mod_revision)
            if await self._swap([compare], [op_delete(self._keys.paused)], self._keys.paused, None):
                return True
        raise Conflict("others pause and resume at the same time: try again")

    async def _swap(self, compares: list[Compare], ops: list[Op], evidence: str, value: bytes | None) -> bool:
        """Whether the transaction landed; `evidence` holds `value` exactly if it did (None: is absent)."""
        unknown: OutcomeUnknown | None = None
        for _ in range(_ATTEMPTS):
            try:
                result = await self._etcd.txn(compares, ops)
            except NoSpaceUnknown as error:
                found = await self._etcd.get(evidence)
                if (found.value if found else None) == value:
                    return True
                raise unknown or NoSpace(str(error)) from None
            except OutcomeUnknown as error:
                unknown = error
                continue
            except Unavailable:
                if unknown is not None:  # that this copy did not land says nothing of the first
                    raise unknown from None
                raise
            if result.succeeded or unknown is None:
                return result.succeeded
            found = await self._etcd.get(evidence)
            return (found.value if found else None) == value
        raise unknown or Unavailable("etcd does not answer")


def _revision(found: KV | None) -> int:
    return found.mod_revision if found else 0
