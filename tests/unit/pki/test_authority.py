"""The two authorities in their directory: what is issued, renewed and revoked, also when the process dies between."""

from __future__ import annotations

import os
import ssl
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from nodestore.errors import Conflict, Invalid, NotFound
from nodestore.pki import private_files, signing
from nodestore.pki.authority import Authorities
from nodestore.pki.identity import Subject
from nodestore.support.der import issuer_and_serial
from nodestore.support.files.file_lock import lock_now
from nodestore.support.tls_files import TlsFiles, read_revoked

DAY_S = 86_400.0
NOW = 1_800_000_000.0
MASTERD, ETCD, OPERATOR = (Subject.parse(text) for text in ("masterd:pc1", "etcd:pc1", "operator:jo"))


class Disk:
    """Writes files without waiting for a disk. `dies`: the number of the write before or after which it kills."""

    def __init__(self) -> None:
        self.count, self.dies, self.after_write = 0, 0, False

    def write(self, path: Path, content: bytes, mode: int) -> None:
        self.count += 1
        if self.count == self.dies and not self.after_write:
            raise Killed
        path.write_bytes(content)
        path.chmod(mode)
        if self.count == self.dies:
            raise Killed

    def replace(self, source: Path, target: Path) -> None:
        self.count += 1
        if self.count == self.dies and not self.after_write:
            raise Killed
        source.replace(target)
        if self.count == self.dies:
            raise Killed


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture(autouse=True)
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    made = Disk()
    monkeypatch.setattr(private_files, "write_atomic", made.write)
    monkeypatch.setattr(private_files, "replace_file", made.replace)
    return made


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def authorities(tmp_path: Path, clock: Clock) -> Authorities:
    made = Authorities(tmp_path / "pki", clock)
    assert made.init("wall") == ["cluster", "peers"]
    return made


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def is_revoked(certificate: Path, revocations: Path) -> bool:
    der = ssl.PEM_cert_to_DER_cert(certificate.read_text("ascii"))
    return issuer_and_serial(der) in read_revoked(revocations)


def test_a_certificate_names_its_identity_and_addresses(authorities: Authorities) -> None:
    made = authorities.issue(MASTERD, ["pc1.Example", "10.0.0.1", "[FD00::0:1]"])
    certificate = load(made.directory / "pc1.crt")
    assert certificate.subject.rfc4514_string() == "CN=masterd:pc1"
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["pc1.example", "localhost"]
    assert sorted(map(str, names.get_values_for_type(x509.IPAddress))) == ["10.0.0.1", "127.0.0.1", "::1", "fd00::1"]
    assert certificate.not_valid_before_utc.timestamp() == 0  # a PC whose clock wakes in 1970 accepts it
    assert certificate.not_valid_after_utc.timestamp() == NOW + 90 * DAY_S == made.ends
    certificate.verify_directly_issued_by(load(made.directory / "ca.crt"))
    TlsFiles(ca=made.directory / "ca.crt", cert=made.directory / "pc1.crt", key=made.directory / "pc1.key",
             crl=made.directory / "ca.crl").read()  # fmt: skip


def test_only_servers_have_addresses(authorities: Authorities) -> None:
    certificate = load(authorities.issue(OPERATOR).directory / "jo.crt")
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    with pytest.raises(Invalid, match="accepts no connections"):
        authorities.issue(OPERATOR, ["10.0.0.1"])


def test_a_member_has_a_second_certificate_of_the_other_authority(authorities: Authorities) -> None:
    directory = authorities.issue(ETCD, ["10.0.0.1"]).directory
    load(directory / "pc1.crt").verify_directly_issued_by(load(directory / "ca.crt"))
    load(directory / "pc1-peer.crt").verify_directly_issued_by(load(directory / "peer-ca.crt"))
    with pytest.raises(ValueError, match="issuer"):
        load(directory / "pc1.crt").verify_directly_issued_by(load(directory / "peer-ca.crt"))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has access lists instead of modes")
def test_no_key_can_be_read_by_others(authorities: Authorities) -> None:
    directory = authorities.issue(ETCD).directory
    for key in (*authorities.directory.glob("*.key"), *directory.glob("*.key"), authorities.directory / "issued.json"):
        assert key.stat().st_mode & 0o777 == 0o600
    assert directory.stat().st_mode & 0o777 == authorities.directory.stat().st_mode & 0o777 == 0o700
    assert authorities.warnings() == []
    (directory / "pc1.key").chmod(0o640)
    assert authorities.warnings() == [f"{directory / 'pc1.key'} can be read by others than its owner: "
                                      f"chmod 600 {directory / 'pc1.key'}"]  # fmt: skip


