"""The manager for NSSM, on a fake nssm.exe that answers as the recorded one does: in UTF-16, and PENDING at a start."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodestore.errors import Invalid, NodectlError
from nodestore.processes.child_processes import Completed
from nodestore.services import nssm
from nodestore.services.definitions import SERVICES
from nodestore.services.manager import ServiceDefinition, ServiceDirectory
from nodestore.services.nssm import NssmServices
from nodestore.services.nssm_settings import command_line, settings_of
from nodestore.services.windows_example import masterd_script

ROOT = Path(__file__).parents[3]
NAME = "nodectl-masterd"
NSSM = Path("C:/nodectl/nssm.exe")


def utf16(text: str) -> str:
    """What `run` makes of UTF-16 in a pipe."""
    return f"{text}\r\n".encode("utf-16-le").decode("utf-8", "replace")


class FakeNssm:
    """Keeps services and settings. `calls`: all that change something. `pending`: polls until a change is done."""

    def __init__(self) -> None:
        self.services: dict[str, dict[str, tuple[str, ...]]] = {}
        self.states: dict[str, str] = {}
        self.calls: list[str] = []
        self.pending = 0
        self._polls = 0
        self._next = ""
        self.refused = ""

    def __call__(self, argv: Sequence[str], timeout_s: float) -> Completed:
        assert argv[0] == str(NSSM)
        verb, name, *rest = argv[1:]
        if verb not in ("status", "get"):
            self.calls.append(" ".join(argv[1:]))
            if self.refused and self.refused in self.calls[-1]:
                return Completed(1, "", utf16("Access denied"))
        if verb != "install" and name not in self.services:
            return Completed(3, "", utf16(f"Can't open service!\r\nOpenService(): {name}"))
        return getattr(self, f"_{verb}")(name, *rest)  # type: ignore[no-any-return]

    def _install(self, name: str, program: str) -> Completed:
        self.services[name], self.states[name] = {"Application": (program,)}, "SERVICE_STOPPED"
        return Completed(0, utf16(f'Service "{name}" installed successfully!'), "")

    def _set(self, name: str, setting: str, *values: str) -> Completed:
        assert values
        self.services[name][setting] = values
        return Completed(0, utf16("Set parameter."), "")

    def _reset(self, name: str, setting: str) -> Completed:
        self.services[name].pop(setting, None)
        return Completed(0, utf16("Reset parameter."), "")

    def _get(self, name: str, setting: str) -> Completed:
        return Completed(0, utf16(" ".join(self.services[name].get(setting, ()))), "")

    def _remove(self, name: str, confirm: str) -> Completed:
        assert confirm == "confirm"
        del self.services[name], self.states[name]
        return Completed(0, "", "")

    def _status(self, name: str) -> Completed:
        if self._polls > 0:
            self._polls -= 1
            if self._polls == 0:
                self.states[name] = self._next
        return Completed(0, utf16(self.states[name]), "")

    def _start(self, name: str) -> Completed:
        return self._change(name, "SERVICE_START_PENDING", "SERVICE_RUNNING")

    def _stop(self, name: str) -> Completed:
        return self._change(name, "SERVICE_STOP_PENDING", "SERVICE_STOPPED")

    def _change(self, name: str, meanwhile: str, after: str) -> Completed:
        if not self.pending:
            self.states[name] = after
            return Completed(0, utf16(f"{name}: START: The operation completed successfully."), "")
        self.states[name], self._next, self._polls = meanwhile, after, self.pending
        return Completed(1, "", utf16(f"{name}: Unexpected status {meanwhile} in response to START control."))


@pytest.fixture
def fake() -> FakeNssm:
    return FakeNssm()


@pytest.fixture
def services(fake: FakeNssm, monkeypatch: pytest.MonkeyPatch) -> NssmServices:
    monkeypatch.setattr(nssm, "_POLL_S", 0.001)
    return NssmServices(NSSM, fake)


def definition(directory: Path) -> ServiceDefinition:
    return replace(
        SERVICES[NAME], argv=("C:\\Program Files\\nodectl\\python.exe", "-m", "masterd", "--id", "pc 1"),
        directories=(ServiceDirectory(PurePosixPath(directory / "state")),), log=PurePosixPath(directory / "log/m.log"),
    )  # fmt: skip


async def test_install_sets_everything_once(services: NssmServices, fake: FakeNssm, tmp_path: Path) -> None:
    wanted = definition(tmp_path)
    assert (await services.status(NAME)).state == "absent"
    assert await services.install(wanted)
    found = fake.services[NAME]
    assert found["Application"] == ("C:\\Program Files\\nodectl\\python.exe",)  # python itself, no launcher
    assert found["AppParameters"] == ('-m masterd --id "pc 1"',)
    assert found["AppStopMethodConsole"] == ("20000",)  # a handover alone may take four seconds
    assert found["AppExit"] == ("Default", "Restart")
    assert found["Start"] == ("SERVICE_AUTO_START",)
    assert f"NODECTL_LOG_FILE={wanted.log}" in found["AppEnvironmentExtra"]
    assert found["AppStderr"] == (str(tmp_path / "log/m.err"),)
    assert (tmp_path / "state").is_dir()
    assert (tmp_path / "log").is_dir()
    fake.calls.clear()
    assert not await services.install(wanted)
    assert fake.calls == []
    assert await services.install(replace(wanted, env={}, log=None))
    assert "AppEnvironmentExtra" not in fake.services[NAME]
    assert "AppStderr" not in fake.services[NAME]


async def test_an_install_that_died_anywhere_is_done_again(
    services: NssmServices, fake: FakeNssm, tmp_path: Path
) -> None:
    """Also the replacement of a definition: the former fingerprint is removed first."""
    former, wanted = replace(definition(tmp_path), nice=0), definition(tmp_path)
    for setting, _ in [*settings_of(wanted), ("Description", ())]:
        await services.install(former)
        fake.refused = f" {setting} "
        with pytest.raises(NodectlError, match=f"nssm .* {NAME} {setting}: Access denied"):
            await services.install(wanted)
        fake.refused = ""
        assert setting == "Description" or await services.install(wanted)
        assert setting == "Description" or fake.services[NAME]["AppPriority"] == ("ABOVE_NORMAL_PRIORITY_CLASS",)


@pytest.mark.parametrize("pending", [0, 3])
async def test_start_and_stop_wait_for_windows(
    services: NssmServices, fake: FakeNssm, tmp_path: Path, pending: int
) -> None:
    """nssm may return 1 with SERVICE_START_PENDING, which is no error."""
    fake.pending = pending
    await services.install(definition(tmp_path))
    await services.start(NAME)
    await services.start(NAME)
    assert (await services.status(NAME)).is_running
    await services.restart(NAME)
    assert (await services.status(NAME)).is_running
    await services.stop(NAME)
    await services.stop(NAME)
    assert (await services.status(NAME)).state == "stopped"
    await services.remove(NAME)
    await services.remove(NAME)
    assert (await services.status(NAME)).state == "absent"


async def test_what_cannot_be_is_one_line(
    services: NssmServices, fake: FakeNssm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Invalid, match="there is no service"):
        await services.start(NAME)
    await services.install(definition(tmp_path))
    fake.refused = "start"
    with pytest.raises(NodectlError, match=f"nssm start {NAME}: Access denied"):
        await services.start(NAME)
    fake.states[NAME] = "SERVICE_PAUSED"
    assert (await services.status(NAME)).detail.startswith("its program ends again and again")
    monkeypatch.setattr(nssm, "_END_S", 0.01)
    fake.pending = 1_000
    with pytest.raises(NodectlError, match=r"is stopping for 0\.01 s, and not stopped"):
        await services.stop(NAME)
    for bad in ("confirm me", "-x", ""):
        with pytest.raises(Invalid):
            await services.status(bad)
    with pytest.raises(Invalid, match="line break"):
        settings_of(replace(definition(tmp_path), env={"A": "b\nc"}))


@given(st.lists(st.text(st.sampled_from('a\\ "\t')), max_size=5))
def test_the_command_line_is_that_of_windows(arguments: list[str]) -> None:
    """Python's own rule, which follows Microsoft's documentation."""
    assert command_line(arguments) == subprocess.list2cmdline(arguments)


def test_paths_of_windows_stay_as_they_are() -> None:
    path = PureWindowsPath("C:\\nodectl\\log\\x.log")
    settings = dict(settings_of(replace(SERVICES[NAME], log=path)))
    assert settings["AppStderr"] == ("C:\\nodectl\\log\\x.err",)


def test_the_documentation_shows_what_the_manager_sets() -> None:
    page = (ROOT / "docs" / "services.md").read_text(encoding="utf-8")
    assert f"\n{masterd_script()}\n" in page
