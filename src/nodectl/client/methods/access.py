"""Methods for access control: who am I, tokens, and the switch."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Literal, TypeVar, cast

from nodectl.client.connection.errors import Broken
from nodectl.client.connection.http import Http, encode_body, path_segment
from nodectl.client.connection.requests import Requests
from nodectl.client.methods.calls import ApiCalls
from nodestore.errors import Denied, NodectlError, NotFound
from nodestore.schema import api_types
from nodestore.support.tokens import Token, hash_of, new_token

if TYPE_CHECKING:
    from nodestore.cluster.grants import Grants
    from nodestore.etcd.session import Etcd
    from nodestore.schema.keys import Keys

T = TypeVar("T")
_AUDIT_S = 5.0


class AccessCalls(ApiCalls):
    """The methods of Client for access control.

    With etcd endpoints, tokens are made, listed and revoked in etcd itself: so the first admin gets a token. If etcd
    refuses that to its user, they go through a master.
    """

    actor: str
    _requests: Requests
    _http: Http
    _etcd: Etcd | None
    _keys: Keys | None
    _read_timeout_s: float

    async def whoami(self, command: str | None = None, action: str | None = None) -> api_types.WhoAmI:
        """Return who this client is for the masters, its role, its limits, and what it may do.

        With `command`, `refusal` says why it may not send that command, with that `action` among its arguments.
        """
        params = {name: text for name, text in (("command", command), ("action", action)) if text is not None}
        return cast(
            api_types.WhoAmI,
            await self._requests.to_any("/v1/whoami", params=params, timeout_s=self._read_timeout_s),
        )

    async def tokens(self) -> list[api_types.TokenView]:
        """Return all tokens, and the roles of certificates. The secrets are not among it."""
        store = self._grants()
        if store is not None and (found := await _unless_denied(store.list())) is not None:
            from nodestore.cluster.grants import grant_view  # here: importing gRPC is slow

            uses = await store.uses()
            views = [grant_view(grant_id, grant, uses.get(grant_id)) for grant_id, grant in found.items()]
            return sorted(views, key=lambda item: (item["name"], item["id"]))
        answer = await self._requests.to_any("/v1/tokens", timeout_s=self._read_timeout_s)
        return cast(api_types.Tokens, answer)["tokens"]

    async def token_create(
        self,
        name: str,
        role: api_types.RoleName,
        *,
        lasts_s: float | None = None,
        commands: Sequence[str] = (),
        groups: Sequence[str] = (),
        certificate: bool = False,
    ) -> api_types.NewToken:
        """Create a token and return it; its secret is shown only now. Or give a role to a certificate.

        `lasts_s`: after how many seconds it ends. `commands`: patterns of the commands that its bearer may send.
        `groups`: the groups whose nodes they may change. `certificate`: for the certificate `CN=operator:<name>`,
        instead of a token; `token` is then None.
        """
        store = self._grants()
        if store is not None:
            from nodestore.cluster.grants import grant_view  # here: importing gRPC is slow

            made = await _unless_denied(
                store.create(
                    name, role, actor=self.actor, lasts_s=lasts_s, commands=commands, groups=groups,
                    certificate=certificate,
                )
            )  # fmt: skip
            if made is not None:
                return {**grant_view(made.id, made.grant), "token": made.token}
        body: api_types.TokenRequest = {
            "name": name, "role": role, "kind": "certificate" if certificate else "token", "lasts_s": lasts_s,
            "commands": list(commands), "groups": list(groups),
        }  # fmt: skip
        token = None
        if not certificate:  # made here, so that its secret stays here, and a repeat of the request makes no second one
            token = new_token()
            body["id"], body["hash"] = token.id, hash_of(token.secret)
        answer = cast(api_types.NewToken, await self._to_any("POST", "/v1/tokens", encode_body(dict(body))))
        return {**answer, "token": None if token is None else str(token)}

    async def token_revoke(self, token_id: str) -> None:
        """Revoke a token, or the role of a certificate. Its open connections end at once. Raises NotFound."""
        store = self._grants()
        revoked = None if store is None else await _unless_denied(store.revoke(token_id))
        if revoked is not None:
            if not revoked:
                raise _no_token(token_id)
            return
        if all(item["id"] != token_id for item in await self.tokens()):
            raise _no_token(token_id)
        with contextlib.suppress(NotFound):  # a request whose answer was lost is sent again
            await self._to_any("DELETE", f"/v1/tokens/{path_segment(token_id)}", None)

    async def join_tokens(self) -> list[api_types.JoinTokenView]:
        """Return the join tokens, with their uses. The secrets are not among it."""
        answer = await self._requests.to_any("/v1/join-tokens", timeout_s=self._read_timeout_s)
        return cast(api_types.JoinTokens, answer)["join_tokens"]

    async def join_token_create(
        self, kind: Literal["node", "host", "operator"], *, uses: int, lasts_s: float, name: str = ""
    ) -> tuple[Token, api_types.JoinTokenView]:
        """Create a join token through a master, and return it; its secret is shown only now.

        `uses`: how many PCs may join with it, at most 100. `lasts_s`: after how many seconds it ends, at most a year.
        `name`: the only name that it is for, which a token for an operator needs.
        """
        token = new_token()  # made here, so that its secret stays here, and a repeat of the request makes no second one
        body: api_types.JoinTokenRequest = {
            "id": token.id, "hash": hash_of(token.secret), "kind": kind, "uses": uses, "lasts_s": lasts_s, "name": name,
        }  # fmt: skip
        answer = await self._to_any("POST", "/v1/join-tokens", encode_body(dict(body)))
        return token, cast(api_types.JoinTokenView, answer)

    async def join_token_revoke(self, token_id: str) -> None:
        """Revoke a join token. Certificates that were got with it stay valid. Raises NotFound."""
        if all(item["id"] != token_id for item in await self.join_tokens()):
            raise NotFound(f"there is no join token {token_id[:80]!r}")
        with contextlib.suppress(NotFound):  # a request whose answer was lost is sent again
            await self._to_any("DELETE", f"/v1/join-tokens/{path_segment(token_id)}", None)

    async def access_control(self, enabled: bool) -> api_types.AccessControl:
        """Switch access control on or off. Only a client with an admin's credential can switch it on.

        With etcd endpoints it is switched off in etcd itself: that helps when no admin has a valid credential.
        """
        store = self._grants()
        if store is not None and not enabled:
            control = await _unless_denied(store.set_access_control(False, self.actor))
            if control is not None:
                return control.model_dump(mode="json")
        body: api_types.AccessRequest = {"enabled": enabled}
        return cast(api_types.AccessControl, await self._to_any("PUT", "/v1/access", encode_body(dict(body))))

    async def audit(self, *, limit: int = 100) -> list[tuple[str, api_types.AuditEntry]]:
        """Return the newest entries of the audit logs of all masters, oldest first, each with its master.

        A master that does not answer has one entry with the event `unreachable` and the reason.
        """
        answer: api_types.Masters = await self.get("/v1/masters", consistency="local")
        found = await asyncio.gather(*(self._audit_of(master, limit) for master in answer["masters"]))
        entries = [(master, entry) for master, of_master in found for entry in of_master]
        return sorted(entries, key=lambda item: item[1]["time"])[-limit:]

    async def _audit_of(self, master: api_types.MasterView, limit: int) -> tuple[str, list[api_types.AuditEntry]]:
        """Raises Denied if the master refuses this client's credential."""
        try:
            answer = cast(api_types.Audit, await self._http.call(
                "GET", f"{master['url']}/v1/audit", params={"limit": str(limit)}, timeout_s=_AUDIT_S
            ))  # fmt: skip
        except Denied:
            raise
        except (Broken, NodectlError) as error:
            missing: api_types.AuditEntry = {
                "time": time.time(), "event": "unreachable", "principal": "", "address": "", "request": "",
                "detail": str(error), "count": 1,
            }  # fmt: skip
            return master["id"], [missing]
        return master["id"], answer["entries"]

    async def _to_any(self, method: str, path: str, body: bytes | None) -> object:
        """Send a request that any masterd serves, also while there is no leader, until it is answered."""
        return await self._requests.to_any(path, method=method, body=body, timeout_s=self._read_timeout_s)

    def _grants(self) -> Grants | None:
        if self._etcd is None or self._keys is None:
            return None
        from nodestore.cluster.grants import Grants  # here: importing gRPC is slow

        return Grants(self._etcd, self._keys)


async def _unless_denied(work: Awaitable[T]) -> T | None:
    """The result of `work` in etcd; None if etcd refuses it to this user."""
    try:
        return await work
    except Denied:
        return None


def _no_token(token_id: str) -> NotFound:
    return NotFound(f"there is no token or grant {token_id[:80]!r} (see `nodectl token list`)")