def test_issuing_again_changes_nothing_until_two_thirds_of_the_life_are_over(
    authorities: Authorities, clock: Clock
) -> None:
    first = authorities.issue(ETCD, ["10.0.0.1"])
    assert first.changed
    before = {path.name: path.read_bytes() for path in first.directory.iterdir()}
    clock.now += 59 * DAY_S
    assert not authorities.issue(ETCD).changed
    assert not authorities.renew()[0].changed
    assert {path.name: path.read_bytes() for path in first.directory.iterdir()} == before
    clock.now += 2 * DAY_S
    renewed = authorities.renew()[0]
    assert renewed.changed
    assert renewed.ends == clock.now + 90 * DAY_S
    names = load(first.directory / "pc1-peer.crt").extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert "10.0.0.1" in map(str, names.value.get_values_for_type(x509.IPAddress))
    assert (first.directory / "pc1.key").read_bytes() != before["pc1.key"]


@pytest.mark.parametrize(
    "change", [{"names": ["10.0.0.2"]}, {"life_s": 20.0}, {"force": True}], ids=["address", "life", "force"]
)  # fmt: skip
def test_another_wish_issues_another_certificate(authorities: Authorities, change: dict[str, object]) -> None:
    authorities.issue(MASTERD, ["10.0.0.1"])
    assert authorities.issue(MASTERD, **change).changed  # type: ignore[arg-type]


def test_a_lost_file_is_issued_anew(authorities: Authorities) -> None:
    (authorities.issue(MASTERD).directory / "pc1.key").unlink()
    assert authorities.issue(MASTERD).changed


def test_files_go_where_they_are_wanted_and_are_renewed_there(authorities: Authorities, tmp_path: Path) -> None:
    assert authorities.issue(MASTERD, out=tmp_path / "tls").directory == tmp_path / "tls"
    assert authorities.renew([MASTERD], force=True)[0].directory == tmp_path / "tls"


def test_a_revocation_names_all_certificates_of_the_identity(authorities: Authorities, clock: Clock) -> None:
    """Also those that were renewed or have ended, and the lists of all PCs' files name them."""
    old = authorities.issue(ETCD).directory / "pc1.crt"
    kept = authorities.directory / "old.crt"
    kept.write_bytes(old.read_bytes())
    other = authorities.issue(MASTERD).directory
    clock.now += 100 * DAY_S
    authorities.renew([ETCD])
    assert len(authorities.revoke(ETCD)) == 4
    for certificate in (kept, old):
        assert is_revoked(certificate, authorities.directory / "ca.crl")
        assert is_revoked(certificate, other / "ca.crl")
    assert is_revoked(old.with_name("pc1-peer.crt"), authorities.directory / "peer-ca.crl")
    assert not is_revoked(other / "pc1.crt", other / "ca.crl")
    assert authorities.renew([MASTERD])[0].changed
    with pytest.raises(NotFound, match="etcd:pc1 has no certificate"):
        authorities.renew([ETCD])
    authorities.issue(ETCD)
    assert not is_revoked(old, authorities.directory / "ca.crl")


def test_one_certificate_alone_can_be_revoked(authorities: Authorities) -> None:
    authorities.issue(MASTERD)
    authorities.issue(MASTERD, force=True)
    first, second = (record.serial for record in authorities.records().issued)
    assert authorities.revoke(MASTERD, first.lower()) == [first]
    assert [record.serial for record in authorities.records().issued if record.revoked] == [first]
    with pytest.raises(NotFound, match="masterd:pc1 has no certificate 0A"):
        authorities.revoke(MASTERD, "0A")
    assert second


def test_a_revoked_certificate_is_never_forgotten(authorities: Authorities, clock: Clock) -> None:
    authorities.issue(MASTERD)
    authorities.revoke(MASTERD)
    authorities.issue(OPERATOR)
    clock.now += 3 * 365 * DAY_S
    authorities.issue(MASTERD)
    assert [record.identity for record in authorities.records().issued] == ["masterd:pc1", "masterd:pc1"]


@pytest.mark.parametrize("name", ["", "a b", "10.0.0.256", "-a.example", "a..b", "pc1:8401", "http://pc1", "ä.example"])
def test_a_wrong_address_is_invalid(authorities: Authorities, name: str) -> None:
    with pytest.raises(Invalid, match="neither a DNS name nor an IP address"):
        authorities.issue(MASTERD, [name])


def test_without_authorities_nothing_is_issued(tmp_path: Path) -> None:
    none = Authorities(tmp_path / "none")
    calls: list[Callable[[], object]] = [lambda: none.issue(MASTERD), none.renew, lambda: none.revoke(MASTERD)]
    for call in calls:
        with pytest.raises(NotFound, match="pki init"):
            call()


