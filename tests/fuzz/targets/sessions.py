"""What browsers send in a session: the cookie, the origin of the page, and the code that comes from another master."""

from __future__ import annotations

from masterd.api.access.browser_rules import BrowserRules
from masterd.api.access.sessions.cookies import SessionCookie
from nodestore.errors import Invalid
from nodestore.support.tokens import CODE_PREFIX, SESSION_PREFIX, hide_token_secrets, parse_token
from tests.fuzz.target import Disagreement, Target, agree

_COOKIE = SessionCookie("plant")
_TOKEN = f"{SESSION_PREFIX}.0123456789abcdef.{'A' * 43}"
_HOST, _TRUSTED = "pc1:8401", "https://trusted.example"


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _cookie(data: bytes) -> None:
    """A cookie that is accepted is in the header as masterd sets it, once."""
    headers = {"Cookie": _text(data)}
    found = _COOKIE.read(headers)
    if found is None:
        raise Invalid("no cookie of a session")
    if not _COOKIE.is_in(headers):
        raise Disagreement("a cookie is read that is not there")
    agree("the prefix", found.prefix, SESSION_PREFIX)
    pair, _, _ = _COOKIE.set_by(found).partition(";")
    agree("the cookie, set and read", _COOKIE.read({"Cookie": pair}), found)
    if str(found) not in headers["Cookie"] or headers["Cookie"].count(_COOKIE.name) < 1:
        raise Disagreement("the cookie is another one than the browser sent")


def _code(data: bytes) -> None:
    """A code is no cookie and no token, and its secret is not written to the audit log."""
    text = _text(data)
    code = parse_token(text, CODE_PREFIX)
    if code is None:
        raise Invalid("no code")
    agree("a code, read and written", str(code), text)
    agree("a code as a token", parse_token(text), None)
    agree("a code as a cookie", parse_token(text, SESSION_PREFIX), None)
    if code.secret in hide_token_secrets(f"/login {text}"):
        raise Disagreement("the secret of a code is shown")


def _origin(data: bytes) -> None:
    """In a session, only pages of this master itself change something. Lines: method, Origin, Sec-Fetch-Site."""
    method, origin, site, *_ = [*_text(data).split("\n", 2), "", "", ""]
    headers = {"Host": _HOST, "Cookie": f"{_COOKIE.name}={_TOKEN}"}
    headers |= {name: value for name, value in (("Origin", origin), ("Sec-Fetch-Site", site)) if value}
    if BrowserRules(["pc1"], [_TRUSTED]).session_refusal(method, headers, is_tls=True) is not None:
        raise Invalid("refused")
    if origin.lower() == f"https://{_HOST}" or (method in ("GET", "HEAD") and not origin and site == "same-origin"):
        return
    raise Disagreement(f"a page of {origin!r} may send {method!r} in a session")


TARGETS = (
    Target("cookies", _cookie, (Invalid,), (_COOKIE.name, "=", "; ", _TOKEN, '"', "\t")),
    Target("codes", _code, (Invalid,), (CODE_PREFIX, ".", "0123456789abcdef", "A" * 43)),
    Target("session-origins", _origin, (Invalid,), ("GET", "POST", "\n", "https://pc1:8401", _TRUSTED, "same-origin")),
)
