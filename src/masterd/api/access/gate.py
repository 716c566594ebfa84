"""The check that every request passes before it is served. A refused one costs little: its body is not read."""

from __future__ import annotations

from aiohttp import hdrs, web

from masterd.api.access.browser_rules import BrowserRules, content_type_refusal, cors_headers, preflight_headers
from nodestore.errors import Denied


class Gate:
    """Decides whether a request may be served."""

    def __init__(self, browsers: BrowserRules) -> None:
        self._browsers = browsers

    def check(self, request: web.Request) -> None:
        """Raises Denied for a request that a page of another site may have sent, and aiohttp's error for a body that
        is not JSON."""
        headers = request.headers
        if (refusal := self._browsers.refusal(headers, is_tls=request.secure)) is not None:
            raise Denied(refusal)
        if request.body_exists:
            refusal = content_type_refusal(request.path, headers.get(hdrs.CONTENT_TYPE))
            if refusal is not None:
                raise web.HTTPUnsupportedMediaType(reason=refusal)

    def preflight(self, request: web.Request) -> web.Response | None:
        """The answer to a browser that asks whether a page of a trusted origin may send a request; else None."""
        origin = request.headers.get(hdrs.ORIGIN)
        if request.method != hdrs.METH_OPTIONS or origin not in self._browsers.trusted_origins:
            return None
        return web.Response(status=204, headers=preflight_headers(str(origin)))

    def install(self, app: web.Application) -> None:
        """Let pages of trusted origins, if there are any, read the answers of `app`."""
        if self._browsers.trusted_origins:
            app.on_response_prepare.append(self._add_cors_headers)

    async def _add_cors_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        origin = request.headers.get(hdrs.ORIGIN)
        if origin in self._browsers.trusted_origins:
            response.headers.update(cors_headers(str(origin)))
