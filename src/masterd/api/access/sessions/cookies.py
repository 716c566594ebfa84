"""The cookie of a browser session.

Its name begins with `__Host-`: browsers then accept it only over TLS, for this host alone and for all paths, so that no
other host and no page without TLS can set it. A browser sends it to all ports of the host; see `browser_rules`.
"""

from __future__ import annotations

from collections.abc import Mapping

from nodestore.errors import Invalid
from nodestore.support.tokens import SESSION_PREFIX, Token, parse_token

_HEADER = "Cookie"
_ATTRIBUTES = "Path=/; Secure; HttpOnly; SameSite=Strict"


class SessionCookie:
    """The cookie of the sessions of one cluster. Several clusters may have masters on the same host."""

    def __init__(self, cluster: str) -> None:
        self.name = f"__Host-nodectl-{cluster}"

    def is_in(self, headers: Mapping[str, str]) -> bool:
        """Whether the request has this cookie, valid or not."""
        return self.name in headers.get(_HEADER, "") and self._value(headers) is not None

    def read(self, headers: Mapping[str, str]) -> Token | None:
        """The id and the secret in the cookie of a request; None if it has none, or one of another form.

        Raises Invalid if it has two: a proxy in front may have checked the other one.
        """
        value = self._value(headers)
        return None if value is None else parse_token(value, SESSION_PREFIX)

    def _value(self, headers: Mapping[str, str]) -> str | None:
        pairs = (item.partition("=") for item in headers.get(_HEADER, "").split(";"))
        found = [value.strip() for name, _, value in pairs if name.strip() == self.name]
        if len(found) > 1:
            raise Invalid(f"the request has more than one cookie {self.name}: send one")
        return found[0] if found else None

    def set_by(self, token: Token) -> str:
        """The header `Set-Cookie` that begins the session. The browser forgets the cookie when it is closed."""
        return f"{self.name}={token}; {_ATTRIBUTES}"

    def removed_by(self) -> str:
        """The header `Set-Cookie` that makes the browser forget the cookie."""
        return f"{self.name}=; Max-Age=0; {_ATTRIBUTES}"
