"""Credentials for tests: grants with tokens, and certificates that a header names instead of TLS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from aiohttp import web

from masterd.settings import MasterSettings
from nodestore.cluster.grants import certificate_grant_id
from nodestore.etcd.watch import Event
from nodestore.pki.identity import PeerIdentity
from nodestore.schema.models import AccessControl, Grant, Role
from nodestore.support.tokens import Token, hash_of
from tests.support.fakes.masterd_parts import KEYS, FakeMasterd

PEER_HEADER = "X-Test-Peer"


def peer_by_header(request: web.Request) -> PeerIdentity | None:
    """As if the connection had the client certificate that the header names as `kind:name`."""
    said = request.headers.get(PEER_HEADER)
    if said is None:
        return None
    kind, _, name = said.partition(":")
    return PeerIdentity(kind or None, name, "01")


def token_for(role: Role, number: int = 1) -> Token:
    return Token(f"{role:x<14}".encode().hex()[:14] + f"{number:02d}", f"{role}-{number}".ljust(43, "A"))


class AccessCase:
    """A masterd on which access control is on, with a token `<role>` for each role that was granted."""

    def __init__(self, *, is_on: bool = True) -> None:
        self.masterd = FakeMasterd()
        self.masterd.parts = replace(self.masterd.parts, settings=MasterSettings(require_credentials=is_on))
        self.masterd.view.grants.is_known = True
        self._number = 0

    def grant(
        self,
        role: Role,
        *,
        commands: Sequence[str] = (),
        groups: Sequence[str] = (),
        ends: float | None = None,
    ) -> dict[str, str]:
        """Create a token; return the headers of a request that bears it."""
        self._number += 1
        token = token_for(role, self._number)
        self.put(
            token.id,
            Grant(
                name=role, kind="token", role=role, commands=tuple(commands), groups=tuple(groups),
                hash=hash_of(token.secret), actor="test", time=0.0, ends=ends,
            ),
        )  # fmt: skip
        return {"Authorization": f"Bearer {token}"}

    def grant_to_certificate(self, name: str, role: Role) -> dict[str, str]:
        """Give a role to the certificate of an operator; return the headers of a request with that certificate."""
        self.put(
            certificate_grant_id(name), Grant(name=name, kind="certificate", role=role, actor="test", time=0.0)
        )  # fmt: skip
        return {PEER_HEADER: f"operator:{name}"}

    def put(self, grant_id: str, grant: Grant) -> None:
        """As if etcd's watch showed this grant."""
        self.masterd.view.grants.apply_event(Event(KEYS.grant(grant_id), grant.encode(), 1, 1, 0))

    def switch_on(self) -> None:
        """As if etcd's watch showed that access control was switched on."""
        control = AccessControl(enabled=True, actor="test", time=0.0)
        self.masterd.view.show_access_control(Event(KEYS.access_control, control.encode(), 3, 1, 0))

    def revoke(self, grant_id: str) -> None:
        """As if etcd's watch showed that this grant was deleted."""
        self.masterd.view.grants.apply_event(Event(KEYS.grant(grant_id), None, 2, 0, 0))
