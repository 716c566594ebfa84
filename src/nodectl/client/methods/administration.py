"""Methods for configuration, leadership and pause.

The configuration and the pause go through a master, which checks who may change them. With etcd endpoints, and if no
master answers, the client writes them to etcd itself, by compare-and-swap; etcd may refuse that to its user.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

from pydantic import ValidationError

from nodectl.client.connection.http import as_object, encode_body
from nodectl.client.connection.leadership import Leader, Leadership
from nodectl.client.connection.requests import Requests
from nodectl.client.methods.calls import ApiCalls
from nodestore.errors import Conflict, Denied, NodectlError, NotFound, OutcomeUnknown, Unavailable
from nodestore.schema import api_types
from nodestore.schema.api_types import ConfigSummary, Consistency, DrillKind, Switchover
from nodestore.schema.keys import Keys
from nodestore.schema.models import ConfigRecord, Inventory
from nodestore.support.jsonio import Json

if TYPE_CHECKING:
    from nodectl.client.etcd_direct.store_status import StoreStatus
    from nodestore.cluster.configuration import Configuration
    from nodestore.etcd.session import Etcd

T = TypeVar("T")


class AdministrationCalls(ApiCalls):
    """The operators' methods of Client, which provides the attributes."""

    actor: str
    _etcd: Etcd | None
    _keys: Keys | None
    _requests: Requests
    _leadership: Leadership
    _read_timeout_s: float
    _command_timeout_s: float

    # --- configuration ----------------------------------------------------------------------------------------------

    async def config(self, *, consistency: Consistency = "linearizable") -> ConfigSummary:
        """Return the configuration: `current` is the newest one applied, `adopted` the one in force.

        Without a master only `current` is known, and only with etcd endpoints; otherwise this raises Unavailable.
        """
        if self._etcd is None or self._keys is None or await self._has_leader():
            try:
                return cast(ConfigSummary, await self.get("/v1/config", consistency=consistency))
            except Unavailable:
                if self._etcd is None or self._keys is None:
                    raise
        if not self._leadership.has_answer:  # etcd has not answered discovery for the whole timeout: do not ask again
            raise Unavailable(self._leadership.trouble)
        from nodectl.client.etcd_direct.store_status import config_view  # here: importing gRPC is slow

        return await config_view(self._etcd, self._keys)

    async def _has_leader(self) -> bool:
        """Wait for the first answer of discovery; return whether it knows a leader."""
        deadline = time.monotonic() + self._read_timeout_s
        while not self._leadership.has_answer and (left_s := deadline - time.monotonic()) > 0:
            await self._leadership.wait_changed(left_s)
        return self._leadership.leader is not None

    async def config_apply(
        self, inventory: Mapping[str, Any], *, source: str = "", expect_version: int | None = None
    ) -> int:
        """Apply an inventory as a new configuration; return its version.

        `source`: the file it came from, for the history. `expect_version`: raise Conflict unless this version is
        current (0: there is none yet; None: do not check). Raises Invalid for an inventory that is not valid. The
        leader adopts the configuration afterwards: see `config()["adopted"]`.
        """
        fields = as_object(inventory, "inventory")
        return await self._by_master_or_store(
            lambda: self._apply_by_master(fields, source, expect_version),
            lambda store: store.apply(fields, source=source, expect_version=expect_version, actor=self.actor),
            has_master=self._has_leader,
        )

    async def _apply_by_master(self, fields: Json, source: str, expect_version: int | None) -> int:
        body: api_types.ConfigRequest = {
            "inventory": fields, "source": source, "expect_version": expect_version, "actor": self.actor,
        }  # fmt: skip
        try:
            answer: api_types.ConfigVersion = await self.change("PUT", "/v1/config", body)
        except (OutcomeUnknown, Conflict) as error:  # Conflict: an earlier attempt may have succeeded
            return await self._version_if_ours(body) or _raise(error)
        return answer["version"]

    async def _version_if_ours(self, body: api_types.ConfigRequest) -> int | None:
        """Return the current version if `body` produced it, else None."""
        current = (await self.config())["current"]
        if current is None:
            return None
        record = ConfigRecord.model_validate(current)
        before = record.version - 1 if body["expect_version"] is None else body["expect_version"]
        wanted = (before + 1, self.actor, body["source"], _normalized(body["inventory"]))
        found = (record.version, record.actor, record.source, _normalized(record.inventory))
        return record.version if found == wanted else None

    async def config_history(self, *, limit: int = 50) -> list[api_types.ConfigRecord | api_types.UnreadableConfig]:
        """Return at most `limit` configurations, newest first, each with `version`, `actor`, `time`, `inventory`."""
        found: api_types.ConfigHistory = await self.get("/v1/config/history", {"limit": limit})
        return found["versions"]

    async def config_rollback(self, version: int) -> int:
        """Apply an earlier configuration again as a new version; return that version. Raises NotFound."""
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
        """Hand leadership over to master `to`, or to the best candidate; return when the new leader is known.

        If the answer is lost, the request is not repeated, because a second switchover would undo the first. The
        client then waits for a newer term, and raises OutcomeUnknown if none appears within `timeout_s` (seconds).
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
        """Inject a fault into the leader: `kill` ends its process, `freeze` blocks it for `seconds`.

        `term`: the revision of the term that the fault is for. Raises Denied if the leader's masterd was started
        without --allow-drills, Conflict if takeovers are paused or another term has begun, and OutcomeUnknown if the
        answer is lost: the leader may already be dead.
        """
        body: api_types.DrillRequest = {"how": how, "seconds": seconds, "term": term, "actor": self.actor}
        return cast(api_types.Drill, await self.change("POST", "/v1/drill", body))

    def on_leader(self, callback: Callable[[Leader | None], None]) -> None:
        """Call `callback(leader)` in the event loop at each change of the known leader, until the client is closed.

        `leader` is None while no leader is known.
        """
        self._leadership.subscribe(lambda: callback(self._leadership.leader))

    async def adopt_application(self, name: str) -> api_types.ApplicationOrder:
        """Order that only masterds with the application `name` take over; the present leader goes on. Idempotent.

        Any masterd can serve this. Raises Conflict if no running masterd has this application.
        """
        body: api_types.AdoptRequest = {"name": name, "actor": self.actor}
        return cast(
            api_types.ApplicationOrder,
            await self._requests.to_any(
                "/v1/application", method="PUT", body=encode_body(body), timeout_s=self._read_timeout_s
            ),
        )

    async def paused(self) -> api_types.Paused | None:
        """Return the pause of automatic takeovers (`actor`, `reason`, `time`); None if they are not paused."""

        async def read(store: Configuration) -> api_types.Paused | None:
            found = await store.paused()
            return found.model_dump(mode="json") if found else None

        found = await self._by_master_or_store(lambda: self._pause_request("GET"), read)
        return cast(api_types.Paused | None, found or None)

    async def pause(self, reason: str = "") -> None:
        """Pause automatic takeovers: no master takes over by itself, even if the leader dies. Idempotent."""
        body: api_types.PauseRequest = {"actor": self.actor, "reason": reason}
        await self._by_master_or_store(
            lambda: self._pause_request("PUT", encode_body(body)), lambda store: store.pause(self.actor, reason)
        )

    async def resume(self) -> None:
        """End the pause of automatic takeovers. Idempotent."""
        await self._by_master_or_store(lambda: self._pause_request("DELETE"), lambda store: store.resume())

    async def _pause_request(self, method: str, body: bytes | None = None) -> object:
        """Any masterd serves it, also while there is no leader: a pause may be the reason for that."""
        return await self._requests.to_any("/v1/paused", method=method, body=body, timeout_s=self._read_timeout_s)

    async def _by_master_or_store(
        self,
        by_master: Callable[[], Awaitable[T]],
        in_store: Callable[[Configuration], Awaitable[T]],
        has_master: Callable[[], Awaitable[bool]] | None = None,
    ) -> T:
        """Return the result of `by_master`; with etcd endpoints, and if no master answers, that of `in_store`.

        `by_master` must raise Unavailable only if it had no effect. has_master: whether a master may answer; by
        default, whether any is known.
        """
        store = self._store()
        if store is None:
            return await by_master()
        reason: object = "none is known"
        if await (has_master or self._has_master)():
            try:
                return await by_master()
            except Unavailable as error:
                reason = error
        try:
            return await in_store(store)
        except Denied as error:
            raise Denied(
                f"no master answers ({reason}), and this user may not do it in etcd itself ({error}): start a masterd, "
                "or use a certificate of kind maintenance"
            ) from None

    async def _has_master(self) -> bool:
        return bool(await self._requests.urls())

    async def status_of_store(self) -> StoreStatus | None:
        """Return the status as far as etcd alone shows it: members, leader, candidates, pause, configuration.

        For use while no masterd answers. None without etcd endpoints; Unavailable if etcd does not answer either.
        """
        if self._etcd is None or self._keys is None:
            return None
        from nodectl.client.etcd_direct.store_status import status_of_store  # here: importing gRPC is slow

        return await status_of_store(self._etcd, self._keys)

    def _store(self) -> Configuration | None:
        """Return the access to configuration and pause in etcd; None without etcd endpoints."""
        if self._etcd is None or self._keys is None:
            return None
        from nodestore.cluster.configuration import Configuration  # here: importing gRPC is slow

        return Configuration(self._etcd, self._keys)


def _normalized(inventory: Json) -> Inventory | Json:
    """Return the inventory with its defaults filled in, for a comparison; unchanged if it is not valid."""
    try:
        return Inventory.without_name_check(inventory)
    except ValidationError:
        return inventory


def _raise(error: NodectlError) -> NoReturn:
    raise error from None
