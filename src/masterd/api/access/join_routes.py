"""The routes of join tokens. Any masterd serves them without a leader. Signers use the tokens up in etcd themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from aiohttp import web

from masterd.api.access.audit import AuditLog
from masterd.api.access.change_records import record_change
from masterd.api.body_reader import read_body
from masterd.api.request_bodies import text_field
from masterd.roles.request_principal import principal_of
from nodestore.cluster.join_tokens import LASTS_MAX_S, USES_MAX, JoinTokens, join_token_view
from nodestore.errors import Invalid, NotFound
from nodestore.schema import api_types
from nodestore.schema.access_models import JoinKind
from nodestore.support.jsonio import dumps
from nodestore.support.tokens import checked_token_hash

Handler = Callable[[web.Request], Any]


class JoinRoutes:
    """Serves the routes of join tokens."""

    def __init__(self, tokens: JoinTokens, audit: AuditLog) -> None:
        self._tokens, self._audit = tokens, audit

    def routes(self) -> list[tuple[str, str, Handler]]:
        return [
            ("GET", "/v1/join-tokens", self._list),
            ("POST", "/v1/join-tokens", self._create),
            ("DELETE", "/v1/join-tokens/{id}", self._revoke),
        ]

    async def _list(self, _: web.Request) -> web.StreamResponse:
        found = await self._tokens.list()
        views = [join_token_view(token_id, token) for token_id, token in found.items()]
        return _json(api_types.JoinTokens(join_tokens=sorted(views, key=lambda item: (item["time"], item["id"]))))

    async def _create(self, request: web.Request) -> web.StreamResponse:
        body = await read_body(request)
        uses, lasts_s = body.get("uses"), body.get("lasts_s")
        if isinstance(uses, bool) or not isinstance(uses, int):
            raise Invalid(f"uses: expected a number from 1 to {USES_MAX}")
        if isinstance(lasts_s, bool) or not isinstance(lasts_s, int | float):
            raise Invalid(f"lasts_s: expected a number of seconds above 0, at most {LASTS_MAX_S:g}")
        made = checked_token_hash(text_field(body, "id"), text_field(body, "hash"))
        token = await self._tokens.create(
            made, cast(JoinKind, text_field(body, "kind")), uses=uses, lasts_s=lasts_s,
            actor=str(principal_of(request)), name=text_field(body, "name"),
        )  # fmt: skip
        kind = f"{token.kind} {token.name}".rstrip()
        record_change(self._audit, request, "join token created", f"{kind} ({made.id}), {token.uses} uses")
        return _json(join_token_view(made.id, token))

    async def _revoke(self, request: web.Request) -> web.StreamResponse:
        token_id = request.match_info["id"]
        if not await self._tokens.revoke(token_id):
            raise NotFound(f"there is no join token {token_id[:80]!r}")
        record_change(self._audit, request, "join token revoked", token_id)
        return _json(api_types.Deleted(deleted=token_id))


def _json(value: Any) -> web.Response:
    return web.Response(body=dumps(value), content_type="application/json", headers={"Cache-Control": "no-store"})
