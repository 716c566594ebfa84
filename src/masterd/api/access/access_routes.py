"""The routes of access control: who am I, tokens and grants, and the switch. Any masterd serves them without a leader.

A token can be revoked at any time, so nothing here goes through the journal. Each change is one key in etcd, written by
compare-and-swap. A new token is answered once this masterd knows it; the others know it a moment later, see `gate`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import web

from masterd.api.access.audit import AuditLog
from masterd.api.access.change_records import record_change
from masterd.api.access.credential_uses import CredentialUses
from masterd.api.access.event_log import ENTRIES_MAX
from masterd.api.access.join_routes import JoinRoutes
from masterd.api.access.rights import RIGHTS, ROLES, command_refusal
from masterd.api.access.switch import AccessSwitch
from masterd.api.body_reader import read_body
from masterd.api.reads import query_number
from masterd.api.request_bodies import text_field
from masterd.replication.cluster_view import ClusterView
from masterd.roles.request_principal import principal_of
from nodestore.cluster.grants import ENDS_MAX_S, Grants, grant_view
from nodestore.errors import Conflict, Invalid, NotFound
from nodestore.schema import api_types
from nodestore.support.jsonio import dumps
from nodestore.support.tokens import checked_token_hash
from nodestore.support.waiting import set_within

_KNOWN_S = 2.0
Handler = Callable[[web.Request], Any]


class AccessRoutes:
    """Serves the routes of access control."""

    def __init__(
        self,
        own_id: str,
        *,
        grants: Grants,
        uses: CredentialUses,
        joins: JoinRoutes,
        view: ClusterView,
        switch: AccessSwitch,
        audit: AuditLog,
    ) -> None:
        self._own_id, self._grants, self._uses, self._joins = own_id, grants, uses, joins
        self._view, self._switch, self._audit = view, switch, audit

    def routes(self) -> list[tuple[str, str, Handler]]:
        return [
            ("GET", "/v1/whoami", self._whoami),
            ("GET", "/v1/tokens", self._list),
            ("POST", "/v1/tokens", self._create),
            ("DELETE", "/v1/tokens/{id}", self._revoke),
            ("PUT", "/v1/access", self._put_access),
            ("GET", "/v1/audit", self._get_audit),
            *self._joins.routes(),
        ]

    async def _whoami(self, request: web.Request) -> web.StreamResponse:
        """The principal of the request, and the routes that it may use."""
        principal, command = principal_of(request), request.query.get("command")
        args = {"action": request.query["action"]} if "action" in request.query else {}
        may = [
            f"{method} {path}" for (method, path), right in RIGHTS.items() if right.allows(principal, principal.name)
        ]
        return _json(api_types.WhoAmI(
            principal=str(principal), role=principal.role, commands=list(principal.commands),
            groups=list(principal.groups), ends=principal.ends, address=principal.address or (request.remote or ""),
            access_control=bool(self._switch.is_on), may=may,
            browser_session=bool(principal.session),
            refusal=None if command is None else command_refusal(principal, command, args),
        ))  # fmt: skip

    async def _list(self, _: web.Request) -> web.StreamResponse:
        found, written = await asyncio.gather(self._grants.list(), self._grants.uses())
        uses = self._uses.latest(written)
        views = [grant_view(grant_id, grant, uses.get(grant_id)) for grant_id, grant in found.items()]
        return _json(api_types.Tokens(tokens=sorted(views, key=lambda item: (item["name"], item["id"]))))

    async def _create(self, request: web.Request) -> web.StreamResponse:
        body = await read_body(request)
        role, lasts_s = body.get("role"), body.get("lasts_s")
        if role not in ROLES:
            raise Invalid(f"role: expected one of {', '.join(ROLES)}")
        if lasts_s is not None and (isinstance(lasts_s, bool) or not isinstance(lasts_s, int | float)):
            raise Invalid(f"lasts_s: expected a number of seconds above 0, at most {ENDS_MAX_S:g}")
        kind = body.get("kind", "token")
        if kind not in ("token", "certificate"):
            raise Invalid("kind: expected token or certificate")
        hashed = text_field(body, "id"), text_field(body, "hash")
        made = await self._grants.create(
            text_field(body, "name"), role, actor=str(principal_of(request)), lasts_s=lasts_s,
            commands=_texts(body, "commands"), groups=_texts(body, "groups"), certificate=kind == "certificate",
            made=checked_token_hash(*hashed) if any(hashed) else None,
        )  # fmt: skip
        self._note(request, "token created", f"{made.grant.kind} {made.grant.name} ({made.id}), role {role}")
        await self._wait_known(lambda: self._view.grants.items.get(made.id) == made.grant)
        return _json(api_types.NewToken(**grant_view(made.id, made.grant), token=made.token))

    async def _revoke(self, request: web.Request) -> web.StreamResponse:
        grant_id = request.match_info["id"]
        if not await self._grants.revoke(grant_id):
            raise NotFound(f"there is no token or grant {grant_id[:80]!r} (see `nodectl token list`)")
        self._note(request, "token revoked", grant_id)
        await self._wait_known(lambda: grant_id not in self._view.grants.items)
        return _json(api_types.Deleted(deleted=grant_id))

    async def _put_access(self, request: web.Request) -> web.StreamResponse:
        """Switch access control. Only an admin with a valid credential can, so that there is one who can undo it."""
        enabled = (await read_body(request)).get("enabled")
        if not isinstance(enabled, bool):
            raise Invalid("enabled: expected true or false")
        if enabled:
            self._check_masters()
        control = await self._grants.set_access_control(enabled, str(principal_of(request)))
        self._note(request, f"access control {'on' if enabled else 'off'}")
        await self._wait_known(lambda: self._view.access_control == control)
        return _json(control.model_dump(mode="json"))

    async def _get_audit(self, request: web.Request) -> web.StreamResponse:
        entries = await self._audit.entries(min(query_number(request, "limit", 100, 1), ENTRIES_MAX))
        return _json(api_types.Audit(master=self._own_id, entries=entries))

    def _note(self, request: web.Request, event: str, detail: str = "") -> None:
        record_change(self._audit, request, event, detail)

    def _check_masters(self) -> None:
        """Raises Conflict if a masterd could not prove to the others that it is one: heartbeats would be refused."""
        plain = sorted(
            master
            for master, candidate in self._view.candidates.items.items()
            if not all(url.startswith("https://") for url in candidate.urls)
        )
        if plain:
            raise Conflict(
                f"without TLS masters cannot recognise one another, and tokens can be read on the way: give "
                f"{', '.join(plain)} a certificate first (docs/security.md)"
            )

    async def _wait_known(self, is_known: Callable[[], bool]) -> None:
        """Wait until the watch has shown the change here, for at most two seconds."""
        changed = asyncio.Event()
        unsubscribe = self._view.subscribe(lambda: changed.set() if is_known() else None)
        try:
            if not is_known():
                await set_within(changed, _KNOWN_S)
        finally:
            unsubscribe()


def _texts(body: dict[str, Any], name: str) -> list[str]:
    value = body.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise Invalid(f"{name}: expected a list of texts")
    return value


def _json(value: Any) -> web.Response:
    return web.Response(body=dumps(value), content_type="application/json", headers={"Cache-Control": "no-store"})
