"""`nodectl pki`: what an operator types and reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from nodectl.__main__ import run
from nodectl.cli.commands.security.pki import shared
from nodestore.pki import authority, signing
from tests.support.cli import Ran

Pki = Callable[..., Ran]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Pki:
    monkeypatch.setenv("NODECTL_PKI_DIR", str(tmp_path / "pki"))

    def nodectl(*arguments: str) -> Ran:
        code = run(["pki", *arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        assert "PRIVATE KEY" not in out + err
        return Ran(code, out, err)

    return nodectl


def test_from_init_to_revoke(call: Pki, tmp_path: Path) -> None:
    assert call("init", "--name", "plant").code == 0
    issued = call("issue", "masterd:pc1", "--address", "10.0.0.1", "--life", "2160h", "-o", "name")
    assert issued.out.strip() == str(tmp_path / "pki" / "issued" / "masterd-pc1")
    assert "up to date" in call("issue", "masterd:pc1").err
    assert "renewed" in call("renew", "--force").err
    found = json.loads(call("show", "-o", "json").out)
    assert [item["addresses"] for item in found["certificates"]] == [["10.0.0.1", "localhost", "127.0.0.1", "::1"]] * 2
    assert found["certificates"][0]["ends"] - found["certificates"][0]["issued"] == pytest.approx(90 * 86_400, abs=1)
    revoked = call("revoke", "masterd:pc1", "--yes")
    assert revoked.err.count("is revoked") == 2
    assert "ca.crl" in [path.name for path in (tmp_path / "pki").iterdir()]
    table = call("show").out
    assert table.count("revoked") == 2
    assert "KEY" in table.splitlines()[0]


def test_a_request_is_made_on_the_pc_and_signed_where_the_authorities_are(call: Pki, tmp_path: Path) -> None:
    own = tmp_path / "own"
    made = call("request", "etcd:pc1", "--out", str(own), "-o", "name")
    assert made.out.strip() == str(own / "pc1.csr")
    assert f"{own / 'pc1-peer.key'} made; it stays on this PC" in made.err
    assert "exists already and is used" in call("request", "etcd:pc1", "--out", str(own)).err
    call("init")
    signed = call("issue", "etcd:pc1", "--csr", made.out.strip(), "--address", "10.0.0.1")
    assert "copy" in signed.err
    directory = tmp_path / "pki" / "issued" / "etcd-pc1"
    names = sorted(path.name for path in directory.iterdir())
    assert names == ["ca.crl", "ca.crt", "pc1-peer.crt", "pc1.crt", "peer-ca.crl", "peer-ca.crt"]
    shown = json.loads(call("show", "-o", "json").out)["certificates"]
    assert [item["key_on_pc"] for item in shown] == [True, True]
    assert "the request is for etcd:pc1, not for etcd:pc2" in call("issue", "etcd:pc2", "--csr", made.out.strip()).err


def test_addresses_of_the_request_that_are_not_allowed_are_named(call: Pki, tmp_path: Path) -> None:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "masterd:pc1")])
    asked = x509.SubjectAlternativeName([x509.DNSName("pc1.example"), x509.DNSName("PC2.example")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name).add_extension(asked, critical=False)
    (tmp_path / "pc1.csr").write_bytes(
        builder.sign(signing.new_key(), hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    )
    call("init")
    said = call("issue", "masterd:pc1", "--csr", str(tmp_path / "pc1.csr"), "--address", "pc2.example").err
    assert "asks for pc1.example, which the certificate does not name: --address allows it" in said
    assert "PC2" not in said


def test_an_authority_is_replaced_in_three_steps(call: Pki) -> None:
    call("init")
    call("issue", "masterd:pc1")
    assert "rotate cluster trust`" in call("rotate", "cluster").err
    assert "--yes" in call("rotate", "cluster", "trust").err
    said = call("rotate", "cluster", "trust", "--yes").err
    assert "ca.crt holds the old and the new authority" in said
    assert "restart the members of etcd one at a time" in said
    assert "the authority cluster is being replaced" in call("show").err
    early = call("rotate", "cluster", "remove", "--yes")
    assert (early.code, "rotate cluster reissue" in early.err) == (4, True)
    issued = json.loads(call("rotate", "cluster", "reissue", "--yes", "-o", "json").out)
    assert [item["identity"] for item in issued["issued"]] == ["masterd:pc1"]
    assert "rotate cluster remove`" in call("rotate", "cluster").err
    assert "ca.crt holds the new authority alone" in call("rotate", "cluster", "remove", "--yes").err
    assert "being replaced" not in call("show").err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("show",), 3, "pki init"),
        (("issue", "masterd:pc1"), 3, "pki init"),
        (("issue", "pc1"), 2, "is not KIND:NAME"),
        (("issue", "masterd:pc1", "--address", "a b"), 2, "neither a DNS name nor an IP address"),
        (("issue", "masterd:pc1", "--life", "1s"), 2, "'1s' is not between 5s and"),
        (("revoke", "masterd:pc1"), 2, "--yes"),
        (("revoke", "masterd:pc1", "--yes"), 3, "pki init"),
        (("init", "--name", "a/b"), 2, "cluster name"),
        (("rotate", "cluster", "trust", "--yes"), 3, "pki init"),
        (("rotate", "other"), 2, "'cluster', 'peers'"),
        (("request", "pc1"), 2, "is not KIND:NAME"),
        (("issue", "masterd:pc1", "--csr", "/nowhere/pc1.csr"), 2, "cannot read the request /nowhere/pc1.csr"),
        (("issue", "masterd:pc1", "--csr", "/dev/null"), 2, "not a request for a certificate"),
    ],
)
def test_a_mistake_is_one_clear_line(call: Pki, arguments: tuple[str, ...], code: int, says: str) -> None:
    done = call(*arguments)
    assert (done.code, done.out) == (code, "")
    assert says in done.err.splitlines()[0]


def test_the_limits_of_a_life_are_those_of_the_authority() -> None:
    assert shared.LIFE_LIMITS_S == (authority.LIFE_MIN_S, authority.LIFE_MAX_S)
