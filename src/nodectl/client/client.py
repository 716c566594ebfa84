"""`Client`, the asynchronous client of a cluster. See docs/client.md for its behaviour when masters die."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import logging
import secrets
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from nodectl.client.connection.bearer import BearerToken
from nodectl.client.connection.discovery import Discovery, EtcdDiscovery, HttpDiscovery
from nodectl.client.connection.errors import CommandOutcomeUnknown
from nodectl.client.connection.following import StreamFollower
from nodectl.client.connection.http import Http, as_object, cancel_all, encode_body
from nodectl.client.connection.leadership import Leadership
from nodectl.client.connection.log_following import read_log
from nodectl.client.connection.monitor import monitor_leader
from nodectl.client.connection.pipeline import Pipeline
from nodectl.client.connection.requests import Requests
from nodectl.client.connection.results import CommandResult, NodeChanges
from nodectl.client.connection.state import ConnectionState, State
from nodectl.client.methods.access import AccessCalls
from nodectl.client.methods.administration import AdministrationCalls
from nodectl.client.methods.application import ApplicationCalls
from nodectl.client.methods.outcomes import OutcomeCalls, ask_time_s
from nodectl.client.methods.reads import ReadCalls
from nodectl.client.methods.snapshots import SnapshotCalls
from nodectl.endpoints import parse_endpoints
from nodestore.errors import Invalid
from nodestore.schema.api_types import Consistency, NodeLog
from nodestore.schema.keys import Keys
from nodestore.schema.limits import ACTOR_BYTES_MAX, check_text, shortened
from nodestore.schema.log_requests import LOG_LINES
from nodestore.support.password_file import read_password
from nodestore.support.tasks import background_task
from nodestore.support.tls_files import TlsFiles

if TYPE_CHECKING:
    from nodestore.etcd.session import Etcd

log = logging.getLogger(__name__)

READ_S = 10.0
COMMAND_S = 30.0
LOST_AFTER_S = 30.0


class _NotOpen:
    """Stands for each part of a client that is not open yet: any use of it raises RuntimeError."""

    def __getattr__(self, name: str) -> Any:
        raise _not_open()


def _not_open() -> RuntimeError:
    return RuntimeError("the client is not open: use `async with Client(...) as client:`")


_NOT_OPEN = _NotOpen()


class Client(ReadCalls, ApplicationCalls, OutcomeCalls, SnapshotCalls, AdministrationCalls, AccessCalls):
    """A client of one cluster: `async with Client(endpoints, cluster=...) as client:`.

    It belongs to one event loop; any number of tasks may use it.

    `endpoints`: `host:port` of etcd members (`cluster` is then required), or `http://host:port` of masterds.
    `user`, `password`: the credentials for etcd. `password_file`: its first line is the password at each login.
    `token`, `token_file`: a bearer token for the masters, as text or as the first line of a file, which is read again
    when it changes. It is sent over TLS or loopback only.
    `ca`, `cert`, `key`: PEM files, for etcd and for https masters; changed files are read again within seconds.
    `crl`: the revocation list of `ca`; https masters whose certificate it contains are not trusted.
    `actor`: the author of commands in the history (default: user@host).
    `read_timeout_s`, `command_timeout_s`: seconds, for calls without a `timeout_s` of their own.
    `lost_after_s`: after how many seconds in state `suspended` the state becomes `lost`.
    `mask_secrets`: whether masters answer with `***` in place of secrets that this client might see. Results of its own
    commands are not masked.

    Every method raises errors of `nodestore.errors`. The constructor raises Invalid for endpoints that it cannot use.
    """

    def __init__(
        self,
        endpoints: str | Sequence[str],
        *,
        cluster: str | None = None,
        user: str | None = None,
        password: str | None = None,
        password_file: Path | None = None,
        token: str | None = None,
        token_file: Path | None = None,
        ca: Path | None = None,
        cert: Path | None = None,
        key: Path | None = None,
        crl: Path | None = None,
        actor: str | None = None,
        read_timeout_s: float = READ_S,
        command_timeout_s: float = COMMAND_S,
        lost_after_s: float = LOST_AFTER_S,
        mask_secrets: bool = False,
    ) -> None:
        self.endpoints = parse_endpoints(endpoints)
        if self.endpoints.etcd and cluster is None:
            raise Invalid("endpoints of etcd require the name of the cluster: pass cluster=...")
        self.cluster = cluster
        self.actor = check_text(actor, "actor", ACTOR_BYTES_MAX) if actor else default_actor()
        self._keys = Keys(cluster) if cluster is not None else None
        self._user, self._password, self._password_file = user, password, password_file
        self._bearer = BearerToken(token, token_file)
        self._tls = TlsFiles(ca=ca, cert=cert, key=key, crl=crl)
        self._read_timeout_s, self._command_timeout_s = read_timeout_s, command_timeout_s
        self._lost_after_s, self._mask_secrets = lost_after_s, mask_secrets
        self._nonce = secrets.token_hex(8)
        self._commands = 0
        self._leadership = Leadership()
        self._exits = contextlib.AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        self._state: ConnectionState | None = None
        self._etcd: Etcd | None = None
        self._http = cast(Http, _NOT_OPEN)
        self._requests = cast(Requests, _NOT_OPEN)
        self._pipeline = cast(Pipeline, _NOT_OPEN)

    # --- opening and closing ----------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Open the client and start to look for the leader, without waiting for it.

        Raises RuntimeError if the client was opened before.
        """
        if self._state is not None:
            raise RuntimeError("this Client was opened before and cannot be opened again: create a new one")
        self._state = ConnectionState(self._lost_after_s)
        try:
            http = Http(self._tls, self._bearer, mask_secrets=self._mask_secrets)
            self._http = await self._exits.enter_async_context(http)
            discovery = await self._discovery()
        except BaseException:
            self._state.close()
            await self._exits.aclose()
            raise
        self._requests = Requests(self._http, discovery, self._leadership, self._state)
        self._pipeline = Pipeline(self._http, self._leadership, self._state)
        self._start_task("discovery", discovery.run())
        self._start_task("pipeline", self._pipeline.run())
        self._start_task("monitor", monitor_leader(self._http, self._leadership, self._state))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the client; idempotent.

        A command without an answer fails with CommandOutcomeUnknown if a master may have received it, else with
        Unavailable.
        """
        tasks, self._tasks = self._tasks, []
        await cancel_all(tasks)
        if self._state is not None:
            self._state.close()
        await self._exits.aclose()

    async def _discovery(self) -> Discovery:
        if not self.endpoints.etcd:
            return HttpDiscovery(self._http, self.endpoints.masters, self._leadership)
        from nodestore.etcd.session import Etcd, EtcdSettings  # here: gRPC is slow to import; HTTP needs no gRPC

        settings = EtcdSettings(
            endpoints=self.endpoints.etcd,
            user=self._user,
            password=self._password or (read_password(self._password_file) if self._password_file else None),
            password_file=self._password_file,
            ca=self._tls.ca,
            cert=self._tls.cert,
            key=self._tls.key,
        )
        self._etcd = await self._exits.enter_async_context(Etcd(settings))
        assert self._keys is not None
        return EtcdDiscovery(self._etcd, self._keys, self._leadership)

    def _start_task(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = background_task(work, name=f"nodectl client: {name}", eternal=True)
        self._tasks.append(task)

    # --- state ------------------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """`connected`, `suspended` (no leader answers) or `lost` (suspended for longer than `lost_after_s`)."""
        return "suspended" if self._state is None else self._state.value

    def on_state(self, callback: Callable[[State], None]) -> Callable[[], None]:
        """Call `callback(state)` in the event loop at each change. Return a function that ends the subscription."""
        return self._require_state().subscribe(callback)

    def states(self) -> AsyncIterator[State]:
        """Yield the current state, then each change, until the client is closed."""
        return self._require_state().changes()

    def _require_state(self) -> ConnectionState:
        if self._state is None:
            raise _not_open()
        return self._state

    # --- the basic calls, on which all other methods are built -------------------------------------------------------

    async def command(
        self,
        name: str,
        args: Mapping[str, Any] | None = None,
        *,
        id: str | None = None,
        after: int | None = None,
        timeout_s: float | None = None,
    ) -> CommandResult:
        if after is not None and id is None:
            raise Invalid("`after` is for repeating a command: pass the `id` of that command as well")
        arguments = {} if args is None else as_object(args, "args")
        limit_s = self._command_timeout_s if timeout_s is None else timeout_s
        if id is not None:
            # Not asked for at the end: the question may close the id, and its owner may want to repeat the command.
            return await self._pipeline.submit(id, after, self._command_body(name, arguments, id), limit_s)
        self._commands += 1
        id, deadline = f"{self._nonce}-{self._commands}", time.monotonic() + limit_s
        body, ask_s = self._command_body(name, arguments, id), ask_time_s(limit_s)
        try:
            return await self._pipeline.submit(id, None, body, limit_s, ask_s=ask_s)
        except CommandOutcomeUnknown as unknown:
            if self._pipeline.is_closed or (left_s := deadline - time.monotonic()) <= 0:
                raise
            return await self._settled(unknown, left_s)

    def _command_body(self, name: str, arguments: Mapping[str, Any], id: str) -> bytes:
        """The command as JSON, without `after` and the closing brace."""
        return encode_body({"name": name, "args": arguments, "id": id, "actor": self.actor})[:-1]

    async def get(
        self,
        path: str,
        params: Mapping[str, str | int | None] | None = None,
        *,
        consistency: Consistency = "linearizable",
        timeout_s: float | None = None,
    ) -> Any:
        query = {name: str(value) for name, value in (params or {}).items() if value is not None}
        query["consistency"] = consistency
        timeout_s = self._read_timeout_s if timeout_s is None else timeout_s
        if consistency == "local":
            return await self._requests.to_any(path, params=query, timeout_s=timeout_s)
        return await self._requests.to_leader("GET", path, params=query, timeout_s=timeout_s)

    async def change(self, method: str, path: str, body: Mapping[str, Any]) -> Any:
        return await self._requests.to_leader(
            method, path, body=encode_body(dict(body)), timeout_s=self._read_timeout_s, repeatable=False
        )

    # --- streams ----------------------------------------------------------------------------------------------------

    def journal(self, after: int | str | None = None) -> AsyncGenerator[dict[str, Any], None]:
        return self._stream_follower().journal(after)

    def live(self) -> AsyncGenerator[tuple[str, dict[str, Any]], None]:
        """Yield the current leader, masters, pause and nodes, then their changes, without end.

        Each item is (event, data). `event` is `leader`, `masters`, `paused` or `nodes`; `data` is
        {event: [changed items], "gone": [names of removed items]}. Events have no position. After a broken connection
        the complete state is sent again.
        """
        return self._stream_follower().live()

    def watch_nodes(self) -> AsyncGenerator[NodeChanges, None]:
        """Yield all nodes, then those that change, without end and across changes of leader.

        After a broken connection all nodes are sent again (`complete` is then true).
        """
        return self._stream_follower().nodes()

    def node_logs(self, node: str, *, lines: int = LOG_LINES, follow: bool = False) -> AsyncGenerator[NodeLog, None]:
        """Yield the last `lines` lines of the log of the program that `node` runs, in pieces of up to 64 KiB.

        With `follow`, yield new lines as they are written, without end, across changes of leader and rotations of the
        file. If no new lines can be fetched for a while, for example because the node has no connection, one piece
        without text has the reason as its `note`. The next piece is fetched only when the caller requests it. So if the
        log is rotated faster than the caller reads, lines are missing, and the next piece has a `note` that says so.

        Raises NotFound if there is no such node or its driver keeps no log, and NodeUnavailable if the node has no
        connection to the leader at the first read (without `follow`, at any).
        """
        state = self._require_state()
        return read_log(self._requests, state, node, lines=lines, follow=follow, timeout_s=self._read_timeout_s)

    def _stream_follower(self) -> StreamFollower:
        state = self._require_state()
        return StreamFollower(self._http, self._requests, self._leadership, state)


def default_actor() -> str:
    """Return `user@host`, the author of commands when no `actor` is given."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # the user has no name (a service); ImportError: Windows has no pwd
        user = "unknown"
    return shortened(f"{user}@{socket.gethostname()}", ACTOR_BYTES_MAX)
