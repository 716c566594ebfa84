"""What a refused login comes to: when it is final, which password is tried, and how often."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodestore.daemon.options import Parser, add_common, add_maintenance, etcd_settings, maintenance_settings
from nodestore.errors import Denied, NodectlError, Unavailable
from nodestore.etcd.login import Login
from nodestore.etcd.types import EtcdSettings

NO = Denied("etcd refuses: authentication failed, invalid user ID or password")


class Clock:
    """A clock that advances only when the test advances it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def login(clock: Clock, *, user: str | None = "u", file: Path | None = None) -> Login:
    settings = EtcdSettings(endpoints=("a:1",), user=user, password="first", password_file=file)
    return Login(settings, clock)


def may_ask(subject: Login) -> bool:
    """Whether etcd may be asked now."""
    try:
        subject.raise_if_too_early()
    except NodectlError:
        return False
    return True


def test_a_refusal_at_the_start_is_final() -> None:
    """The refusal is raised unchanged, also to callers during the pause, and no later result is expected."""
    subject = login(Clock())
    assert subject.record_refusal(NO) is NO
    with pytest.raises(Denied, match="authentication failed"):
        subject.raise_if_too_early()
    assert subject.refusal is None


def test_a_refusal_later_on_can_be_waited_out() -> None:
    """The error names the user, the reason and the remedy until etcd accepts a request again."""
    subject = login(Clock(), file=Path("/etc/secret"))
    subject.record_token()
    subject.record_success()
    error = subject.record_refusal(NO)
    assert isinstance(error, Unavailable)
    assert "user u" in str(error)
    assert "(authentication failed, invalid user ID or password)" in str(error)
    assert "/etc/secret" in str(error)
    assert subject.refusal == str(error)
    subject.record_token()
    assert subject.refusal is not None, "a token alone proves nothing"
    subject.record_success()
    assert subject.refusal is None
    assert not subject.awaits_success


def test_it_is_asked_ever_more_rarely() -> None:
    """With the same password first 0.2 s apart, then twice as long each time, up to 5 s; after a success from 0.2 s."""
    clock, pauses = Clock(), []
    subject = login(clock)
    subject.record_token()
    for _ in range(8):
        subject.record_refusal(NO)
        begun = clock.now
        while not may_ask(subject):
            clock.now += 0.1
        pauses.append(round(clock.now - begun, 1))
    assert pauses == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]
    subject.record_token()
    subject.record_success()
    subject.record_refusal(NO)
    clock.now += 0.2
    assert may_ask(subject)


def test_another_password_in_the_file_is_tried_soon(tmp_path: Path) -> None:
    """A new password is tried within half a second, however long the pause is.

    A missing, empty or partly written file is ignored.
    """
    file, clock = tmp_path / "password", Clock()
    file.write_text("first\n")
    subject = login(clock, file=file)
    subject.record_token()
    for _ in range(6):
        clock.now += 10
        assert subject.password() == "first"
        subject.record_refusal(NO)
    clock.now += 0.6
    file.unlink()
    assert not may_ask(subject)
    clock.now += 0.6
    file.write_text("")
    assert not may_ask(subject)
    file.write_text("second\n")
    assert not may_ask(subject), "the file was looked at a moment ago"
    clock.now += 0.6
    assert may_ask(subject)
    assert subject.password() == "second"


def test_without_a_user() -> None:
    """Access control that is turned on later: what to do is another thing."""
    subject = login(Clock(), user=None)
    subject.record_success()
    assert "--user" in str(subject.record_refusal(Denied("etcd requires a user and password")))


def test_the_options_name_the_files(tmp_path: Path) -> None:
    """So that both sessions can read theirs again; a certificate instead has none."""
    own, roots, pem = tmp_path / "own", tmp_path / "root", tmp_path / "pem"
    for path in (own, roots, pem):
        path.write_text("secret")
    parser = Parser("x", "", {})
    add_common(parser)
    add_maintenance(parser)
    common = ["--cluster=c", "--user=u", f"--password-file={own}", f"--ca={pem}"]
    given = parser.parse_args([*common, "--maintenance-user=root", f"--maintenance-password-file={roots}"])
    base = etcd_settings(given)
    assert (base.password, base.password_file) == ("secret", own)
    assert maintenance_settings(given, base).password_file == roots
    given = parser.parse_args([*common, f"--maintenance-cert={pem}", f"--maintenance-key={pem}"])
    assert maintenance_settings(given, base).password_file is None
