"""Says in plain words why a connection with TLS failed. Pure."""

from __future__ import annotations

import re

_MEANINGS = (
    # What this program found wrong with the other one's certificate.
    (r"certificate has expired", "its certificate has ended, or the clock of this PC is ahead"),
    (r"certificate is not yet valid", "its certificate is not valid yet: the clock of this PC is behind"),
    (
        r"unable to get (?:local )?issuer certificate|self[- ]signed certificate",
        "its certificate is of none of the authorities that this program trusts (--ca)",
    ),
    # What the other program said of this one's.
    (r"alert[_ ]certificate[_ ]expired", "it refuses this program's certificate: it has ended, by the clock there"),
    (r"alert[_ ]certificate[_ ]revoked", "it refuses this program's certificate: it is revoked"),
    (r"alert[_ ]unknown[_ ]ca", "it refuses this program's certificate: it is of none of the authorities known there"),
)
_PATTERNS = tuple((re.compile(pattern, re.IGNORECASE), meaning) for pattern, meaning in _MEANINGS)


def explain(fault: str) -> str:
    """What the text of OpenSSL or gRPC means, if it is a known fault of TLS; else the text as it is."""
    return next((meaning for pattern, meaning in _PATTERNS if pattern.search(fault)), fault)
