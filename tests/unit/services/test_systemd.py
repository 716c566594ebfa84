"""The manager for systemd, on a fake systemctl. The real one: tests/integration/operations/test_systemd_services.py."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from nodestore.errors import Invalid, NodectlError
from nodestore.processes.child_processes import Completed
from nodestore.services import systemd
from nodestore.services.manager import ServiceDefinition, ServiceDirectory
from nodestore.services.systemd import SystemdServices

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="systemd")

NAME = "nodectl-x"


class FakeSystemd:
    """Runs `systemctl` and `useradd` for one unit. `calls`: what was called, without `show`."""

    def __init__(self, units: Path) -> None:
        self._units = units
        self.calls: list[str] = []
        self.loaded: bytes | None = None
        self.enabled = False
        self.active = "inactive"
        self.invocation = 0
        self.fail: dict[str, str] = {}
        self.shown: dict[str, str] = {}

    def __call__(self, argv: Sequence[str], timeout_s: float) -> Completed:
        assert timeout_s > 0
        words = [word for word in argv[1:] if not word.startswith("-")]
        if argv[0] == "systemctl" and not words:
            return Completed(0, "systemd 252 (252.38-1~deb12u1)\n+PAM\n", "")
        if words[0] == "show":
            return Completed(0, self._show(), "")
        call = " ".join([argv[0], *words])
        self.calls.append(call)
        if call in self.fail:
            return Completed(1, "", self.fail[call])
        self._do(words[0])
        return Completed(0, "", "")

    def _do(self, verb: str) -> None:
        path = self._units / f"{NAME}.service"
        if verb == "daemon-reload":
            self.loaded = path.read_bytes() if path.exists() else None
        elif verb in ("enable", "disable"):
            self.enabled = verb == "enable"
        elif verb in ("start", "restart"):
            self.active, self.invocation = "active", self.invocation + 1
        elif verb == "stop":
            self.active = "inactive"

    def _show(self) -> str:
        path = self._units / f"{NAME}.service"
        present = path.read_bytes() if path.exists() else None
        shown = {
            "LoadState": "not-found" if self.loaded is None else "loaded",
            "ActiveState": self.active,
            "SubState": {"active": "running", "inactive": "dead"}[self.active],
            "MainPID": "77" if self.active == "active" else "0",
            "InvocationID": str(self.invocation or ""),
            "Job": "",
            "Result": "success",
            "ExecMainStatus": "0",
            "UnitFileState": "enabled" if self.enabled else "disabled",
            "NeedDaemonReload": "yes" if present != self.loaded else "no",
            **self.shown,
        }
        return "".join(f"{key}={value}\n" for key, value in shown.items())


@pytest.fixture
def fake(tmp_path: Path) -> FakeSystemd:
    (tmp_path / "units").mkdir()
    return FakeSystemd(tmp_path / "units")


@pytest.fixture
def services(fake: FakeSystemd, tmp_path: Path) -> SystemdServices:
    return SystemdServices(tmp_path / "units", fake)


def definition(*argv: str) -> ServiceDefinition:
    return ServiceDefinition(name=NAME, description="x", argv=argv or ("/bin/true",))


async def test_install_is_idempotent(services: SystemdServices, fake: FakeSystemd, tmp_path: Path) -> None:
    assert await services.install(definition())
    assert fake.calls == ["systemctl daemon-reload", f"systemctl enable {NAME}"]
    fake.calls.clear()
    assert not await services.install(definition())
    assert fake.calls == []
    assert await services.install(definition("/bin/false"))
    assert fake.calls == ["systemctl daemon-reload"]
    text = (tmp_path / "units" / f"{NAME}.service").read_text()
    assert "ExecStart=/bin/false\n" in text
    assert text.startswith("# Written by nodectl")


async def test_an_install_that_died_after_any_step_is_completed(services: SystemdServices, fake: FakeSystemd) -> None:
    for died_at in ("systemctl daemon-reload", f"systemctl enable {NAME}"):
        fake.fail = {died_at: "killed"}
        with pytest.raises(NodectlError):
            await services.install(definition(f"/bin/{died_at[-6:]}"))
        fake.fail = {}
        fake.enabled = fake.enabled and died_at == "systemctl daemon-reload"
        await services.install(definition(f"/bin/{died_at[-6:]}"))
        assert fake.enabled
        assert fake.loaded is not None
        assert f"ExecStart=/bin/{died_at[-6:]}".encode() in fake.loaded
        fake.enabled = False


async def test_start_stop_restart_and_remove(services: SystemdServices, fake: FakeSystemd, tmp_path: Path) -> None:
    assert (await services.status(NAME)).state == "absent"
    await services.stop(NAME)
    await services.install(definition())
    drop_in = tmp_path / "units" / f"{NAME}.service.d" / "override.conf"
    drop_in.parent.mkdir()
    drop_in.write_text("[Service]\nNice=1\n")
    assert (await services.status(NAME)).state == "stopped"
    fake.calls.clear()
    await services.start(NAME)
    await services.start(NAME)
    status = await services.status(NAME)
    assert (status.state, status.pid, status.detail) == ("running", 77, "")
    await services.restart(NAME)
    await services.stop(NAME)
    await services.stop(NAME)
    assert fake.calls == [f"systemctl {verb} {NAME}" for verb in ("start", "restart", "stop", "stop")]
    await services.remove(NAME)
    await services.remove(NAME)
    assert (await services.status(NAME)).state == "absent"
    assert drop_in.read_text() == "[Service]\nNice=1\n"


async def test_a_service_that_does_not_exist_is_not_started(services: SystemdServices) -> None:
    for call in (services.start, services.restart):
        with pytest.raises(Invalid, match=f"there is no service {NAME}"):
            await call(NAME)


@pytest.mark.parametrize(
    ("shown", "state", "detail"),
    [
        ({"ActiveState": "activating", "SubState": "start", "MainPID": "5"}, "starting", ""),
        ({"ActiveState": "deactivating", "SubState": "stop-sigterm", "MainPID": "5"}, "stopping", ""),
        (
            {"ActiveState": "activating", "SubState": "auto-restart", "Result": "exit-code", "ExecMainStatus": "2"},
            "failed", f"it ended (exit-code 2): see journalctl -u {NAME}",
        ),
        ({"ActiveState": "failed", "Result": "watchdog"}, "failed", f"it ended (watchdog): see journalctl -u {NAME}"),
        ({"ActiveState": "something-newer"}, "stopped", ""),
    ],
)  # fmt: skip
async def test_states(
    services: SystemdServices, fake: FakeSystemd, shown: dict[str, str], state: str, detail: str
) -> None:
    await services.install(definition())
    fake.shown = shown
    status = await services.status(NAME)
    assert (status.state, status.detail) == (state, detail)


async def test_what_systemd_refuses_is_one_line(services: SystemdServices, fake: FakeSystemd) -> None:
    fake.fail = {"systemctl daemon-reload": "Failed to connect to bus: No such file\nHint: more\n"}
    with pytest.raises(NodectlError) as caught:
        await services.install(definition())
    assert str(caught.value) == "systemctl daemon-reload: Failed to connect to bus: No such file"


async def test_a_service_that_the_administrator_masked_stays_so(services: SystemdServices, tmp_path: Path) -> None:
    """systemctl mask makes the file a link to /dev/null. Writing over it would start what was switched off."""
    path = tmp_path / "units" / f"{NAME}.service"
    path.symlink_to("/dev/null")
    with pytest.raises(Invalid, match="masked or replaced"):
        await services.install(definition())
    assert path.is_symlink()


@pytest.mark.parametrize("name", ["../x", "a b", "X", "", "-x", "a\n", "a.service"])
async def test_names_that_could_be_something_else_are_refused(services: SystemdServices, name: str) -> None:
    with pytest.raises(Invalid):
        await services.status(name)
    with pytest.raises(Invalid):
        await services.install(replace(definition(), name=name))


async def test_a_service_that_does_not_stop_is_reported_in_time(
    services: SystemdServices, fake: FakeSystemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    await services.install(definition())
    fake.shown = {"ActiveState": "deactivating", "SubState": "stop-sigkill"}
    monkeypatch.setattr(systemd, "_END_S", 0.1)
    with pytest.raises(NodectlError, match=r"does not stop: it is deactivating \(stop-sigkill\)"):
        await services.stop(NAME)


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="needs root")
async def test_private_files_belong_to_the_user_and_no_link_is_followed(
    services: SystemdServices, tmp_path: Path
) -> None:
    """A program that was taken over could put links among its files, to be given any file of the PC."""
    precious, keys, data = tmp_path / "precious", tmp_path / "keys", tmp_path / "data"
    precious.write_text("x")
    precious.chmod(0o644)
    keys.mkdir()
    (keys / "pc1.key").write_text("secret")
    (keys / "soft").symlink_to(precious)
    (keys / "hard").hardlink_to(precious)
    os.mkfifo(keys / "pipe")
    private = replace(
        definition(), user="nobody", readable=(PurePosixPath(keys), PurePosixPath(tmp_path / "missing")),
        directories=(ServiceDirectory(PurePosixPath(data)),),
    )  # fmt: skip
    await services.install(private)
    assert [path.owner() for path in (keys, keys / "pc1.key", data, precious)] == ["nobody"] * 3 + ["root"]
    assert [path.stat().st_mode & 0o777 for path in (keys, keys / "pc1.key", precious)] == [0o700, 0o600, 0o644]
