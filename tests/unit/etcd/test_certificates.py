"""A session's certificates: renewed files are used once they belong together, and an end is reported in time."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

from nodestore.etcd.certificates import CertificateWatch
from nodestore.support.tls_files import TlsContents, TlsFiles
from tests.support.certificates import Authority

DAY_S = 86_400.0


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


class Renewal:
    """The files of one program, the watch of them, and what it reported."""

    def __init__(self, authority: Authority, directory: Path, *, seconds: int = 100 * 86_400) -> None:
        self.authority, self.seconds = authority, seconds
        self.cert, self.key = directory / "own.pem", directory / "own.key"
        self.now = 0.0
        self.renewed: list[TlsContents] = []
        self.issue("first")
        files = TlsFiles(ca=authority.ca, cert=self.cert, key=self.key)
        self.of_members: list[str] = []
        self.watch = CertificateWatch(files, self.renewed.append, self._warnings_of_members, lambda: self.now)
        assert self.watch.first_end is not None
        self.now = self.watch.first_end.time - self.seconds

    async def _warnings_of_members(self) -> list[str]:
        return self.of_members

    def issue(self, name: str, *, cert: bool = True, key: bool = True) -> None:
        made = self.authority.issue(name, seconds=self.seconds)
        for source, target, wanted in zip(made, (self.cert, self.key), (cert, key), strict=True):
            if wanted:
                shutil.copy(source, target)


@pytest.fixture
def renewal(authority: Authority, tmp_path: Path) -> Renewal:
    return Renewal(authority, tmp_path)


def test_nothing_is_renewed_while_no_file_changes(renewal: Renewal) -> None:
    for _ in range(3):
        renewal.watch.check()
    renewal.watch.check(reread=True)
    assert renewal.renewed == []


def test_a_renewed_pair_is_used_once(renewal: Renewal, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    renewal.issue("second")
    renewal.watch.check()
    renewal.watch.check()
    assert [contents.cert for contents in renewal.renewed] == [renewal.cert.read_bytes()]
    assert f"uses renewed certificates: certificate {renewal.cert} ends at " in caplog.text


def test_half_a_renewal_changes_nothing(renewal: Renewal, caplog: pytest.LogCaptureFixture) -> None:
    """The certificate is new and its key is not there yet; an operator who forgets it reads so in the log."""
    renewal.issue("third", key=False)
    renewal.watch.check()
    assert caplog.messages == []
    renewal.watch.check()
    renewal.watch.check()
    assert renewal.renewed == []
    assert len(caplog.messages) == 1
    assert "the former certificates stay in use" in caplog.text
    shutil.copy(renewal.authority.issue("third", renew_key=False)[1], renewal.key)
    renewal.watch.check()
    assert len(renewal.renewed) == 1


def test_a_file_that_is_removed_changes_nothing(renewal: Renewal) -> None:
    renewal.cert.unlink()
    renewal.watch.check()
    assert renewal.renewed == []
    renewal.issue("fourth")
    renewal.watch.check()
    assert len(renewal.renewed) == 1


def test_the_end_is_reported_in_time(renewal: Renewal, caplog: pytest.LogCaptureFixture) -> None:
    """Once a day from 14 days before it, once a minute after it, and no longer once the files are renewed."""
    renewal.now += renewal.seconds - 15 * DAY_S
    renewal.watch.check()
    assert (caplog.messages, renewal.watch.warning) == ([], None)
    renewal.now += 2 * DAY_S
    renewal.watch.check()
    renewal.watch.check()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "(in 13 days)" in caplog.text
    renewal.now += 14 * DAY_S
    renewal.watch.check()
    renewal.watch.check()
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.ERROR]
    assert f"certificate {renewal.cert} ended at " in caplog.text
    renewal.seconds += 100 * 86_400
    renewal.issue("fifth")
    renewal.watch.check()
    assert renewal.watch.warning is None


def test_a_fault_names_the_certificate_if_it_may_be_the_cause(renewal: Renewal) -> None:
    assert renewal.watch.hint("connection refused") == ""
    assert str(renewal.cert) in renewal.watch.hint("Ssl handshake failed: CERTIFICATE_VERIFY_FAILED")
    renewal.now += renewal.seconds + 1
    assert "ended at" in renewal.watch.hint("connection reset")


def test_a_fault_says_that_there_is_no_client_certificate(authority: Authority) -> None:
    """etcd ends such a connection without a reason."""

    async def none() -> list[str]:
        return []

    watch = CertificateWatch(TlsFiles(ca=authority.ca), lambda _: None, none)
    assert "no client certificate is given" in watch.hint("Unwrap failed (TSI_DATA_CORRUPTED)")


async def test_the_certificates_of_members_are_logged_once_a_day(
    renewal: Renewal, caplog: pytest.LogCaptureFixture
) -> None:
    renewal.of_members = ["m1 ends", "m2 ends"]
    for _ in range(3):
        await renewal.watch.check_members()
    assert caplog.messages == ["m1 ends", "m2 ends"]
    renewal.of_members = ["m1 ended"]
    await renewal.watch.check_members()
    assert caplog.messages == ["m1 ends", "m2 ends", "m1 ended"]
