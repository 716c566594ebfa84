"""Records the logins and open streams of a session, and lets a test expire the tokens that etcd issued."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message

from nodestore.etcd.rpc import Connection, Duplex, Metadata, connect_by_grpc
from nodestore.etcd.types import EtcdSettings


class ConnectionTap:
    """Connects by gRPC: `Etcd(settings, connect=ConnectionTap(settings).connect)`."""

    def __init__(self, settings: EtcdSettings) -> None:
        self._connect = connect_by_grpc(settings)
        self._expired: set[str] = set()
        self.logins = 0
        """Requests for a token."""
        self.tokens: list[str] = []
        """Tokens that etcd issued."""
        self.open_streams: list[str] = []
        """The address of each open stream."""

    def connect(self, address: str) -> Connection:
        return _TappedConnection(self, self._connect(address))

    def expire_tokens(self) -> None:
        """From now on, etcd refuses all tokens that it issued so far."""
        self._expired.update(self.tokens)

    def metadata(self, metadata: Metadata) -> Metadata:
        """Return `metadata`, with an expired token replaced by one that no member knows."""
        return tuple((name, "expired.1" if value in self._expired else value) for name, value in metadata)


class _TappedConnection:
    def __init__(self, tap: ConnectionTap, connection: Connection) -> None:
        self._tap, self._connection = tap, connection

    @property
    def address(self) -> str:
        return self._connection.address

    async def call(self, method: str, request: Message, timeout_s: float, metadata: Metadata) -> Any:
        is_login = method == "Auth/Authenticate"
        self._tap.logins += is_login
        response = await self._connection.call(method, request, timeout_s, self._tap.metadata(metadata))
        if is_login:
            self._tap.tokens.append(response.token)
        return response

    def open(self, method: str, metadata: Metadata) -> Duplex:
        return _TappedStream(self._tap, self.address, self._connection.open(method, self._tap.metadata(metadata)))

    async def close(self) -> None:
        await self._connection.close()


class _TappedStream:
    def __init__(self, tap: ConnectionTap, address: str, stream: Duplex) -> None:
        self._tap, self._address, self._stream = tap, address, stream
        self._is_open = True
        tap.open_streams.append(address)

    async def send(self, message: Message, timeout_s: float) -> None:
        await self._stream.send(message, timeout_s)

    async def receive(self, timeout_s: float) -> Any | None:
        return await self._stream.receive(timeout_s)

    def wake_reader(self) -> None:
        self._stream.wake_reader()

    async def close(self) -> None:
        if self._is_open:
            self._is_open = False
            self._tap.open_streams.remove(self._address)
        await self._stream.close()
