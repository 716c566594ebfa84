"""A stream of the session: what breaks it also makes the session leave the endpoint, or get another token."""

from __future__ import annotations

from typing import Any, Protocol

from google.protobuf.message import Message

from nodestore.errors import Denied, NodectlError, Unavailable
from nodestore.etcd.rpc import Connection, Duplex, Fault, RpcFailed
from nodestore.etcd.types import EtcdSettings


class Session(Protocol):
    """What a stream uses of the session that opened it. `nodestore.etcd.session.Etcd` implements it."""

    @property
    def settings(self) -> EtcdSettings: ...

    def leave(self, endpoint: Connection, *, lives: bool = False) -> None:
        """Switch to the next endpoint if `endpoint` is still in use. lives: its member answered, with a fault."""
        ...

    def forget(self, token: str | None) -> None:
        """Drop `token`, which etcd refused, unless it has been replaced already."""
        ...

    def refused(self, error: NodectlError) -> NodectlError:
        """The error to raise if etcd refuses our user: Unavailable if it has accepted that user before."""
        ...

    def closed_stream(self, stream: Stream) -> None:
        """Called once a stream is closed; the session no longer probes it."""
        ...


class BrokenStream(Exception):
    """A stream ended, was refused or fell silent; open another, elsewhere."""


class Stream:
    """A bidirectional stream to one endpoint. Any fault is BrokenStream, and the endpoint is left for the next."""

    def __init__(
        self, session: Session, endpoint: Connection, rpc: Duplex, token: str | None, second: bool = False
    ) -> None:
        self._session, self._endpoint, self._rpc, self._token = session, endpoint, rpc, token
        self.second = second
        self.address = endpoint.address
        self.doubted = False
        """Whether there is a reason to think that its member has gone; whoever reads it says when that was wrong."""

    async def send(self, message: Message, timeout_s: float) -> None:
        """One sender at a time."""
        try:
            await self._rpc.send(message, timeout_s)
        except RpcFailed as failed:
            raise self._broken(failed) from None

    async def receive(self, timeout_s: float) -> Any | None:
        """The next message; None when there was none in time or a doubt has come up, which is no fault yet: receive
        again, or give up."""
        try:
            return await self._rpc.receive(timeout_s)
        except RpcFailed as failed:
            raise self._broken(failed) from None

    def doubt(self) -> None:
        """Its member may be gone without a word: whoever reads this stream had better ask for a sign of life."""
        if not self.doubted:
            self.doubted = True
            self._rpc.nudge()

    def silent(self) -> BrokenStream:
        """Give up on the endpoint, because nothing came where something should have."""
        self._session.leave(self._endpoint)
        return BrokenStream(f"{self.address}: silent")

    def token_refused(self) -> None:
        """The store said, in an answer, that this stream's token is no longer good. Where there can be none: Denied at
        the start, BrokenStream later on."""
        self._session.forget(self._token)
        if self._session.settings.user is None:
            error = self._session.refused(Denied("etcd asks for a user and password"))
            raise BrokenStream(str(error)) if isinstance(error, Unavailable) else error

    def _broken(self, failed: RpcFailed) -> BrokenStream:
        if failed.fault is Fault.TOKEN:
            self._session.forget(self._token)
        else:
            self._session.leave(self._endpoint, lives=failed.lives)
        return BrokenStream(str(failed))

    async def close(self) -> None:
        self._session.closed_stream(self)
        await self._rpc.close()
