"""Where commands and audit events can be exported to, as the option --audit-export names it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nodestore.support.values import Address, parse_address

SinkKind = Literal["file", "syslog", "syslog+udp", "syslog+tcp", "syslog+tls", "eventlog"]
_PORTS: dict[str, int] = {"syslog+udp": 514, "syslog+tcp": 514, "syslog+tls": 6514}
_EXPECTED = (
    "file:PATH, syslog:, syslog+udp://HOST[:PORT], syslog+tcp://HOST[:PORT], syslog+tls://HOST[:PORT] or eventlog:"
)


@dataclass(frozen=True, slots=True)
class SinkSpec:
    """A sink as an option names it. path: of a file. address: of a syslog server."""

    text: str
    kind: SinkKind
    path: Path | None = None
    address: Address | None = None

    def __str__(self) -> str:
        return self.text


def parse_sink(text: str, platform: str = sys.platform) -> SinkSpec:
    """The sink that `text` names. Raises ValueError or Invalid if it is none, or not one of this platform."""
    kind, separator, rest = text.partition(":")
    if not separator:
        raise ValueError(f"{text!r} is not one of {_EXPECTED}")
    if kind == "file":
        if not rest or not Path(rest).is_absolute():
            raise ValueError(f"{text!r}: give the whole path, such as file:/var/lib/nodectl/masterd/export.jsonl")
        return SinkSpec(text, "file", path=Path(rest))
    if kind in ("syslog", "eventlog") and rest in ("", "//"):
        if (kind == "eventlog") != (platform == "win32"):
            raise ValueError(f"{text}: Windows has an Event Log and no local syslog; other systems have only a syslog")
        return SinkSpec(text, "syslog" if kind == "syslog" else "eventlog")
    if kind in _PORTS and rest.startswith("//") and rest != "//":
        return SinkSpec(text, kind, address=_address(rest.removeprefix("//").rstrip("/"), _PORTS[kind]))  # type: ignore[arg-type]
    raise ValueError(f"{text!r} is not one of {_EXPECTED}")


def _address(text: str, port: int) -> Address:
    has_port = ":" in text.rpartition("]")[2]
    return parse_address(text if has_port else f"{text}:{port}")
