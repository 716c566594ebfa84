"""A stream of the session. A fault of the stream makes the session switch endpoints or drop its token."""

from __future__ import annotations

from typing import Any, Protocol

from google.protobuf.message import Message

from nodestore.errors import Denied, NodectlError, Unavailable
from nodestore.etcd.rpc import RIGHTS_CHANGED, Connection, Duplex, Fault, RpcFailed
from nodestore.etcd.types import EtcdSettings


class Session(Protocol):
    """What a stream needs of the session that opened it. `nodestore.etcd.session.Etcd` implements it."""

    @property
    def settings(self) -> EtcdSettings: ...

    def switch_endpoint(self, endpoint: Connection, *, member_alive: bool = False) -> None:
        """Switch to the next endpoint if `endpoint` is in use. member_alive: the member itself reported the fault."""
        ...

    def discard_token(self, token: str | None) -> None:
        """Drop `token`, which etcd refused, unless it has been replaced already."""
        ...

    def record_refusal(self, error: NodectlError) -> NodectlError:
        """The error to raise after a refusal: Unavailable if etcd accepted this session before, else `error`."""
        ...

    def remove_stream(self, stream: Stream) -> None:
        """Called once a stream is closed; the session no longer probes it."""
        ...


class BrokenStream(Exception):
    """A stream ended, was refused or went silent: open another one."""


class Stream:
    """A bidirectional stream to one endpoint. Every fault is a BrokenStream; the session then leaves the endpoint.

    If the fault is a refused token, the session drops the token instead.
    """

    def __init__(
        self, session: Session, endpoint: Connection, rpc: Duplex, token: str | None, secondary: bool = False
    ) -> None:
        self._session, self._endpoint, self._rpc, self._token = session, endpoint, rpc, token
        self.is_secondary = secondary
        self.address = endpoint.address
        self._must_reopen = False
        self.probe_requested = False
        """Whether the stream's reader must check that the member is alive. The reader clears it at each message."""

    async def send(self, message: Message, timeout_s: float) -> None:
        """Send one message. Only one caller may send at a time."""
        self._raise_if_outdated()
        try:
            await self._rpc.send(message, timeout_s)
        except RpcFailed as failed:
            raise self._report_failure(failed) from None

    async def receive(self, timeout_s: float) -> Any | None:
        """The next message. None if none arrived in time, or if a probe was requested; the caller may receive again."""
        self._raise_if_outdated()
        try:
            message = await self._rpc.receive(timeout_s)
        except RpcFailed as failed:
            raise self._report_failure(failed) from None
        if message is None:
            self._raise_if_outdated()
        return message

    def request_reopening(self) -> None:
        """Make the stream's user open another one: the connection has been replaced. That is no fault of the member."""
        self._must_reopen = True
        self._rpc.wake_reader()

    def _raise_if_outdated(self) -> None:
        if self._must_reopen:
            raise BrokenStream(f"{self.address}: the connection was replaced by one with renewed certificates")

    def request_probe(self) -> None:
        """Wake the reader of the stream, so that it checks whether the member still answers."""
        if not self.probe_requested:
            self.probe_requested = True
            self._rpc.wake_reader()

    def request_progress(self) -> None:
        """Wake the reader of the stream, so that it sends a progress request."""
        self._rpc.wake_reader()

    def report_silence(self) -> BrokenStream:
        """Make the session leave the endpoint, which did not answer in time; return the error to raise."""
        self._session.switch_endpoint(self._endpoint)
        return BrokenStream(f"member {self.address} did not answer in time")

    def report_token_refused(self, reason: str) -> None:
        """Drop the stream's token, which etcd refused in a message of this stream. reason: etcd's text.

        If the session has no user, raise an error: Denied if etcd never accepted the session, else BrokenStream.
        """
        self._session.discard_token(self._token)
        if RIGHTS_CHANGED in reason:
            raise BrokenStream(f"{self.address}: {reason}")
        if self._session.settings.user is None:
            error = self._session.record_refusal(Denied("etcd requires a user and password (--user, --password-file)"))
            raise BrokenStream(str(error)) if isinstance(error, Unavailable) else error

    def _report_failure(self, failed: RpcFailed) -> BrokenStream:
        if failed.fault in (Fault.TOKEN, Fault.RIGHTS_CHANGED):
            self._session.discard_token(self._token)
        else:
            self._session.switch_endpoint(self._endpoint, member_alive=failed.member_alive)
        return BrokenStream(str(failed))

    async def close(self) -> None:
        self._session.remove_stream(self)
        await self._rpc.close()
