"""The login page, and its headers. The page asks the API for all that it shows."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from aiohttp import hdrs, web

LOGIN_PATH = "/login"
_INLINE = re.compile(r"<(style|script)>(.*?)</\1>", re.DOTALL)
_POLICY = (
    "default-src 'none'", "connect-src 'self'", "img-src data:", "base-uri 'none'", "form-action 'none'",
    "frame-ancestors 'none'", "require-trusted-types-for 'script'",
)  # fmt: skip


def content_security_policy(page: str) -> str:
    """The policy of a page: only the styles and scripts within it may run, and it may reach only its own origin."""
    allowed = [f"{kind}-src '{_digest(text)}'" for kind, text in _INLINE.findall(page)]
    return "; ".join([*_POLICY, *allowed])


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


_PAGE = Path(__file__).with_name("login.html").read_text("utf-8")
HEADERS = {
    "Content-Security-Policy": content_security_policy(_PAGE),
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


async def serve_login(_: web.Request) -> web.StreamResponse:
    """The login page. With a session, it shows whose it is, and the way to the other masters."""
    return web.Response(text=_PAGE, content_type="text/html", charset="utf-8", headers=HEADERS)


async def redirect_to_login(_: web.Request) -> web.StreamResponse:
    """There is no other page yet."""
    return web.Response(status=302, headers={**HEADERS, hdrs.LOCATION: LOGIN_PATH})
