"""A stream of the session: what breaks it also makes the session switch_endpoint the endpoint, or get another token."""

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

    def switch_endpoint(self, endpoint: Connection, *, member_alive: bool = False) -> None:
        """Switch to the next endpoint if `endpoint` is still in use. member_alive: its member answered, with a
        fault."""
        ...

    def discard_token(self, token: str | None) -> None:
        """Drop `token`, which etcd refused, unless it has been replaced already."""
        ...

    def record_refusal(self, error: NodectlError) -> NodectlError:
        """The error to raise if etcd refuses our user: Unavailable if it has accepted that user before."""
        ...

    def remove_stream(self, stream: Stream) -> None:
        """Called once a stream is closed; the session no longer probes it."""
        ...


class BrokenStream(Exception):
    """A stream ended, was refused or fell silent; open another, elsewhere."""


class Stream:
    """A bidirectional stream to one endpoint. Any fault is BrokenStream, and the endpoint is left for the next."""

    def __init__(
        self, session: Session, endpoint: Connection, rpc: Duplex, token: str | None, secondary: bool = False
    ) -> None:
        self._session, self._endpoint, self._rpc, self._token = session, endpoint, rpc, token
        self.is_secondary = secondary
        self.address = endpoint.address
        self.probe_requested = False
        """Whether there is a reason to think that its member has gone; whoever reads it says when that was wrong."""

    async def send(self, message: Message, timeout_s: float) -> None:
        """One sender at a time."""
        try:
            await self._rpc.send(message, timeout_s)
        except RpcFailed as failed:
            raise self._report_failure(failed) from None

    async def receive(self, timeout_s: float) -> Any | None:
        """The next message; None when there was none in time or a doubt has come up, which is no fault yet: receive
        again, or give up."""
        try:
            return await self._rpc.receive(timeout_s)
        except RpcFailed as failed:
            raise self._report_failure(failed) from None

    def request_probe(self) -> None:
        """Its member may be gone without a word: whoever reads this stream had better ask for a sign of life."""
        if not self.probe_requested:
            self.probe_requested = True
            self._rpc.wake_reader()

    def report_silence(self) -> BrokenStream:
        """Give up on the endpoint, because nothing came where something should have."""
        self._session.switch_endpoint(self._endpoint)
        return BrokenStream(f"{self.address}: silent")

    def report_token_refused(self) -> None:
        """The store said, in an answer, that this stream's token is no longer good. Where there can be none: Denied at
        the start, BrokenStream later on."""
        self._session.discard_token(self._token)
        if self._session.settings.user is None:
            error = self._session.record_refusal(Denied("etcd asks for a user and password"))
            raise BrokenStream(str(error)) if isinstance(error, Unavailable) else error

    def _report_failure(self, failed: RpcFailed) -> BrokenStream:
        if failed.fault is Fault.TOKEN:
            self._session.discard_token(self._token)
        else:
            self._session.switch_endpoint(self._endpoint, member_alive=failed.member_alive)
        return BrokenStream(str(failed))

    async def close(self) -> None:
        self._session.remove_stream(self)
        await self._rpc.close()
