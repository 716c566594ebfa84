"""`nodectl login`, `whoami` and `auth can-i` with a master on which access control is on."""

from __future__ import annotations

import asyncio
import io
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import pytest

from nodectl.__main__ import run
from tests.support.cli import Ran
from tests.support.fakes.access import AccessCase
from tests.support.fakes.masterd_parts import serving

WAIT_S = 30.0
Access = tuple[str, dict[str, str]]


@pytest.fixture
def access() -> Iterator[Access]:
    """The URL of a master, and by role a token."""
    started: Future[tuple[Access, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        case = AccessCase()
        tokens = {
            "viewer": case.grant("viewer"), "admin": case.grant("admin"),
            "panel": case.grant("operator", commands=["scene.*"]),
        }  # fmt: skip
        async with serving(case.masterd) as url:
            over = asyncio.Event()
            texts = {name: headers["Authorization"].removeprefix("Bearer ") for name, headers in tokens.items()}
            started.set_result(((url, texts), asyncio.get_running_loop(), over))
            await over.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    found, loop, over = started.result(WAIT_S)
    yield found
    loop.call_soon_threadsafe(over.set)
    thread.join(WAIT_S)


@pytest.fixture
def call(access: Access, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    def nodectl(*arguments: str, stdin: str = "") -> Ran:
        typed = SimpleNamespace(isatty=lambda: False, buffer=io.BytesIO(stdin.encode()))
        monkeypatch.setattr(sys, "stdin", typed)
        code = run(["--endpoints", access[0], "--request-timeout", "10", *arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        assert all(token not in out + err for token in access[1].values())
        return Ran(code, out, err)

    return nodectl


def test_log_in_and_out(call: Callable[..., Ran], access: Access, tmp_path: Path) -> None:
    """The token is kept for its user alone, and used from then on."""
    assert (denied := call("whoami")).code == 6
    assert "nodectl login" in denied.err
    done = call("login", stdin=access[1]["viewer"] + "\n")
    assert (done.code, "logged in as token:viewer, role viewer" in done.err) == (0, True)
    [file] = (tmp_path / "tokens").iterdir()
    if os.name != "nt":
        assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    found = call("whoami", "-o", "json").json()
    assert (found["principal"], found["role"], found["access_control"]) == ("token:viewer", "viewer", True)
    assert call("auth", "can-i", "read").out == "yes\n"
    assert (call("auth", "can-i", "configure").out, call("auth", "can-i", "configure").code) == ("no\n", 1)
    assert call("login", "--forget").code == 0
    assert call("whoami").code == 6
    assert call("login", "--forget").code == 3


def test_a_token_that_is_not_valid_is_not_stored(call: Callable[..., Ran], tmp_path: Path) -> None:
    for text, code in (("NCT1.0123456789abcdef." + "A" * 43, 6), ("", 2), ("two words", 2)):
        assert call("login", stdin=text).code == code, text
    assert not (tmp_path / "tokens").exists()


def test_limits_are_said(call: Callable[..., Ran], access: Access, tmp_path: Path) -> None:
    file = tmp_path / "panel.token"
    file.write_text(access[1]["panel"], "utf-8")
    own = ("--token-file", str(file))
    assert call(*own, "auth", "can-i", "command", "scene.apply").out == "yes\n"
    refused = call(*own, "auth", "can-i", "command", "node.set")
    assert (refused.code, "may not send the command node.set: only scene.*" in refused.out) == (1, True)
    assert call(*own, "auth", "can-i", "reboot").code == 1
    assert call(*own, "auth", "can-i", "token").code == 1
    assert call(*own, "auth", "can-i", "dance").code == 2
    assert call(*own, "auth", "can-i", "pause", "x").code == 2
    assert "scene.*" in call(*own, "whoami").out


def test_switching_asks_first(call: Callable[..., Ran]) -> None:
    for what in ("enable", "disable"):
        refused = call("auth", what)
        assert (refused.code, "--yes" in refused.err) == (2, True)
