"""The replacement of an authority: what is trusted and what signs after each step, and the order of the steps."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from nodestore.errors import Conflict
from nodestore.pki import private_files, signing
from nodestore.pki.authority import Authorities
from nodestore.pki.identity import Subject
from nodestore.pki.records import AuthorityName
from nodestore.pki.rotation import STEPS
from nodestore.pki.signing_requests import new_request
from nodestore.support.der import issuer_and_serial
from nodestore.support.tls_files import TlsFiles, read_revoked

MASTERD, ETCD, NODED = (Subject.parse(text) for text in ("masterd:pc1", "etcd:pc1", "noded:n1"))


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(path: Path, content: bytes, mode: int) -> None:
        path.write_bytes(content)
        path.chmod(mode)

    monkeypatch.setattr(private_files, "write_atomic", write)


@pytest.fixture
def authorities(tmp_path: Path) -> Authorities:
    made = Authorities(tmp_path / "pki")
    made.init("wall")
    made.issue(MASTERD, ["10.0.0.1"])
    made.issue(ETCD, ["10.0.0.1"])
    made.sign_request(NODED, new_request(NODED, signing.new_key()))
    return made


def trusted(authorities: Authorities, directory: Path | None = None) -> list[bytes]:
    return signing.certificates_in(((directory or authorities.directory) / "ca.crt").read_bytes())


def issuers(authorities: Authorities, candidates: list[bytes]) -> dict[str, list[int]]:
    """By identity: which of these authorities have signed its certificate."""
    found = {}
    for record in authorities.records().issued:
        name = Subject.parse(record.identity).name
        leaf = (Path(record.directory) / f"{name}.crt").read_bytes()
        found[record.identity] = [at for at, item in enumerate(candidates) if signing.is_issued_by(leaf, item)]
    return found


def test_step_by_step(authorities: Authorities) -> None:
    """Everybody trusts both authorities from before the first new certificate until after the last old one."""
    (old,) = trusted(authorities)
    identities = ("etcd:pc1", "masterd:pc1", "noded:n1")
    assert authorities.rotate("cluster", "trust") == []
    _, new = trusted(authorities)
    for identity in identities:
        directory = authorities.directory / "issued" / identity.replace(":", "-")
        assert trusted(authorities, directory) == [old, new]
    assert issuers(authorities, [old, new]) == {identity: [0] for identity in identities}

    changed = authorities.rotate("cluster", "reissue")
    assert [(str(item.identity), item.changed) for item in changed] == [(identity, True) for identity in identities]
    assert set(trusted(authorities)) == {old, new}
    assert issuers(authorities, [old, new]) == {identity: [1] for identity in identities}
    TlsFiles(cert=changed[1].directory / "pc1.crt", key=changed[1].directory / "pc1.key").read()
    assert not any(bundle.changed for bundle in authorities.renew())

    authorities.rotate("cluster", "remove")
    for identity in identities:
        assert trusted(authorities, authorities.directory / "issued" / identity.replace(":", "-")) == [new]
    assert sorted(path.name for path in authorities.directory.glob("ca*")) == ["ca.crl", "ca.crt", "ca.key"]
    assert authorities.issue(Subject.parse("operator:jo")).changed


def test_the_other_authority_is_left_alone(authorities: Authorities) -> None:
    """Of a member of etcd, only the certificate for its peers is issued anew."""
    before = (authorities.directory / "ca.crt").read_bytes()
    client = (authorities.directory / "issued" / "etcd-pc1" / "pc1.crt").read_bytes()
    for step in STEPS:
        changed = authorities.rotate("peers", step)
        assert [str(item.identity) for item in changed] == (["etcd:pc1"] if step == "reissue" else [])
    assert (authorities.directory / "ca.crt").read_bytes() == before
    assert (authorities.directory / "issued" / "etcd-pc1" / "pc1.crt").read_bytes() == client


@pytest.mark.parametrize("authority", ["cluster", "peers"])
def test_each_step_can_be_repeated_and_none_skipped(authorities: Authorities, authority: AuthorityName) -> None:
    def rotation() -> str | None:
        return {item.name: item.rotation for item in authorities.authorities()}[authority]

    authorities.rotate(authority, "remove")  # nothing is being replaced
    with pytest.raises(Conflict, match=f"rotate {authority} trust` is first"):
        authorities.rotate(authority, "reissue")
    assert rotation() is None
    for _ in range(2):
        authorities.rotate(authority, "trust")
        assert rotation() == "trust"
    with pytest.raises(Conflict, match=f"rotate {authority} reissue` is next"):
        authorities.rotate(authority, "remove")
    for _ in range(2):
        authorities.rotate(authority, "reissue")
        assert rotation() == "reissue"
    with pytest.raises(Conflict, match=f"rotate {authority} remove` is next"):
        authorities.rotate(authority, "trust")
    for _ in range(2):
        authorities.rotate(authority, "remove")
        assert rotation() is None
    authorities.rotate(authority, "trust")  # and another time


def test_nothing_is_removed_before_all_is_reissued(authorities: Authorities) -> None:
    old = (authorities.directory / "issued" / "masterd-pc1" / "pc1.crt").read_bytes()
    authorities.rotate("cluster", "trust")
    authorities.rotate("cluster", "reissue")
    (authorities.directory / "issued" / "masterd-pc1" / "pc1.crt").write_bytes(old)
    with pytest.raises(Conflict, match="certificates of masterd:pc1 are of the old authority"):
        authorities.rotate("cluster", "remove")
    assert len(trusted(authorities)) == 2


def test_one_revocation_list_names_certificates_of_both(authorities: Authorities) -> None:
    """etcd reads one list. The old certificate of a stolen PC must not come back while both are trusted."""
    old = _der(authorities)
    authorities.rotate("cluster", "trust")
    authorities.rotate("cluster", "reissue")
    new = _der(authorities)
    authorities.revoke(MASTERD)
    listed = read_revoked(authorities.directory / "ca.crl")
    assert {issuer_and_serial(old), issuer_and_serial(new)} == listed


def _der(authorities: Authorities) -> bytes:
    return ssl.PEM_cert_to_DER_cert((authorities.directory / "issued" / "masterd-pc1" / "pc1.crt").read_text("ascii"))


def test_a_further_authority_in_the_file_is_trusted_until_the_end(authorities: Authorities, tmp_path: Path) -> None:
    """A person may have added it by hand."""
    other = Authorities(tmp_path / "other")
    other.init("other")
    (authorities.directory / "ca.crt").write_bytes(b"".join((*trusted(authorities), *trusted(other))))
    authorities.rotate("cluster", "trust")
    assert len(trusted(authorities)) == 3
    authorities.rotate("cluster", "reissue")
    assert len(trusted(authorities)) == 3
