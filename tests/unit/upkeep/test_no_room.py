"""etcd without free space: what clients, options and the log show."""

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
    """Refuse the request, as a leader does near the quota."""
    return master.problem(507, "no_space", "etcd's database is 83% full")


async def test_a_command_that_found_no_room_was_not_run() -> None:
    """The client retries until its timeout, then raises NoSpace, which says that the command was not run."""
    async with fake_cluster() as cluster:
        cluster.leading.always = full
        async with Client(cluster.urls, actor="test", command_timeout_s=2.0) as client:
            error = await _refusal(client)
        assert "83% full" in str(error)
        explained = explain(error)
        assert explained.code == ExitCode.UNAVAILABLE
        assert "recovery.md" in explained.hint


async def _refusal(client: Client) -> NoSpace:
    """Return the refusal of a command. The outcome is unknown if the timeout ends during a request: then try again."""
    for _ in range(5):
        try:
            await client.command("do")
        except NoSpace as error:
            return error
        except OutcomeUnknown:
            continue
    raise AssertionError("the client never raised NoSpace")


async def test_a_command_succeeds_once_there_is_room() -> None:
    """The client retries by itself, so the command succeeds once there is room."""
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
    """A full etcd.

    Each write is answered with NoSpaceUnknown. lands: whether it is stored. silent: later reads get no answer.
    """

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


async def test_the_outcome_of_a_pause_refused_for_space_is_read_from_the_store() -> None:
    """After NoSpaceUnknown the store is read: it shows whether the pause was written.

    If it cannot be read, the outcome is unknown.
    """
    await Configuration(cast(Etcd, Store(True)), KEYS).pause("me", "")
    with pytest.raises(NoSpace):
        await Configuration(cast(Etcd, Store(False)), KEYS).pause("me", "")
    for lands in (True, False):
        with pytest.raises(OutcomeUnknown):
            await Configuration(cast(Etcd, Store(lands, silent=True)), KEYS).pause("me", "")


def test_a_refused_write_is_not_mistaken_for_a_definite_refusal() -> None:
    """NoSpaceUnknown is an OutcomeUnknown, not a NoSpace: callers must not conclude that nothing happened."""
    assert issubclass(NoSpaceUnknown, OutcomeUnknown)
    assert not issubclass(NoSpaceUnknown, NoSpace)


def test_the_credential_for_maintenance(tmp_path: Path) -> None:
    """Maintenance calls use their own user or certificate if given, and the common one otherwise."""
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
def test_contradictory_options_are_refused(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Options that contradict one another end the program with a line that names the option."""
    with pytest.raises(SystemExit):
        parse(["--id=m1", "--cluster=wall", *arguments], {})
    assert complaint in capsys.readouterr().err
