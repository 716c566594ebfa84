"""What masterd's status warns of: all of it, not only the first."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from masterd.daemon import api_warnings


def _with(name: str, text: str | None) -> Any:
    return SimpleNamespace(**{name: text})


@pytest.mark.parametrize(
    ("exposure", "own", "tls", "expected"),
    [
        (None, None, None, None),
        ("no TLS", None, None, "no TLS"),
        ("no TLS", "wrong host", "has ended", "no TLS; wrong host; has ended"),
        (None, "has ended", "has ended", "has ended"),
    ],
)
def test_each_warning_is_shown_once(
    exposure: str | None, own: str | None, tls: str | None, expected: str | None
) -> None:
    """A port without TLS does not hide a certificate that has ended."""
    settings = _with("exposure", exposure)
    assert api_warnings(settings, _with("warning", tls), _with("warning", own)) == expected


def test_a_masterd_without_tls_has_no_certificates_to_warn_of() -> None:
    assert api_warnings(_with("exposure", "no TLS"), None, None) == "no TLS"