def test_a_key_of_another_authority_is_invalid(authorities: Authorities) -> None:
    (authorities.directory / "ca.key").write_bytes((authorities.directory / "peer-ca.key").read_bytes())
    with pytest.raises(Invalid, match=r"ca\.crt.*does not belong"):
        authorities.issue(MASTERD)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"v": 2, "issued": []}', b'{"v": 1, "issued": [{"serial": "x"}]}'])
def test_malformed_records_are_invalid(authorities: Authorities, content: bytes) -> None:
    (authorities.directory / "issued.json").write_bytes(content)
    with pytest.raises(Invalid, match=r"issued\.json"):
        authorities.issue(MASTERD)


def test_two_processes_do_not_work_in_one_directory(authorities: Authorities) -> None:
    descriptor = os.open(authorities.directory / ".lock", os.O_RDWR | os.O_CREAT)
    try:
        lock_now(descriptor)
        with pytest.raises(Conflict, match="another `nodectl pki`"):
            authorities.issue(MASTERD)
    finally:
        os.close(descriptor)
    assert authorities.issue(MASTERD).changed


def nothing_before(_: Authorities) -> None:
    pass


def masterd_before(authorities: Authorities) -> None:
    authorities.init("wall")
    authorities.issue(MASTERD)


def trusted_before(authorities: Authorities) -> None:
    masterd_before(authorities)
    authorities.issue(ETCD)
    authorities.rotate("cluster", "trust")


def reissued_before(authorities: Authorities) -> None:
    trusted_before(authorities)
    authorities.rotate("cluster", "reissue")


@pytest.mark.parametrize("after_write", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("prepare", "work", "writes_min"),
    [
        (nothing_before, lambda it: it.init("wall"), 6),
        (masterd_before, lambda it: it.issue(ETCD, ["10.0.0.9"]), 6),
        (masterd_before, lambda it: it.renew([MASTERD], force=True), 3),
        (masterd_before, lambda it: it.revoke(MASTERD), 3),
        (masterd_before, lambda it: it.rotate("cluster", "trust"), 4),
        (trusted_before, lambda it: it.rotate("cluster", "reissue"), 10),
        (reissued_before, lambda it: it.rotate("cluster", "remove"), 3),
    ],
    ids=["init", "issue", "renew", "revoke", "trust", "reissue", "remove"],
)
def test_a_command_that_was_interrupted_is_repeated(
    tmp_path: Path, disk: Disk, prepare: Callable[[Authorities], None], work: Callable[[Authorities], object],
    writes_min: int, after_write: bool,
) -> None:  # fmt: skip
    """The process dies at each of its writes in turn. Then the same command completes, and what exists is on record."""
    disk.after_write = after_write
    for dies_at in range(1, 100):
        authorities = Authorities(tmp_path / f"{dies_at}", lambda: NOW)
        prepare(authorities)
        disk.count, disk.dies = 0, dies_at
        try:
            work(authorities)
        except Killed:
            pass
        else:
            assert dies_at > writes_min
            return
        disk.dies = 0
        expect_on_record(authorities)
        work(authorities)
        expect_sound(authorities)
    raise AssertionError("the command never completed")


def expect_on_record(authorities: Authorities) -> None:
    """Every certificate that exists can be revoked."""
    found = leaf_certificates(authorities)
    serials = {int(item.serial, 16) for item in authorities.records().issued} if found else set()
    assert {load(path).serial_number for path in found} <= serials


def leaf_certificates(authorities: Authorities) -> list[Path]:
    found = authorities.directory.glob("issued/*/*.crt")
    return [path for path in found if path.name not in ("ca.crt", "peer-ca.crt")]


def expect_sound(authorities: Authorities) -> None:
    """Every certificate is on record, files belong together, and the lists hold exactly what is revoked."""
    authorities.issue(OPERATOR)
    expect_on_record(authorities)
    records = authorities.records().issued
    for path in leaf_certificates(authorities):
        authority = path.with_name("peer-ca.crt" if path.stem.endswith("-peer") else "ca.crt")
        assert any(
            signing.is_issued_by(path.read_bytes(), item) for item in signing.certificates_in(authority.read_bytes())
        )
        revocations = path.with_name("peer-ca.crl" if path.stem.endswith("-peer") else "ca.crl")
        TlsFiles(cert=path, key=path.with_suffix(".key"), crl=revocations).read()
    listed = {serial for name in ("ca.crl", "peer-ca.crl") for _, serial in read_revoked(authorities.directory / name)}
    revoked = {int(record.serial, 16) for record in records if record.revoked is not None}
    assert {int.from_bytes(serial, "big") for serial in listed} == revoked
