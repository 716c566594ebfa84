"""`Client`: a cluster as a program sees it. See docs/client.md for how it behaves when masters die."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import logging
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self, cast

from nodectl.client.archive import Archive
from nodectl.client.backoff import pause_s
from nodectl.client.cluster_store import ClusterStore
from nodectl.client.discovery import Discovery, EtcdDiscovery, HttpDiscovery
from nodectl.client.errors import Broken
from nodectl.client.events import events
from nodectl.client.http import Http, Tls, cancel_all, encode
from nodectl.client.leadership import Leader, Leadership
from nodectl.client.monitor import watch_over
from nodectl.client.pipeline import Pipeline
from nodectl.client.requests import Requests
from nodectl.client.state import ConnectionState, State
from nodectl.client.wire import CommandResult, ConfigView, Consistency, NodeChanges, SwitchoverView
from nodectl.endpoints import parse_endpoints
from nodestore.errors import Conflict, Invalid, NodectlError, OutcomeUnknown, TooOld, Unavailable
from nodestore.jsonio import loads
from nodestore.keys import Keys
from nodestore.models import ConfigRecord, Inventory

if TYPE_CHECKING:
    from nodestore.etcd import Etcd

log = logging.getLogger(__name__)

READ_S = 10.0
COMMAND_S = 30.0
LOST_AFTER_S = 30.0


class Client(Archive):
    """Use as `async with Client(endpoints, cluster=...) as client:`. One event loop, any number of tasks.

    `endpoints`: `host:port` of etcd members (then `cluster` is needed), or `http://host:port` of masterds.
    `user` and `password` are etcd's; `ca`, `cert` and `key` (PEM files) serve for etcd and for https masters.
    `actor` is who the history names as the author of commands. Reads and commands that are given no `timeout_s` of
    their own have `read_timeout_s` and `command_timeout_s` seconds. Every method raises errors of `nodestore.errors`.
    """

    def __init__(
        self,
        endpoints: str | Sequence[str],
        *,
        cluster: str | None = None,
        user: str | None = None,
        password: str | None = None,
        ca: Path | None = None,
        cert: Path | None = None,
        key: Path | None = None,
        actor: str | None = None,
        read_timeout_s: float = READ_S,
        command_timeout_s: float = COMMAND_S,
        lost_after_s: float = LOST_AFTER_S,
    ) -> None:
        self.endpoints = parse_endpoints(endpoints)
        if self.endpoints.etcd and cluster is None:
            raise Invalid("etcd endpoints need the cluster's name as well: cluster=...")
        self.cluster = cluster
        self.actor = actor or default_actor()
        self._keys = Keys(cluster) if cluster is not None else None
        self._user, self._password = user, password
        self._tls = Tls(ca, cert, key)
        self._read_timeout_s, self._command_timeout_s = read_timeout_s, command_timeout_s
        self._lost_after_s = lost_after_s
        self._nonce = secrets.token_hex(8)
        self._commands = 0
        self._leadership = Leadership()
        self._exits = contextlib.AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        self._state: ConnectionState | None = None
        self._etcd: Etcd | None = None
        self._http: Http
        self._requests: Requests
        self._pipeline: Pipeline

    # --- life -------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Opens the client and begins to look for the leader; does not wait for one."""
        if self._state is not None:
            raise RuntimeError("a Client is opened once")
        self._state = ConnectionState(self._lost_after_s)
        try:
            self._http = await self._exits.enter_async_context(Http(self._tls))
            discovery = await self._discovery()
        except BaseException:
            self._state.close()
            await self._exits.aclose()
            raise
        self._requests = Requests(self._http, discovery, self._leadership, self._state)
        self._pipeline = Pipeline(self._http, self._leadership, self._state)
        self._run("discovery", discovery.run())
        self._run("pipeline", self._pipeline.run())
        self._run("monitor", watch_over(self._http, self._leadership, self._state))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends everything; commands without an answer fail with OutcomeUnknown or Unavailable, as fits each."""
        tasks, self._tasks = self._tasks, []
        await cancel_all(tasks)
        if self._state is not None:
            self._state.close()
        await self._exits.aclose()

    async def _discovery(self) -> Discovery:
        if not self.endpoints.etcd:
            return HttpDiscovery(self._http, self.endpoints.masters, self._leadership)
        from nodestore.etcd import Etcd, EtcdSettings  # grpc: only for those who need it

        settings = EtcdSettings(
            self.endpoints.etcd, self._user, self._password, self._tls.ca, self._tls.cert, self._tls.key
        )
        self._etcd = await self._exits.enter_async_context(Etcd(settings))
        assert self._keys is not None
        return EtcdDiscovery(self._etcd, self._keys, self._leadership)

    def _run(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name=f"nodectl client: {name}")
        task.add_done_callback(_report_failure)
        self._tasks.append(task)

    # --- state ------------------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """`connected`, `suspended` (no leader answers now) or `lost` (for longer than `lost_after_s`)."""
        return "suspended" if self._state is None else self._state.value

    def on_state(self, callback: Callable[[State], None]) -> Callable[[], None]:
        """Calls `callback(state)` in the event loop at each change; returns a function that ends that."""
        return self._open_state().listen(callback)

    def states(self) -> AsyncIterator[State]:
        """The present state, then each change, until the client is closed."""
        return self._open_state().changes()

    def _open_state(self) -> ConnectionState:
        if self._state is None:
            raise RuntimeError("the client is not open: use `async with Client(...)`")
        return self._state

    # --- commands ---------------------------------------------------------------------------------------------------

    async def command(
        self,
        name: str,
        args: Mapping[str, Any] | None = None,
        *,
        id: str | None = None,
        after: int | None = None,
        timeout_s: float | None = None,
    ) -> CommandResult:
        """Runs one command of the application, exactly once, whoever dies meanwhile.

        To repeat one that ended with CommandOutcomeUnknown, pass its `id` and `after`. Raises Unavailable when it was
        surely not run within `timeout_s` (seconds), CommandOutcomeUnknown when it may have been, and the typed error
        (Refused, NotFound, Conflict, TooOld, Invalid...) when the leader refused it.
        """
        if after is not None and id is None:
            raise Invalid("`after` belongs to a command that is repeated: give its id as well")
        if id is None:
            self._commands += 1
            id = f"{self._nonce}-{self._commands}"
        body = encode({"name": name, "args": args if args is not None else {}, "id": id, "actor": self.actor})
        limit_s = self._command_timeout_s if timeout_s is None else timeout_s
        return await self._pipeline.submit(id, after, body[:-1], limit_s)

    async def node_set(self, node: str, values: Mapping[str, Any], *, timeout_s: float | None = None) -> CommandResult:
        """Merges `values` into the node's document; None removes a key."""
        return await self.command("node.set", {"node": node, "values": dict(values)}, timeout_s=timeout_s)

    async def node_put(
        self, node: str, document: Mapping[str, Any], *, timeout_s: float | None = None
    ) -> CommandResult:
        """Replaces the node's document."""
        return await self.command("node.put", {"node": node, "document": dict(document)}, timeout_s=timeout_s)

    async def node_clear(self, node: str, *, timeout_s: float | None = None) -> CommandResult:
        """Removes the node's document: what configuration and groups say remains."""
        return await self.command("node.clear", {"node": node}, timeout_s=timeout_s)

    async def scene_save(
        self,
        name: str,
        nodes: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        description: str = "",
        timeout_s: float | None = None,
    ) -> CommandResult:
        """Saves a scene from `nodes`, or from the nodes' present documents."""
        args: dict[str, Any] = {"name": name, "description": description}
        if nodes is not None:
            args["nodes"] = {node: dict(document) for node, document in nodes.items()}
        return await self.command("scene.save", args, timeout_s=timeout_s)

    async def scene_apply(self, name: str, *, group: str = "all", timeout_s: float | None = None) -> CommandResult:
        """Puts the scene's documents on the nodes of a group, in one command."""
        return await self.command("scene.apply", {"name": name, "group": group}, timeout_s=timeout_s)

    async def scene_delete(self, name: str, *, timeout_s: float | None = None) -> CommandResult:
        return await self.command("scene.delete", {"name": name}, timeout_s=timeout_s)

    # --- reads ------------------------------------------------------------------------------------------------------

    async def get(
        self,
        path: str,
        params: Mapping[str, str | int | None] | None = None,
        *,
        consistency: Consistency = "linearizable",
        timeout_s: float | None = None,
    ) -> Any:
        """The JSON answer of GET `path` (beginning with /v1/).

        `linearizable` asks the leader and includes everything acknowledged before; `local` takes what any masterd
        holds in memory. Repeated until it is answered; Unavailable when nobody did within `timeout_s` (seconds).
        """
        query = {name: str(value) for name, value in (params or {}).items() if value is not None}
        query["consistency"] = consistency
        timeout_s = self._read_timeout_s if timeout_s is None else timeout_s
        if consistency == "local":
            return await self._requests.to_any(path, params=query, timeout_s=timeout_s)
        return await self._requests.to_leader("GET", path, params=query, timeout_s=timeout_s)

    async def change(self, method: str, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON answer of a request that changes something. OutcomeUnknown when it may have been received and its
        answer was lost: it is not repeated."""
        return await self._requests.to_leader(
            method, path, body=encode(dict(body)), timeout_s=self._read_timeout_s, repeatable=False
        )

    async def journal(self, after: int | None = None) -> AsyncIterator[dict[str, Any]]:
        """Each command after index `after` (None: from now on), in order, none twice and none left out, for ever,
        through changes of leader. TooOld when the journal is no longer kept from there: read the state anew."""
        failures = 0
        while True:
            leader = await self._leader_patiently()
            position = int((await self.get("/v1/leader"))["index"]) if after is None else after
            after = position
            try:
                url = f"{leader.url}/v1/events?after={position}"
                async with contextlib.aclosing(events(self._http.session, url)) as stream:
                    async for name, data in stream:
                        told = loads(data, "event")
                        if name == "gone":
                            raise TooOld(str(told.get("detail")))
                        if name == "command" and told["index"] == after + 1:
                            after, failures = told["index"], 0
                            yield told
            except (Broken, Unavailable) as error:
                log.debug("the journal's stream resumes at %d: %s", after, error)
                self._leadership.suspect()
            failures += 1
            await asyncio.sleep(pause_s(failures))

    async def live(self) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """Who is there: `leader`, `masters`, `paused` and `nodes`, first as they are, then what changes; unnumbered.

        Each item is (event, {event: [what changed], "gone": [names]}). After each break all come again.
        """
        failures = 0
        while True:
            leader = await self._leader_patiently()
            try:
                async with contextlib.aclosing(events(self._http.session, f"{leader.url}/v1/live")) as stream:
                    async for name, data in stream:
                        yield name, loads(data, "event")
                        failures = 0
            except (Broken, Unavailable) as error:
                log.debug("the live stream resumes: %s", error)
                self._leadership.suspect()
            failures += 1
            await asyncio.sleep(pause_s(failures))

    async def watch_nodes(self) -> AsyncIterator[NodeChanges]:
        """All nodes, then those that change, for ever; through changes of leader. After each break all come again."""
        failures = 0
        while True:
            leader = await self._leader_patiently()
            complete = True
            try:
                async with contextlib.aclosing(events(self._http.session, f"{leader.url}/v1/nodes/watch")) as stream:
                    async for name, data in stream:
                        if name == "nodes":
                            yield NodeChanges(complete, loads(data, "node event")["nodes"])
                            complete, failures = False, 0
            except (Broken, Unavailable) as error:
                log.debug("watch of nodes resumes: %s", error)
                self._leadership.suspect()
            failures += 1
            await asyncio.sleep(pause_s(failures))

    async def _leader_patiently(self) -> Leader:
        while True:
            with contextlib.suppress(Unavailable):  # a watch waits out an outage; state() tells of it
                return await self._requests.leader(self._read_timeout_s)

    # --- configuration and leadership -------------------------------------------------------------------------------

    async def config(self, *, consistency: Consistency = "linearizable") -> ConfigView:
        """The configuration: `current` as applied, `adopted` as in force. Without a master only `current` is known."""
        store = self._store()
        if store is None or await self._somebody_leads():
            try:
                return cast(ConfigView, await self.get("/v1/config", consistency=consistency))
            except Unavailable:
                if store is None:
                    raise
        record = await store.config()
        return {"current": record.model_dump(mode="json") if record else None, "adopted": None, "rejected": None}

    async def _somebody_leads(self) -> bool:
        """Whether discovery knows a leader, once it has looked."""
        deadline = time.monotonic() + self._read_timeout_s
        while not self._leadership.looked and (left_s := deadline - time.monotonic()) > 0:
            await self._leadership.changed(left_s)
        return self._leadership.leader is not None

    async def config_apply(
        self, inventory: Mapping[str, Any], *, source: str = "", expect_version: int | None = None
    ) -> int:
        """Applies an inventory; its version. `expect_version`: Conflict if another is current (0: none; None: any).

        The leader adopts it afterwards: see `config()["adopted"]`.
        """
        store = self._store()
        if store is not None:
            return await store.apply_config(dict(inventory), source, expect_version, self.actor)
        body = {
            "inventory": dict(inventory), "source": source, "expect_version": expect_version, "actor": self.actor,
        }  # fmt: skip
        try:
            answer = await self._requests.to_leader(
                "PUT", "/v1/config", body=encode(body), timeout_s=self._read_timeout_s, repeatable=False
            )
        except (OutcomeUnknown, Conflict) as error:  # Conflict: with a copy of ours that the connection repeated
            return await self._version_if_ours(body) or _raise(error)
        return int(answer["version"])

    async def _version_if_ours(self, body: Mapping[str, Any]) -> int | None:
        """The present version if it is what `body` asked for, else None."""
        current = (await self.config())["current"]
        if current is None:
            return None
        record = ConfigRecord.model_validate(current)
        before = record.version - 1 if body["expect_version"] is None else body["expect_version"]
        wanted = (before + 1, self.actor, body["source"], Inventory.model_validate(body["inventory"]))
        found = (record.version, record.actor, record.source, Inventory.model_validate(record.inventory))
        return record.version if found == wanted else None

    async def switchover(self, to: str | None = None, *, timeout_s: float | None = None) -> SwitchoverView:
        """Hands leadership to master `to`, or to the best candidate; returns when the new one is known.

        Not repeated when its answer is lost: a second switchover would undo the first. A newer term settles it.
        """
        timeout_s = self._command_timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + timeout_s
        before = await self._requests.leader(timeout_s)
        body = encode({"actor": self.actor} | ({"to": to} if to is not None else {}))
        try:
            answer = await self._requests.to_leader(
                "POST", "/v1/leader/switchover", body=body, timeout_s=timeout_s, repeatable=False
            )
            return cast(SwitchoverView, answer)
        except OutcomeUnknown:
            while (left_s := deadline - time.monotonic()) > 0:
                now = self._leadership.leader
                if now is not None and now.term > before.term and to in (None, now.id):
                    return cast(SwitchoverView, {"from": before.id, "to": now.id, "term": now.term._asdict()})
                await self._leadership.changed(left_s)
            raise

    async def paused(self) -> dict[str, Any] | None:
        """Who paused automatic takeover, when and why; None when nobody did."""
        store = self._store()
        if store is not None:
            found = await store.paused()
            return found.model_dump(mode="json") if found else None
        return cast(dict[str, Any] | None, await self.get("/v1/paused")) or None

    async def pause(self, reason: str = "") -> None:
        """From now on no master takes over by itself, not even when the leader dies."""
        store = self._store()
        if store is not None:
            return await store.pause(self.actor, reason)
        body = encode({"actor": self.actor, "reason": reason})
        await self._requests.to_leader("PUT", "/v1/paused", body=body, timeout_s=self._read_timeout_s)
        return None

    async def resume(self) -> None:
        """Ends the pause, if there is one."""
        store = self._store()
        if store is not None:
            await store.resume()
        else:
            await self._requests.to_leader("DELETE", "/v1/paused", timeout_s=self._read_timeout_s)

    def _store(self) -> ClusterStore | None:
        if self._etcd is None or self._keys is None:
            return None
        return ClusterStore(self._etcd, self._keys)


def default_actor() -> str:
    """user@host, as the history shows it."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a service without a user name; ImportError: Windows has no pwd
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def _raise(error: NodectlError) -> NoReturn:
    raise error from None


def _report_failure(task: asyncio.Task[None]) -> None:
    """A part of the client that ends by itself is a bug: it is seen, not awaited in vain."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("%s failed: %r", task.get_name(), error, exc_info=error)
