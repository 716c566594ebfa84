"""`BlockingClient`: the methods of `Client` as blocking calls, for scripts and interactive use.

Each method is derived from that of `Client`, with the same signature and types, so that the two cannot differ.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Sequence
from pathlib import Path
from types import AsyncGeneratorType, TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from nodectl.client.blocking.background_loop import BackgroundLoop, LoopStopped
from nodectl.client.client import COMMAND_S, LOST_AFTER_S, READ_S, Client
from nodectl.client.connection.leadership import Leader
from nodectl.client.connection.state import State
from nodectl.endpoints import Endpoints
from nodestore.errors import OutcomeUnknown, Unavailable

P = ParamSpec("P")
T = TypeVar("T")

_CLOSED = "the client was closed"
_CLOSE_TIMEOUT_S = 5.0


def _blocking(
    method: Callable[Concatenate[Client, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[BlockingClient, P], T]:
    """Return the blocking form of a coroutine method."""

    @functools.wraps(method)
    def call(self: BlockingClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.run(lambda client: method(client, *args, **kwargs))

    call.__doc__ = inspect.getdoc(method)  # may be that of a base class
    return call


def _iterating(
    method: Callable[Concatenate[Client, P], AsyncIterator[T]],
) -> Callable[Concatenate[BlockingClient, P], Generator[T, None, None]]:
    """Return the blocking form of a method that yields: a generator, to be closed or left by `break` at any item."""

    @functools.wraps(method)
    def call(self: BlockingClient, /, *args: P.args, **kwargs: P.kwargs) -> Generator[T, None, None]:
        return self.iterate(lambda client: method(client, *args, **kwargs))

    call.__doc__ = inspect.getdoc(method)
    return call


class BlockingClient:
    """A client of one cluster without asyncio: `with BlockingClient(endpoints, cluster=...) as client:`.

    The parameters are those of `Client`, and each of its methods is here, with the same signature and the same errors.
    A coroutine method blocks until its answer; a method that yields is a generator whose `next` blocks. A `Client` runs
    in one background thread; any number of threads may use this object at a time. Ctrl-C interrupts a call: a command
    that was already sent may take effect. If another thread closes the client, a running call raises OutcomeUnknown,
    and an iteration Unavailable.
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
        self._client = Client(
            endpoints, cluster=cluster, user=user, password=password, password_file=password_file, token=token,
            token_file=token_file, ca=ca, cert=cert, key=key, crl=crl, actor=actor, read_timeout_s=read_timeout_s,
            command_timeout_s=command_timeout_s, lost_after_s=lost_after_s, mask_secrets=mask_secrets,
        )  # fmt: skip
        self._loop: BackgroundLoop | None = None
        self._closed = False

    # --- opening and closing ----------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        """Start the thread, open the client, and start to look for the leader, without waiting for it."""
        if self._loop is not None or self._closed:
            raise RuntimeError("this BlockingClient was opened before and cannot be opened again: create a new one")
        self._loop = BackgroundLoop("nodectl client")
        self._loop.start()
        try:
            self._loop.run(self._client.__aenter__)
        except BaseException:
            self._closed = True
            self._loop.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the client and end its thread; idempotent. Waits for 10 s at most."""
        loop, self._closed = self._loop, True
        if loop is None:
            return
        try:
            loop.run(self._close_client)
        except LoopStopped:
            return
        finally:
            loop.stop()

    async def _close_client(self) -> None:
        with contextlib.suppress(TimeoutError):  # `stop` then cancels what still runs
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self._client.close()

    # --- attributes -------------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """See `Client.state`."""
        return self._client.state

    @property
    def endpoints(self) -> Endpoints:
        """The endpoints, parsed."""
        return self._client.endpoints

    @property
    def cluster(self) -> str | None:
        """The name of the cluster, if it was given."""
        return self._client.cluster

    @property
    def actor(self) -> str:
        """The author of commands in the history."""
        return self._client.actor

    # --- callbacks --------------------------------------------------------------------------------------------------

    def on_state(self, callback: Callable[[State], None]) -> Callable[[], None]:
        """Call `callback(state)` at each change. Return a function that ends the subscription.

        The callback runs in the background thread: it must return soon and must not call this client.
        """

        async def subscribe() -> Callable[[], None]:
            return self._client.on_state(callback)

        loop, stop = self._require_loop(), self.run(lambda _: subscribe())

        async def unsubscribe() -> None:
            stop()

        return lambda: loop.start_task(unsubscribe)

    def on_leader(self, callback: Callable[[Leader | None], None]) -> None:
        """Call `callback(leader)` at each change of the known leader (None: none is known), until the client is closed.

        The callback runs in the background thread: it must return soon and must not call this client.
        """

        async def subscribe() -> None:
            self._client.on_leader(callback)

        self.run(lambda _: subscribe())

    # --- the methods of Client --------------------------------------------------------------------------------------

    get = _blocking(Client.get)
    change = _blocking(Client.change)
    command = _blocking(Client.command)
    outcome_of = _blocking(Client.outcome_of)

    leader = _blocking(Client.leader)
    masters = _blocking(Client.masters)
    members = _blocking(Client.members)
    application = _blocking(Client.application)
    nodes = _blocking(Client.nodes)
    node = _blocking(Client.node)
    commands = _blocking(Client.commands)
    documents = _blocking(Client.documents)
    document = _blocking(Client.document)
    history = _blocking(Client.history)
    terms = _blocking(Client.terms)
    status = _blocking(Client.status)
    status_of_store = _blocking(Client.status_of_store)

    whoami = _blocking(Client.whoami)
    tokens = _blocking(Client.tokens)
    token_create = _blocking(Client.token_create)
    token_revoke = _blocking(Client.token_revoke)
    join_tokens = _blocking(Client.join_tokens)
    join_token_create = _blocking(Client.join_token_create)
    join_token_revoke = _blocking(Client.join_token_revoke)
    access_control = _blocking(Client.access_control)
    audit = _blocking(Client.audit)

    node_set = _blocking(Client.node_set)
    node_put = _blocking(Client.node_put)
    node_clear = _blocking(Client.node_clear)
    node_act = _blocking(Client.node_act)
    scene_save = _blocking(Client.scene_save)
    scene_apply = _blocking(Client.scene_apply)
    scene_delete = _blocking(Client.scene_delete)

    snapshots = _blocking(Client.snapshots)
    snapshot = _blocking(Client.snapshot)
    snapshot_save = _blocking(Client.snapshot_save)
    snapshot_delete = _blocking(Client.snapshot_delete)
    snapshot_restore = _blocking(Client.snapshot_restore)

    config = _blocking(Client.config)
    config_apply = _blocking(Client.config_apply)
    config_history = _blocking(Client.config_history)
    config_rollback = _blocking(Client.config_rollback)
    switchover = _blocking(Client.switchover)
    drill = _blocking(Client.drill)
    paused = _blocking(Client.paused)
    adopt_application = _blocking(Client.adopt_application)
    pause = _blocking(Client.pause)
    resume = _blocking(Client.resume)

    states = _iterating(Client.states)
    journal = _iterating(Client.journal)
    live = _iterating(Client.live)
    watch_nodes = _iterating(Client.watch_nodes)
    node_logs = _iterating(Client.node_logs)
    action_results = _iterating(Client.action_results)

    # --- running calls ----------------------------------------------------------------------------------------------

    def run(self, call: Callable[[Client], Coroutine[Any, Any, T]]) -> T:
        """Run `call(client)` with the asynchronous client in the background thread; return its result."""

        async def work() -> T:
            return await call(self._client)

        try:
            return self._require_loop().run(work)
        except LoopStopped:
            raise OutcomeUnknown(f"{_CLOSED} during the call: it may or may not have had an effect") from None

    def iterate(self, stream: Callable[[Client], AsyncIterator[T]]) -> Generator[T, None, None]:
        """Call `stream` with the asynchronous client, and iterate over its result in the background thread."""
        loop = self._require_loop()
        return _generator(loop, lambda: stream(self._client))

    def _require_loop(self) -> BackgroundLoop:
        if self._closed:
            raise Unavailable(_CLOSED)
        if self._loop is None:
            raise RuntimeError("the client is not open: use `with BlockingClient(...)`")
        return self._loop


def _generator(loop: BackgroundLoop, begin: Callable[[], AsyncIterator[T]]) -> Generator[T, None, None]:
    stream: AsyncIterator[T] | None = None

    async def step() -> tuple[T] | None:
        """Return the next item in a tuple, None at the end."""
        nonlocal stream
        if stream is None:
            stream = begin()
        try:
            return (await anext(stream),)
        except StopAsyncIteration:
            return None

    async def close() -> None:
        if isinstance(stream, AsyncGeneratorType):
            await stream.aclose()

    try:
        while (item := loop.run(step)) is not None:
            yield item[0]
    except LoopStopped:
        raise Unavailable(_CLOSED) from None
    finally:
        loop.start_task(close)  # without waiting: the garbage collector may run this, in any thread
