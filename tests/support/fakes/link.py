"""The network between one session and the fake store, with faults.

A message that was sent arrives or not, whatever becomes of its sender. The whole link can hold messages, drop them or
be cut (`set`, `cut`); `fates` decides about single calls.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from google.protobuf.message import Message
from grpc import StatusCode

from nodestore.etcd.rpc import Connection, Duplex, Fault, Metadata, RpcFailed, classify_status
from tests.faults.network.proxy import Mode
from tests.support.fakes.mvcc import Refused

if TYPE_CHECKING:
    from tests.support.fakes.etcd import FakeEtcd


@dataclass(frozen=True, slots=True)
class Fate:
    """What happens to one call.

    sent: False: refused before it is sent. arrives: whether it reaches the store, after `late_s` seconds. replied:
    whether its reply comes back. then: called when it has reached the store or was lost. as_of: a read returns the
    state at this revision, as a member that was suspended may do (etcd before 3.5.28); 0: the present one. denied: the
    store refuses it for lack of permission.
    """

    sent: bool = True
    arrives: bool = True
    late_s: float = 0.0
    replied: bool = True
    then: Callable[[], None] | None = None
    as_of: int = 0
    denied: bool = False


FINE = Fate()
REFUSED = Fate(sent=False)
LOST = Fate(arrives=False)
DENIED = Fate(denied=True)
UNHEARD = Fate(replied=False)


class Link:
    """The network of one session. latency_s: of each message, in each direction."""

    def __init__(self, server: FakeEtcd, *, latency_s: float = 0.0) -> None:
        self.server = server
        self.latency_s = latency_s
        self.fates: Callable[[str, Any], Fate] = lambda method, request: FINE
        self.down = False
        """Whether connections are refused."""
        self._up_mode = self._down_mode = Mode.FORWARD
        self._held_up: deque[Callable[[], None]] = deque()
        self._held_down: deque[Callable[[], None]] = deque()
        self._calls: dict[FakeCall, None] = {}
        """A set that keeps its order, so that a cut breaks the calls in the same order in every run."""

    def connect(self, address: str) -> Connection:
        return FakeConnection(self, address)

    # --- faults ---

    def set(self, *, up: Mode | None = None, down: Mode | None = None) -> None:
        """Change the modes. Calls that have lost a message break once no direction drops messages any more."""
        self._up_mode, self._down_mode = up or self._up_mode, down or self._down_mode
        for mode, held in ((self._up_mode, self._held_up), (self._down_mode, self._held_down)):
            while held and mode is Mode.FORWARD:
                held.popleft()()
        if Mode.DROP not in (self._up_mode, self._down_mode):
            for call in [call for call in self._calls if call.torn]:
                call.broken("unavailable", "Socket closed")

    def forward(self) -> None:
        self.set(up=Mode.FORWARD, down=Mode.FORWARD)

    def cut(self) -> None:
        """Break all open calls, drop held messages, and refuse connections until `listen`."""
        self.down = True
        self._held_up.clear()
        self._held_down.clear()
        for call in tuple(self._calls):
            call.broken("unavailable", "Socket closed")

    def listen(self) -> None:
        self.down = False

    @property
    def held_up(self) -> int:
        return len(self._held_up)

    @property
    def held_down(self) -> int:
        return len(self._held_down)

    # --- messages ---

    def opened(self, call: FakeCall) -> None:
        self._calls[call] = None

    def closed(self, call: FakeCall) -> None:
        self._calls.pop(call, None)

    def calls_to(self, address: str) -> list[FakeCall]:
        return [call for call in self._calls if call.address == address]

    def carry_up(self, call: FakeCall, arrive: Callable[[], None], late_s: float = 0.0) -> None:
        self._carry(self._up_mode, self._held_up, call, arrive, late_s)

    def carry_down(self, call: FakeCall, arrive: Callable[[], None]) -> None:
        self._carry(self._down_mode, self._held_down, call, arrive, 0.0)

    def _carry(
        self, mode: Mode, held: deque[Callable[[], None]], call: FakeCall, arrive: Callable[[], None], late_s: float
    ) -> None:
        if mode is Mode.DROP or call.torn:
            call.torn = True
            return
        asyncio.get_running_loop().call_later(self.latency_s + late_s, self._arrived, held, arrive)

    def _arrived(self, held: deque[Callable[[], None]], arrive: Callable[[], None]) -> None:
        mode = self._up_mode if held is self._held_up else self._down_mode
        if mode is Mode.HOLD:
            held.append(arrive)
        else:
            arrive()


class FakeCall:
    """An open call or stream."""

    address: str
    torn = False
    """Whether a message of it was dropped. Then no later one arrives either."""

    def broken(self, code: str, details: str) -> None:
        raise NotImplementedError


class FakeUnary(FakeCall):
    """One call and its reply."""

    def __init__(self, link: Link, address: str) -> None:
        self._link, self.address = link, address
        self._reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def broken(self, code: str, details: str) -> None:
        self._fail(RpcFailed(self.address, code, details, classify_status(StatusCode[code.upper()], details)))

    async def run(self, method: str, request: Message, timeout_s: float, fate: Fate) -> Any:
        self._link.opened(self)
        if fate.arrives:
            self._link.carry_up(self, lambda: self._land(method, request, fate), fate.late_s)
        elif fate.then is not None:
            fate.then()
        try:
            async with asyncio.timeout(timeout_s):
                return await self._reply
        except TimeoutError:
            raise RpcFailed(self.address, "deadline_exceeded", "Deadline Exceeded", Fault.AMBIGUOUS) from None
        finally:
            self._link.closed(self)
            if not self._reply.cancel() and not self._reply.cancelled():
                # an error may arrive together with the deadline; else asyncio reports that it was never retrieved
                self._reply.exception()

    def _land(self, method: str, request: Message, fate: Fate) -> None:
        try:
            server = self._link.server
            if fate.denied:
                raise Refused(StatusCode.PERMISSION_DENIED, "etcdserver: permission denied")
            response = server.stale(request, fate.as_of) if fate.as_of else server.handle(method, request)
        except Refused as refused:
            code, details = refused.code, refused.details
            answer = partial(
                self._fail, RpcFailed(self.address, code.name.lower(), details, classify_status(code, details))
            )
        else:
            answer = partial(self._succeed, response)
        if fate.then is not None:
            fate.then()
        if fate.replied:
            self._link.carry_down(self, answer)

    def _succeed(self, response: Any) -> None:
        if not self._reply.done():
            self._reply.set_result(response)

    def _fail(self, error: RpcFailed) -> None:
        if not self._reply.done():
            self._reply.set_exception(error)


class FakeStream(FakeCall):
    """A Watch or LeaseKeepAlive call, which connects when it is first used."""

    def __init__(self, link: Link, address: str, method: str) -> None:
        self._link, self.address, self._method = link, address, method
        self._inbox: deque[Any] = deque()
        self._up: deque[Message] = deque()
        self._down: deque[Any] = deque()
        self._changed = asyncio.Event()
        self._nudged = False
        self._error: RpcFailed | None = None
        self._watch: Any = None
        link.opened(self)

    def broken(self, code: str, details: str) -> None:
        if self._error is None:
            self._error = RpcFailed(self.address, code, details, classify_status(StatusCode[code.upper()], details))
        self._end()

    async def send(self, message: Message, timeout_s: float) -> None:
        self._check()
        copied = type(message)()
        copied.CopyFrom(message)
        self._up.append(copied)
        self._link.carry_up(self, self._landed)

    async def receive(self, timeout_s: float) -> Any | None:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not self._inbox and not self._nudged:
                    self._check()
                    self._changed.clear()
                    await self._changed.wait()
        self._nudged = False
        return self._inbox.popleft() if self._inbox else None

    def wake_reader(self) -> None:
        self._nudged = True
        self._changed.set()

    async def close(self) -> None:
        if self._error is None:
            self._error = RpcFailed(self.address, "cancelled", "the stream was closed", Fault.AMBIGUOUS)
        self._end()

    def _check(self) -> None:
        if self._link.down and self._error is None:
            self.broken("unavailable", "failed to connect to all addresses")
        if self._error is not None:
            raise self._error

    def _end(self) -> None:
        self._link.closed(self)
        if self._watch is not None:
            self._link.server.close_watch(self._watch)
            self._watch = None
        self._inbox.clear()
        self._changed.set()

    def _landed(self) -> None:
        """Process the oldest message at the server: timers that are due together may fire in another order."""
        message = self._up.popleft()
        if self._error is not None:
            return
        if self._method == "Lease/LeaseKeepAlive":
            self._answer(self._link.server.keep_alive(message))
            return
        if self._watch is None:
            self._watch = self._link.server.open_watch(self._answer)
        self._link.server.watch(self._watch, message)

    def _answer(self, message: Any) -> None:
        self._down.append(message)
        self._link.carry_down(self, self._came)

    def _came(self) -> None:
        message = self._down.popleft()
        if self._error is None:
            self._inbox.append(message)
            self._changed.set()


class FakeConnection:
    """A session's connection to one member."""

    def __init__(self, link: Link, address: str) -> None:
        self.address = address
        self._link = link
        self._closed = False

    async def call(self, method: str, request: Message, timeout_s: float, metadata: Metadata) -> Any:
        if self._closed:
            raise RpcFailed(self.address, "cancelled", "the channel was closed", Fault.AMBIGUOUS)
        copied = type(request)()
        copied.CopyFrom(request)
        fate = self._link.fates(method, copied)
        if self._link.down or not fate.sent:
            await asyncio.sleep(0)
            raise RpcFailed(self.address, "unavailable", "failed to connect to all addresses", Fault.NOT_SENT)
        return await FakeUnary(self._link, self.address).run(method, copied, timeout_s, fate)

    def open(self, method: str, metadata: Metadata) -> Duplex:
        return FakeStream(self._link, self.address, method)

    async def close(self) -> None:
        """Break all calls and streams of this connection."""
        self._closed = True
        for call in self._link.calls_to(self.address):
            call.broken("cancelled", "the channel was closed")
