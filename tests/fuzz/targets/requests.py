"""What senders of requests write: bodies, and headers with credentials, hosts and origins."""

from __future__ import annotations

import asyncio
import ipaddress
from typing import Any
from urllib.parse import urlsplit

from masterd.api.access.browser_rules import BrowserRules, content_type_refusal
from masterd.api.body_reader import cost_of
from masterd.api.reads import parse_number
from masterd.api.request_bodies import parse_command
from masterd.roles.principal import Kind, Principal, parse_header
from nodestore.cluster.grants import checked_patterns
from nodestore.errors import Garbage, Invalid
from nodestore.schema.models import Inventory, decode
from nodestore.support.json_rules import checked_copy
from nodestore.support.jsonio import canonical, duplicate_key, loads
from nodestore.support.tokens import parse_token
from nodestore.support.values import parse_host_name, parse_origin
from tests.fuzz.target import Disagreement, Target, agree

_JO = Principal(Kind.TOKEN, "jo", "operator", address="10.0.0.7")
_OWN_NAMES = ("pc1", "wall.example")
_TRUSTED = "https://trusted.example"


def _body(data: bytes) -> Any:
    """As `body_reader` reads it. A value has one canonical form, which is read back as the same value."""
    asyncio.run(cost_of(data))
    body = loads(data, "the request body")
    if duplicate_key(data, body) is not None:
        raise Garbage("twice in one object")
    return body


def _command(data: bytes) -> None:
    body = _body(data)
    request = parse_command(body, "command.", _JO)
    agree("the author is the credential's", request.actor, "token:jo")
    args = checked_copy(request.args, "args")
    agree("arguments in their canonical form", loads(canonical(args)), args)


def _configuration(data: bytes) -> None:
    checked_copy({"inventory": _body(data)}, "inventory")  # as before it is written: JSON has no infinite numbers
    inventory = decode(Inventory, data, "inventory")
    agree("an inventory, written and read", decode(Inventory, inventory.encode(), "again"), inventory)


def _text(data: bytes) -> str:
    """As aiohttp decodes the bytes of a header."""
    return data.decode("utf-8", "surrogateescape")


def _host(data: bytes) -> None:
    """A browser that sends this Host and is served must have come from an address, or from a name of this master."""
    host = _text(data)
    if BrowserRules(_OWN_NAMES).refusal({"Host": host}, is_tls=True) is not None:
        raise Invalid("refused")
    name = (urlsplit(f"https://{host}").hostname or "").lower().removesuffix(".")
    if name not in (*_OWN_NAMES, "localhost"):
        ipaddress.ip_address(name.partition("%")[0])


def _origin(data: bytes) -> None:
    """No page may send requests here but this master's own, and those of the trusted origin."""
    origin = _text(data)
    rules = BrowserRules(_OWN_NAMES, [_TRUSTED])
    if rules.refusal({"Host": "pc1:8401", "Origin": origin}, is_tls=True) is not None:
        raise Invalid("refused")
    if origin.lower() not in ("https://pc1:8401", _TRUSTED):
        raise Disagreement(f"a page of {origin!r} may send requests")


def _headers(data: bytes) -> None:
    text = _text(data)
    content_type_refusal("/v1/commands", text)
    if (token := parse_token(text)) is not None:
        agree("a token, read and written", str(token), text)
    if (principal := parse_header(text)) is not None and not isinstance(principal.kind, Kind):
        raise Disagreement(f"a principal without a kind: {principal}")
    for parse in (parse_host_name, parse_origin, lambda item: checked_patterns([item]), _number):
        try:
            parse(text)
        except Invalid:
            continue


def _number(text: str) -> None:
    agree("a number of a query", str(parse_number("after", text)), text.lstrip("0") or "0")


_JSON = ("{", "}", "[", "]", ":", ",", "null", "true", "1e999", "-0", '"\\ud800"', "\\u003a")
TARGETS = (
    Target(
        "commands",
        _command,
        (Garbage, Invalid),
        (*_JSON, '"name"', '"args"', '"id"', '"after"', '"actor"', '"on_behalf_of"'),
    ),
    Target(
        "configurations",
        _configuration,
        (Garbage, Invalid),
        (*_JSON, *(f'"{name}"' for name in Inventory.model_fields)),
    ),
    Target("hosts", _host, (Invalid,), ("localhost", "pc1", "wall.example", "[::1]", ":8401", "%25", "127.0.0.1")),
    Target("origins", _origin, (Invalid,), ("https://", "http://", "pc1:8401", "null", _TRUSTED)),
    Target("headers", _headers, (), ("NCT1.", "application/json", '{"kind":', '"operator"', "https://", "*")),
)
