"""Keeps a session's certificates current: reads changed files, and reports certificates that end soon."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import NoReturn

from nodestore.errors import Invalid
from nodestore.support.logs import RateLimitedLog
from nodestore.support.tls_files import CertificateEnd, TlsContents, TlsFiles, end_warning

log = logging.getLogger(__name__)

_CHECK_EVERY_S = 1.0
_MEMBERS_EVERY_S = 60.0
_CONCERNS_TLS = ("certificate", "handshake", "ssl", "tls", "tsi_")
_WARN_EVERY_S = 86_400.0
_ENDED_EVERY_S = 60.0


class CertificateWatch:
    """Checks the TLS files of one session. `renew` is called with their contents once they have changed.

    Files that cannot be used, as while they are being written, change nothing: the former contents stay in use.
    """

    def __init__(
        self,
        files: TlsFiles,
        renew: Callable[[TlsContents], None],
        warnings_of_members: Callable[[], Awaitable[list[str]]],
        clock: Callable[[], float] = time.time,
        *,
        user: str = "",
        logs_ends: bool = True,
    ) -> None:
        """Read the files. Raises Invalid if they cannot be used.

        warnings_of_members: returns a line for each member whose certificate ends soon. They are logged. user: what
        uses the files, for the log; by default the session with etcd. logs_ends: log certificates that end soon, unless
        another watch of the same files does.
        """
        self._user, self._logs_ends = user, logs_ends
        self._files, self._renew, self._warnings_of_members, self._clock = files, renew, warnings_of_members, clock
        self._member_logs: dict[str, RateLimitedLog] = {}
        self._signature = files.signature()
        self._contents = files.read()
        self._unusable_log = RateLimitedLog(log, _ENDED_EVERY_S)
        self._ends_soon_log = RateLimitedLog(log, _WARN_EVERY_S)
        self._ended_log = RateLimitedLog(log, _ENDED_EVERY_S)
        self._was_unusable = False

    async def run(self) -> NoReturn:
        """Check the files every second, and the members' certificates every minute, the first time after a minute."""
        next_members_at = time.monotonic() + _MEMBERS_EVERY_S
        while True:
            self.check()
            await asyncio.sleep(_CHECK_EVERY_S)
            if time.monotonic() >= next_members_at:
                next_members_at = time.monotonic() + _MEMBERS_EVERY_S
                await self.check_members()

    async def check_members(self) -> None:
        """Log members whose certificates end soon, each once a day."""
        warnings = await self._warnings_of_members()
        self._member_logs = {
            line: self._member_logs.get(line) or RateLimitedLog(log, _WARN_EVERY_S) for line in warnings
        }
        for line, limited in self._member_logs.items():
            limited.log(logging.WARNING, line)

    @property
    def contents(self) -> TlsContents:
        """The contents in use."""
        return self._contents

    @property
    def first_end(self) -> CertificateEnd | None:
        """The certificate in use that ends first; None if no file holds one."""
        return self._contents.ends[0] if self._contents.ends else None

    @property
    def warning(self) -> str | None:
        """That a certificate in use has ended, or ends within 14 days; None if none does."""
        return end_warning(self.first_end, self._clock())

    def hint(self, fault: str) -> str:
        """What to add to the description of `fault`, the reason why a member was not reached; "" if nothing.

        It names the session's certificate if that has ended, or if the fault concerns a certificate.
        """
        end = self.first_end
        if end is not None and end.time <= self._clock():
            return f" ({self.warning})"
        if not any(word in fault.lower() for word in _CONCERNS_TLS):
            return ""
        if self._contents.cert is None:
            return " (no client certificate is given, and the member may require one: --cert and --key)"
        return f" (own {end})"

    def check(self, *, reread: bool = False) -> None:
        """Read the files if they have changed, and log certificates that end soon. `reread`: read them in any case."""
        signature = self._files.signature()
        if reread or signature != self._signature:
            self._read(signature)
        if self._logs_ends:
            self._log_ends()

    def _log_ends(self) -> None:
        warning, end = self.warning, self.first_end
        if warning is None or end is None:
            self._ends_soon_log.reset()
            self._ended_log.reset()
        elif end.time > self._clock():
            self._ends_soon_log.log(logging.WARNING, warning, about=end)
        else:
            self._ended_log.log(logging.ERROR, warning, about=end)

    def _read(self, signature: tuple[object, ...]) -> None:
        try:
            contents = self._files.read()
        except Invalid as error:
            # A renewal writes one file after another: log only if the files are unusable twice in a row.
            if self._was_unusable:
                self._unusable_log.log(logging.ERROR, f"{error}; the former certificates stay in use")
            self._was_unusable = True
            return
        self._was_unusable = False
        self._unusable_log.reset()
        self._signature = signature
        if contents == self._contents:
            return
        self._contents = contents
        log.info(
            "%suses renewed certificates: %s",
            f"{self._user} " if self._user else "",
            "; ".join(map(str, contents.ends)) or self._files,
        )
        self._renew(contents)
