"""Applies configurations and pauses takeovers in etcd. masterd and nodectl share this module.

An operator must be able to do so while no master runs. So nodectl writes these keys itself if it has etcd endpoints.
Each write is one transaction which compares that the key is unchanged since it was read. So a second copy of it changes
nothing, and if the outcome is unknown, the same transaction is sent again to find it out.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from nodestore.cluster.settled_writes import delete_settled, put_settled, swap
from nodestore.errors import Conflict, Garbage, Invalid, LeadershipLost, NodectlError
from nodestore.etcd.session import KV, Compare, Etcd, cmp_mod, op_put
from nodestore.schema.keys import Keys
from nodestore.schema.limits import ACTOR_BYTES_MAX, TEXT_BYTES_MAX, check_text
from nodestore.schema.models import ApplicationOrder, ConfigRecord, Inventory, Paused, decode, decode_or_none
from nodestore.support.json_rules import checked_copy
from nodestore.support.jsonio import Json, dumps


class Current(NamedTuple):
    """The content of `config/current`: a record, or why it cannot be read. Both are None if the key is absent."""

    record: ConfigRecord | None
    problem: str | None


def current_of(found: KV | None) -> Current:
    """Decodes `config/current`. Never raises Garbage."""
    try:
        return Current(decode(ConfigRecord, found.value, found.key) if found else None, None)
    except Garbage as error:
        return Current(None, str(error))


async def version_of(etcd: Etcd, keys: Keys, found: KV | None) -> int:
    """The version of the current configuration; 0 if none was ever applied. `found`: `config/current` as it was read.

    If `config/current` is unreadable or was deleted, this is the newest version in the history, so that the next
    version is greater than all before it.
    """
    if (record := current_of(found).record) is not None:
        return record.version
    history = await etcd.range(keys.config_history, keys_only=True)
    names = [kv.key.removeprefix(keys.config_history) for kv in history.kvs]
    return max((int(name) for name in names if name.isascii() and name.isdigit() and len(name) < 16), default=0)


def checked_inventory(inventory: Json) -> dict[str, Any]:
    """A copy of `inventory`. Invalid if it is not plain JSON or not a valid inventory."""
    # The inventory is checked within an object, because at adoption the leader checks the whole record, in which the
    # inventory is nested one level deeper.
    fields: dict[str, Any] = checked_copy({"inventory": inventory}, "inventory")["inventory"]
    _check_model(fields)
    return fields


async def _checked_inventory(inventory: Json) -> dict[str, Any]:
    """`checked_inventory` in steps, because heartbeats must be sent while the leader checks thousands of nodes."""
    fields: dict[str, Any] = checked_copy({"inventory": inventory}, "inventory")["inventory"]
    await asyncio.sleep(0)
    _check_model(fields)
    await asyncio.sleep(0)
    return fields


def _check_model(fields: Json) -> None:
    try:
        decode(Inventory, dumps(fields), "inventory")
    except Garbage as error:
        raise Invalid(str(error)) from None


class Configuration:
    """Reads and changes the configuration and the takeover pause of one cluster."""

    def __init__(self, etcd: Etcd, keys: Keys) -> None:
        self._etcd, self._keys = etcd, keys

    async def current(self) -> ConfigRecord | None:
        """The configuration that was applied last. Garbage if it cannot be read."""
        found = await self._etcd.get(self._keys.config_current)
        return decode(ConfigRecord, found.value, found.key) if found else None

    async def apply(
        self,
        inventory: Json,
        *,
        source: str,
        expect_version: int | None,
        actor: str,
        compares: Sequence[Compare] = (),
    ) -> int:
        """Writes `inventory` as the next version and returns that version. The leader adopts it afterwards.

        `expect_version`: the version that must be current (0: none; None: any). `compares`: those of a leader's fence.
        Invalid if the inventory may not be applied. Conflict if another version is current. LeadershipLost if the
        fence does not hold. OutcomeUnknown if etcd does not answer in time.
        """
        _check_version(expect_version)
        check_text(actor, "actor", ACTOR_BYTES_MAX)
        fields = await _checked_inventory(inventory)
        found = await self._etcd.get(self._keys.config_current)
        version = await version_of(self._etcd, self._keys, found)
        if expect_version is not None and version != expect_version:
            raise Conflict(
                f"the configuration is at version {version}, not {expect_version}: check the changes, then apply again"
            )
        record = ConfigRecord(
            version=version + 1, actor=checked_copy(actor, "actor"), time=time.time(), inventory=fields,
            source=checked_copy(source, "source"),
        )  # fmt: skip
        value, history = record.encode(), self._keys.config_version(record.version)
        unchanged = cmp_mod(self._keys.config_current, _revision(found))
        puts = [op_put(self._keys.config_current, value), op_put(history, value)]
        if not await swap(self._etcd, [*compares, unchanged], puts, history, value):
            raise await self._why_not_applied(found, record.version)
        return record.version

    async def _why_not_applied(self, before: KV | None, version: int) -> NodectlError:
        """The error for a failed transaction. If `config/current` has not changed, a compare of the fence failed."""
        now = await self._etcd.get(self._keys.config_current)
        if _revision(now) == _revision(before):
            return LeadershipLost("the term ended before the configuration was applied")
        return Conflict(f"another version {version} was applied at the same time: check the changes, then apply again")

    async def paused(self) -> Paused | None:
        """The takeover pause. None if there is none, or if it cannot be read: masters ignore an unreadable pause."""
        return decode_or_none(Paused, await self._etcd.get(self._keys.paused))

    async def pause(self, actor: str, reason: str) -> Paused:
        """Pauses automatic takeover and returns the pause as written. Replaces an earlier pause.

        Conflict if other writers changed the pause during each of five attempts. OutcomeUnknown if etcd does not
        answer in time.
        """
        actor = check_text(checked_copy(actor, "actor"), "actor", ACTOR_BYTES_MAX)
        reason = check_text(checked_copy(reason, "reason"), "reason", TEXT_BYTES_MAX)
        pause = Paused(actor=actor, time=time.time(), reason=reason)
        await put_settled(self._etcd, self._keys.paused, pause.encode(), "the pause")
        return pause

    async def adopt_application(self, name: str, replaces: str | None, actor: str) -> ApplicationOrder:
        """Orders that the application `name` may lead in place of `replaces`, the one that the journal records.

        Replaces an earlier order. Raises the same errors as `pause`.
        """
        name = check_text(checked_copy(name, "name"), "name", TEXT_BYTES_MAX)
        actor = check_text(checked_copy(actor, "actor"), "actor", ACTOR_BYTES_MAX)
        order = ApplicationOrder(name=name, replaces=replaces, actor=actor, time=time.time())
        await put_settled(self._etcd, self._keys.application, order.encode(), "the adopted application")
        return order

    async def resume(self) -> bool:
        """Ends the pause; returns False if there was none. Raises the same errors as `pause`."""
        return await delete_settled(self._etcd, self._keys.paused, "the pause")


def _check_version(expected: int | None) -> None:
    if expected is not None and (isinstance(expected, bool) or not isinstance(expected, int) or expected < 0):
        raise Invalid("expect_version: expected a whole number")


def _revision(found: KV | None) -> int:
    return found.mod_revision if found else 0
