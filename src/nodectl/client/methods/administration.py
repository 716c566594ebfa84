"""Configuration and leadership, as a client operates them.

With etcd endpoints, configuration and pause are written to etcd by compare-and-swap: both must be possible while no
master runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, cast

from pydantic import ValidationError

from nodectl.client.connection.http import encode_body
from nodectl.client.connection.leadership import Leader, Leadership
from nodectl.client.connection.requests import Requests
from nodectl.client.methods.calls import ApiCalls
from nodestore.errors import Conflict, NodectlError, NotFound, OutcomeUnknown, Unavailable
from nodestore.schema import api_types
from nodestore.schema.api_types import ConfigSummary, Consistency, DrillKind, Switchover
from nodestore.schema.keys import Keys
from nodestore.schema.models import ConfigRecord, Inventory
from nodestore.support.jsonio import Json

if TYPE_CHECKING:
    from nodectl.client.etcd_direct.store_status import StoreStatus
    from nodestore.cluster.configuration import Configuration
    from nodestore.etcd.session import Etcd


class AdministrationCalls(ApiCalls):
    """What operators do with a cluster. The attributes are Client's."""

    actor: str
    _etcd: Etcd | None
    _keys: Keys | None
    _requests: Requests
    _leadership: Leadership
    _read_timeout_s: float
    _command_timeout_s: float

    # --- configuration ----------------------------------------------------------------------------------------------

    async def config(self, *, consistency: Consistency = "linearizable") -> ConfigSummary:
        """The configuration: `current` as applied, `adopted` as in force. Without a master only `current` is known."""
        if self._etcd is None or self._keys is None or await self._has_leader():
            try:
                return cast(ConfigSummary, await self.get("/v1/config", consistency=consistency))
            except Unavailable:
                if self._etcd is None or self._keys is None:
                    raise
        if not self._leadership.has_answer:  # etcd has kept silent all that time already
            raise Unavailable(self._leadership.trouble)
        from nodectl.client.etcd_direct.store_status import config_view  # grpc: only for those who need it

        return await config_view(self._etcd, self._keys)

    async def _has_leader(self) -> bool:
        """Whether discovery knows a leader, once it has looked."""
        deadline = time.monotonic() + self._read_timeout_s
        while not self._leadership.has_answer and (left_s := deadline - time.monotonic()) > 0:
            await self._leadership.wait_changed(left_s)
        return self._leadership.leader is not None

    async def config_apply(
        self, inventory: Mapping[str, Any], *, source: str = "", expect_version: int | None = None
    ) -> int:
        """Applies an inventory; its version. `expect_version`: Conflict if another is current (0: none; None: any).

        The leader adopts it afterwards: see `config()["adopted"]`.
        """
        store = self._store()
        if store is not None:
            return await store.apply(dict(inventory), source=source, expect_version=expect_version, actor=self.actor)
        body: api_types.ConfigRequest = {
            "inventory": dict(inventory), "source": source, "expect_version": expect_version, "actor": self.actor,
        }  # fmt: skip
        try:
            answer: api_types.ConfigVersion = await self.change("PUT", "/v1/config", body)
        except (OutcomeUnknown, Conflict) as error:  # Conflict: with a copy of ours that the connection repeated
            return await self._version_if_ours(body) or _raise(error)
        return answer["version"]

    async def _version_if_ours(self, body: api_types.ConfigRequest) -> int | None:
        """The present version if it is what `body` asked for, else None."""
        current = (await self.config())["current"]
        if current is None:
            return None
        record = ConfigRecord.model_validate(current)
        before = record.version - 1 if body["expect_version"] is None else body["expect_version"]
        wanted = (before + 1, self.actor, body["source"], _meaning(body["inventory"]))
        found = (record.version, record.actor, record.source, _meaning(record.inventory))
        return record.version if found == wanted else None

    async def config_history(self, *, limit: int = 50) -> list[api_types.ConfigRecord | api_types.UnreadableConfig]:
        """The configurations that were applied, newest first, each with `version`, `actor`, `time`, `inventory`."""
        found: api_types.ConfigHistory = await self.get("/v1/config/history", {"limit": limit})
        return found["versions"]

    async def config_rollback(self, version: int) -> int:
        """Applies an earlier configuration again, as a new version; that version."""
        found = await self.config_history(limit=1000)
        for record in found:
            if "problem" not in record and record.get("version") == version:
                newest = max(int(item["version"] or 0) for item in found)
                return await self.config_apply(
                    record["inventory"], source=record.get("source", ""), expect_version=newest
                )
        raise NotFound(f"there is no configuration version {version} (nodectl config history)")

    # --- leadership -------------------------------------------------------------------------------------------------

    async def switchover(self, to: str | None = None, *, timeout_s: float | None = None) -> Switchover:
        """Hands leadership to master `to`, or to the best candidate; returns when the new one is known.

        Not repeated when its answer is lost: a second switchover would undo the first. A newer term settles it.
        """
        timeout_s = self._command_timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + timeout_s
        before = await self._requests.leader(timeout_s)
        order: api_types.SwitchoverRequest = {"actor": self.actor}
        if to is not None:
            order["to"] = to
        try:
            answer = await self._requests.to_leader(
                "POST", "/v1/leader/switchover", body=encode_body(order), timeout_s=timeout_s, repeatable=False
            )
            return cast(Switchover, answer)
        except OutcomeUnknown:
            while (left_s := deadline - time.monotonic()) > 0:
                now = self._leadership.leader
                if now is not None and now.term > before.term and to in (None, now.id):
                    epoch, revision = now.term
                    return {"from": before.id, "to": now.id, "term": {"epoch": epoch, "revision": revision}}
                await self._leadership.wait_changed(left_s)
            raise

    async def drill(self, how: DrillKind, *, seconds: float | None = None, term: int | None = None) -> api_types.Drill:
        """Ends the leader abruptly (`kill`), or has it do nothing for `seconds` (`freeze`), if its masterd was started
        with --allow-drills. `term`: the revision of the only term that this is meant for. Denied, or Conflict when
        takeovers are paused or another leads; OutcomeUnknown when it did not say that it will: it may be dead already.
        """
        body: api_types.DrillRequest = {"how": how, "seconds": seconds, "term": term, "actor": self.actor}
        return cast(api_types.Drill, await self.change("POST", "/v1/drill", body))

    def on_leader(self, callback: Callable[[Leader | None], None]) -> None:
        """Calls `callback(leader)` in the event loop whenever another leader, or none, is found, as long as this client
        lives."""
        self._leadership.subscribe(lambda: callback(self._leadership.leader))

    async def paused(self) -> api_types.Paused | None:
        """Who paused automatic takeover, when and why; None when nobody did."""
        store = self._store()
        if store is not None:
            found = await store.paused()
            return found.model_dump(mode="json") if found else None
        return cast(api_types.Paused | None, await self.get("/v1/paused")) or None

    async def pause(self, reason: str = "") -> None:
        """From now on no master takes over by itself, not even when the leader dies."""
        store = self._store()
        if store is not None:
            await store.pause(self.actor, reason)
            return
        body: api_types.PauseRequest = {"actor": self.actor, "reason": reason}
        await self._requests.to_leader("PUT", "/v1/paused", body=encode_body(body), timeout_s=self._read_timeout_s)

    async def resume(self) -> None:
        """Ends the pause, if there is one."""
        store = self._store()
        if store is not None:
            await store.resume()
        else:
            await self._requests.to_leader("DELETE", "/v1/paused", timeout_s=self._read_timeout_s)

    async def status_of_store(self) -> StoreStatus | None:
        """What etcd itself shows while no masterd answers: members, leader, candidates, pause. None without etcd
        endpoints; Unavailable when etcd does not answer either."""
        if self._etcd is None or self._keys is None:
            return None
        from nodectl.client.etcd_direct.store_status import status_of_store  # grpc: only for those who need it

        return await status_of_store(self._etcd, self._keys)

    def _store(self) -> Configuration | None:
        """What is written to etcd itself; None without etcd endpoints."""
        if self._etcd is None or self._keys is None:
            return None
        from nodestore.cluster.configuration import Configuration  # grpc: only for those who need it

        return Configuration(self._etcd, self._keys)


def _meaning(inventory: Json) -> Inventory | Json:
    """The inventory with its defaults filled in; as it is, if it is none."""
    try:
        return Inventory.without_name_check(inventory)
    except ValidationError:
        return inventory


def _raise(error: NodectlError) -> NoReturn:
    raise error from None
