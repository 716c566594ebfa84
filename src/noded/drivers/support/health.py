"""Checks periodically whether a program is healthy: by a command, a TCP connection or an HTTP request."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from noded.drivers.contract import DriverError, Settings
from noded.drivers.support.command import Argv, FinishedCommand
from noded.drivers.support.output import LINE_CHARS_MAX
from nodestore.errors import Invalid
from nodestore.support.logs import one_line
from nodestore.support.values import parse_address

HealthState = Literal["starting", "healthy", "unhealthy"]

_STARTING_EVERY_S = 1.0
_ANSWER_BYTES_MAX = 8 << 10
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([0-9]{3})(?: |\r|\n)")


def _address(text: str) -> tuple[str, int]:
    """Return host and port of `host:port`. The host is an IP address or localhost, so no check needs a name server."""
    try:
        given = parse_address(text)
    except Invalid as error:
        raise ValueError(f"{error}") from None
    host = "127.0.0.1" if given.host.lower() == "localhost" else given.host
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise ValueError("the host must be an IP address or localhost") from None
    return host, given.port


def _checked_address(text: str) -> str:
    _address(text)
    return text


def _checked_url(text: str) -> str:
    parts = urlsplit(text)
    _address(parts.netloc if parts.port else f"{parts.netloc}:80")
    return text


class HealthSettings(Settings):
    """The health check of a program."""

    argv: Argv | None = Field(default=None, description="a command: exit code 0 is healthy")
    tcp: Annotated[str, Field(max_length=300), AfterValidator(_checked_address)] | None = Field(
        default=None, description="ADDRESS:PORT, which must accept a connection"
    )
    http: Annotated[str, Field(pattern=r"^http://[!-~]+$", max_length=4_000), AfterValidator(_checked_url)] | None = (
        Field(default=None, description="a URL: a GET must be answered with a status from 200 to 399")
    )
    every_s: float = Field(default=5.0, ge=0.1, le=3_600, description="pause between two checks")
    timeout_s: float = Field(default=3.0, gt=0, le=300, description="a check that takes longer has failed")
    failures: int = Field(
        default=3, ge=1, le=1_000, description="failed checks in a row after which the program is restarted"
    )
    start_s: float = Field(
        default=30.0,
        ge=0,
        le=3_600,
        description="seconds after the program's start in which failures do not count, until it is healthy once",
    )

    @model_validator(mode="after")
    def _exactly_one_check(self) -> Self:
        if [self.argv, self.tcp, self.http].count(None) != 2:
            raise ValueError("give exactly one of argv, tcp and http")
        return self


class Health:
    """The health of one run of a program.

    run: runs a command with a time limit. wake: called when `state` or `is_unhealthy` changes.
    """

    def __init__(
        self,
        settings: HealthSettings,
        run: Callable[[Sequence[str], float], Awaitable[FinishedCommand]],
        wake: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._run = run
        self._wake = wake
        self._started = time.monotonic()
        self._failures = 0
        self.state: HealthState = "starting"
        self.has_passed = False
        """Whether a check of this run has succeeded."""
        self.error = ""
        """Error of the first failed check since the last healthy one; "" if healthy.

        Later failures do not change it, so that the status is not written again for each.
        """

    @property
    def is_unhealthy(self) -> bool:
        """Whether so many checks in a row failed that the program is to be restarted."""
        return self._failures >= self._settings.failures

    async def check_forever(self) -> None:
        """Check periodically until cancelled."""
        while True:
            self.record_check(await self._check_once(), time.monotonic() - self._started)
            starting = self.state == "starting"
            await asyncio.sleep(min(self._settings.every_s, _STARTING_EVERY_S) if starting else self._settings.every_s)

    def record_check(self, problem: str | None, age_s: float) -> None:
        """Record the result of a check made `age_s` after the program's start. problem: the error, None if healthy."""
        before = (self.state, self.is_unhealthy)
        if problem is None:
            self.state, self.error, self._failures, self.has_passed = "healthy", "", 0, True
        elif self.state != "starting" or age_s >= self._settings.start_s:
            if self._failures == 0:
                self.error = one_line(problem, LINE_CHARS_MAX)
            self.state = "unhealthy"
            self._failures += 1
        if before != (self.state, self.is_unhealthy):
            self._wake()

    async def _check_once(self) -> str | None:
        """Make one check. Returns the error; None if healthy."""
        settings = self._settings
        try:
            if settings.argv is not None:
                return (await self._run(settings.argv, settings.timeout_s)).problem
            async with asyncio.timeout(settings.timeout_s):
                if settings.tcp is not None:
                    await _connect(*_address(settings.tcp))
                    return None
                assert settings.http is not None
                return await _get(settings.http)
        except TimeoutError:
            return f"no answer within {settings.timeout_s:g} s"
        except DriverError as error:
            return error.message
        except OSError as error:
            return f"no connection: {error.strerror or error}"
        except Exception as error:  # noqa: BLE001 - an exception in this background task would end noded
            return f"the check failed: {type(error).__name__}: {error}"


async def _connect(host: str, port: int) -> None:
    _reader, writer = await asyncio.open_connection(host, port)
    writer.transport.abort()


async def _get(url: str) -> str | None:
    """Send a GET. Returns the error; None if the status is 200 to 399."""
    # without an HTTP library: it would be a larger dependency than noded itself
    parts = urlsplit(url)
    host, port = _address(parts.netloc if parts.port else f"{parts.netloc}:80")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    reader, writer = await asyncio.open_connection(host, port, limit=_ANSWER_BYTES_MAX)
    try:
        writer.write(f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n".encode())
        line = await reader.readline()
    except ValueError:
        line = b""  # the first line is longer than the limit
    finally:
        writer.transport.abort()
    status = _STATUS_LINE.match(line)
    if status is None:
        return "the answer is not HTTP"
    return None if 200 <= int(status[1]) < 400 else f"the answer was HTTP status {int(status[1])}"
