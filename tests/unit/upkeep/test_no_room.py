"""A full etcd as clients, options and the log see it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web

from masterd.settings import parse
from nodectl import Client
from nodectl.cli.exit_codes import ExitCode, explain
from nodestore.cluster.configuration import Configuration
from nodestore.errors import NoSpace, NoSpaceUnknown, OutcomeUnknown, Unavailable
from nodestore.etcd.session import KV, Etcd
from nodestore.schema.keys import Keys
from tests.support.fakes.masterd import FakeMasterd, fake_cluster

KEYS = Keys("test")


async def full(master: FakeMasterd, request: web.Request, commands: list[dict[str, Any]]) -> web.StreamResponse:
    """Refused, as a leader does near the quota."""
    return master.problem(507, "no_space", "etcd's database is 83% full")


async def test_a_command_that_found_no_room_was_not_run() -> None:
    """It is tried until its time is up; that it may have taken effect is never said."""
    async with fake_cluster() as cluster:
        cluster.leading.always = full
        async with Client(cluster.urls, actor="test", command_timeout_s=2.0) as client:
            error = await _refusal(client)
        assert "83% full" in str(error)
        explained = explain(error)
        assert explained.code == ExitCode.UNAVAILABLE
        assert "recovery.md" in explained.hint


async def _refusal(client: Client) -> NoSpace:
    """Unless the time was up while the leader was just being asked: then nobody knows."""
    for _ in range(5):
        try:
            await client.command("do")
        except NoSpace as error:
            return error
        except OutcomeUnknown:
            continue
    raise AssertionError("it is never said that there was no room")


async def test_room_that_comes_back_is_used() -> None:
    """By itself: the caller only waits."""
    tries = 0

    async def full_twice(master: FakeMasterd, request: web.Request, commands: list[dict[str, Any]]) -> Any:
        nonlocal tries
        tries += 1
        return await full(master, request, commands) if tries < 3 else await master.answer(commands)

    async with fake_cluster() as cluster:
        cluster.leading.always = full_twice
        async with Client(cluster.urls, actor="test", command_timeout_s=10.0) as client:
            assert (await client.command("do")).index == 1


class Store:
    """etcd, full: the write is answered so whether it `lands` or not. `silent`: nothing is answered after it."""

    def __init__(self, lands: bool, silent: bool = False) -> None:
        self._lands, self._silent, self._kept, self._written = lands, silent, b"", False

    async def get(self, key: str) -> KV | None:
        if self._silent and self._written:
            raise Unavailable("no answer")
        return KV(key, self._kept, 1, 1, 1, 0) if self._kept else None

    async def txn(self, compares: Any, then: Any, orelse: Any, **more: Any) -> Any:
        self._written = True
        if self._lands:
            self._kept = then[0].request_put.value
        raise NoSpaceUnknown("full")


async def test_the_pause_that_filled_etcd_is_in_force() -> None:
    """Whether it is, the store tells; else it surely is not."""
    await Configuration(cast(Etcd, Store(True)), KEYS).pause("me", "")
    with pytest.raises(NoSpace):
        await Configuration(cast(Etcd, Store(False)), KEYS).pause("me", "")
    for lands in (True, False):
        with pytest.raises(OutcomeUnknown):
            await Configuration(cast(Etcd, Store(lands, silent=True)), KEYS).pause("me", "")


def test_a_refused_write_is_not_mistaken_for_a_definite_refusal() -> None:
    """Who handles Unavailable as `nothing has happened` must not get it."""
    assert issubclass(NoSpaceUnknown, OutcomeUnknown)
    assert not issubclass(NoSpaceUnknown, NoSpace)


def test_the_credential_for_maintenance(tmp_path: Path) -> None:
    """Its own user, or its own certificate; without either, the same as all else."""
    password, pem = tmp_path / "password", tmp_path / "pem"
    password.write_text("secret\n")
    pem.write_text("x")
    common = ["--id=m1", "--cluster=wall"]
    plain = parse(common, {})
    assert plain.maintenance == plain.etcd
    assert plain.master_settings.space.quota_bytes == 256 << 20
    own = parse([*common, "--maintenance-user=root", f"--maintenance-password-file={password}"], {})
    assert (own.etcd.user, own.maintenance.user, own.maintenance.password) == (None, "root", "secret")
    tls = [*common, f"--ca={pem}", f"--maintenance-cert={pem}", f"--maintenance-key={pem}"]
    assert parse(tls, {}).maintenance.cert == pem
    assert parse(tls, {}).etcd.cert is None


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--maintenance-user=root"], "--maintenance-user and --maintenance-password-file belong together"),
        (["--maintenance-cert=x"], "--maintenance-cert and --maintenance-key belong together"),
        (["--maintenance-cert=x", "--maintenance-key=x"], "--maintenance-cert needs --ca"),
        (["--etcd-quota-bytes=1"], "--etcd-quota-bytes"),
    ],
)
def test_what_does_not_fit_together(arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line that names the option."""
    with pytest.raises(SystemExit):
        parse(["--id=m1", "--cluster=wall", *arguments], {})
    assert complaint in capsys.readouterr().err
