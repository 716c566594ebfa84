"""A headless Chromium with a profile of its own, which reaches nothing but this machine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

FOREIGN_NAME = "evil.example"
"""The name of a stranger's site. For this browser it points to 127.0.0.1."""

_PROGRAMS = ("chromium", "google-chrome")
_END_S = 10.0
_OPTIONS = (
    "--headless", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--no-default-browser-check",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-proxy-server",
    f"--host-resolver-rules=MAP {FOREIGN_NAME} 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)  # fmt: skip


def find_chromium() -> str:
    """Return the program. Skips the test if there is none."""
    found = next((path for name in _PROGRAMS if (path := shutil.which(name)) is not None), None)
    if found is None and os.environ.get("NO_CHROMIUM_PACKAGE"):  # set by .ci/run
        pytest.skip("this system has no package of Chromium")
    if found is None:
        pytest.skip("Chromium is not installed: on Debian, apt-get install chromium")
    return found


@contextlib.asynccontextmanager
async def opened(url: str, *options: str, authority: Path | None = None) -> AsyncIterator[Path]:
    """A browser that shows this page; its profile. It ends with the block; if the block fails, its log is printed.

    options: further ones. authority: a certificate that it trusts, imported as docs/security.md shows it.
    """
    with tempfile.TemporaryDirectory(prefix="nodectl-chromium-", ignore_cleanup_errors=True) as profile:
        log = Path(profile) / "test.log"
        if authority is not None:
            await _trust(authority, Path(profile))
        with log.open("wb") as output:
            browser = await asyncio.create_subprocess_exec(
                find_chromium(), *_OPTIONS, *_sandbox(), *options, f"--user-data-dir={profile}", url,
                stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output, env={**os.environ, "HOME": profile},
            )  # fmt: skip
        try:
            yield Path(profile)
        except BaseException:
            print(f"--- chromium\n{log.read_text('utf-8', 'replace')[-5000:]}", file=sys.stderr)  # noqa: T201 - pytest
            raise
        finally:
            await _end(browser)


async def _trust(authority: Path, home: Path) -> None:
    """Import the certificate of an authority for a user with this home. Skips the test without certutil."""
    program = shutil.which("certutil")
    if program is None:
        pytest.skip("certutil is not installed: on Debian, apt-get install libnss3-tools")
    folder = home / ".pki" / "nssdb"
    folder.mkdir(parents=True)
    for arguments in (("-N", "--empty-password"), ("-A", "-t", "C,,", "-n", "plant", "-i", str(authority))):
        done = await asyncio.create_subprocess_exec(
            program, "-d", f"sql:{folder}", *arguments,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await done.communicate()
        assert done.returncode == 0, output.decode("utf-8", "replace")


def _sandbox() -> list[str]:
    """Chromium refuses to run as root with its sandbox."""
    return ["--no-sandbox"] if os.name == "posix" and os.geteuid() == 0 else []


async def _end(browser: asyncio.subprocess.Process) -> None:
    """End it. Its child processes end with it."""
    with contextlib.suppress(ProcessLookupError):
        browser.terminate()
    try:
        async with asyncio.timeout(_END_S):
            await browser.wait()
    except TimeoutError:
        browser.kill()
        await browser.wait()
