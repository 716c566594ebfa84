"""Whom a certificate names, also one that another authority issued or that an attacker could choose the name of."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodestore.errors import Invalid
from nodestore.pki.identity import KINDS, PeerIdentity, Subject, peer_identity_of


def certificate(*names: str) -> dict[str, Any]:
    return {"subject": tuple((("commonName", name),) for name in names), "serialNumber": "0A"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_common_name_is_kind_and_name(kind: str) -> None:
    assert peer_identity_of(certificate(f"{kind}:pc1")) == PeerIdentity(kind, "pc1", "0A")
    assert str(Subject.parse(f"{kind}:pc1")) == f"{kind}:pc1"


@pytest.mark.parametrize(
    "name", ["pc1", "master:pc1", "masterd:", "masterd:a b", "masterd:a/../b", "MASTERD:pc1", "masterd:pc1:x", "", ":"]
)
def test_another_common_name_has_no_kind(name: str) -> None:
    assert peer_identity_of(certificate(name)) == PeerIdentity(None, name, "0A")
    with pytest.raises(Invalid, match="masterd"):
        Subject.parse(name)


def test_a_certificate_with_two_common_names_names_nothing() -> None:
    assert peer_identity_of(certificate("masterd:pc1", "masterd:pc2")) == PeerIdentity(None, "", "0A")


@pytest.mark.parametrize("nothing", [None, {}])
def test_without_a_certificate_there_is_no_identity(nothing: dict[str, Any] | None) -> None:
    assert peer_identity_of(nothing) is None


def test_a_name_that_no_certificate_can_hold_is_invalid() -> None:
    with pytest.raises(Invalid, match="64 characters"):
        Subject.parse("operator:" + "a" * 56)


@given(st.text(max_size=80))
def test_no_text_raises_another_error(text: str) -> None:
    found = peer_identity_of(certificate(text))
    assert found is not None
    assert found.kind is None or f"{found.kind}:{found.name}" == text
