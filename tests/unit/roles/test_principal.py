"""The principal of a forwarded request arrives at the leader as the sender named it."""

from __future__ import annotations

import pytest

from masterd.roles.principal import ForwardedPrincipal, Kind, Principal, parse_header


@pytest.mark.parametrize("name", ["anna", "ren\xe9", "\u4e2d", "\U0001f600", 'a"b\\c', "two\nlines"])
def test_every_name_is_passed_on_in_ascii(name: str) -> None:
    """Another program may write a grant with any name."""
    text = Principal(Kind.TOKEN, name, grant_id="g1", address="10.0.0.9").header()
    assert text.isascii()
    assert text.isprintable()
    assert parse_header(text) == ForwardedPrincipal(Kind.TOKEN, name, "g1", "10.0.0.9")
