"""How a session logs in to etcd: which password it uses, how often it retries, and what a refusal means.

If etcd refuses the first login, the configured user or password is wrong, and the program ends with that error.
If etcd refuses a session that it accepted before, the password was changed in etcd or the user was deleted. The
program must keep running, so such a refusal is logged and retried like an outage, until the old password is restored in
etcd or the new one is in the file.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress

from nodestore.errors import Denied, Invalid, NodectlError, Unavailable
from nodestore.etcd.types import EtcdSettings
from nodestore.support.backoff import Backoff
from nodestore.support.logs import RateLimitedLog
from nodestore.support.password_file import read_password

log = logging.getLogger(__name__)

_PAUSE_FIRST_S = 0.2
_PAUSE_MAX_S = 5.0
"""Longest pause between two logins with the same password: etcd's password hash takes 0.1 s of a core."""
_FILE_READ_EVERY_S = 0.5
"""Pause between two reads of the password file while etcd refuses the password."""
_LOG_EVERY_S = 60.0


class Login:
    """The login state of one session."""

    def __init__(self, settings: EtcdSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._user, self._file = settings.user, settings.password_file
        self._password = settings.password or ""
        self.was_accepted = False
        """Whether etcd ever accepted this session, with these credentials or without any."""
        self.refusal: str | None = None
        """Why etcd now refuses this session, having accepted it before; None if it does not."""
        self._backoff = Backoff(_PAUSE_FIRST_S, _PAUSE_MAX_S)
        self._next_try_at = self._next_read_at = 0.0
        self._last_refusal: str | None = None
        """The last refusal; None once there is a token."""
        self._limited_log = RateLimitedLog(log, _LOG_EVERY_S)

    def password(self) -> str:
        """The current password. If a file is configured, it is read anew.

        If the file holds no password, as while it is being written, this is the previous one.
        """
        if self._file is not None:
            with suppress(Invalid):
                self._password = read_password(self._file)
        return self._password

    def retry_at_once(self) -> None:
        """End the pause before the next login, which reads the password file again."""
        self._next_try_at = 0.0

    def raise_if_too_early(self) -> None:
        """Raise the last refusal again while the back-off lasts, unless the password in the file has changed.

        Unavailable if etcd accepted this session before, else Denied.
        """
        now = self._clock()
        if self._last_refusal is None or now >= self._next_try_at:
            return
        if now >= self._next_read_at:
            self._next_read_at = now + _FILE_READ_EVERY_S
            before = self._password
            if self.password() != before:
                return
        # A new exception each time: the traceback of one that is raised again would grow.
        raise Unavailable(self._last_refusal) if self.was_accepted else Denied(self._last_refusal)

    def record_refusal(self, error: NodectlError) -> NodectlError:
        """Start or extend the back-off; return the error to raise.

        That is Unavailable if etcd accepted this session before, else `error` itself.
        """
        now = self._clock()
        self._next_try_at, self._next_read_at, self._last_refusal = (
            now + self._backoff.next_s(),
            now + _FILE_READ_EVERY_S,
            str(error),
        )
        if not self.was_accepted:
            return error
        self.refusal = self._last_refusal = self._explain(self._last_refusal.removeprefix("etcd refuses: "))
        self._limited_log.log(logging.ERROR, f"{self.refusal}; retrying")
        return Unavailable(self.refusal)

    def _explain(self, why: str) -> str:
        if self._user is None:
            way_out = "start it with --user, or disable authentication in etcd"
            return f"etcd refuses this program, which it accepted before ({why}): {way_out}"
        file = (
            f"write its current password into {self._file}"
            if self._file is not None
            else "start this program with its current password"
        )
        return f"etcd refuses user {self._user}, which it accepted before ({why}): {file}, or restore the user in etcd"

    def record_token(self) -> None:
        """Note that etcd issued a token. Its user may still lack every permission."""
        self.was_accepted, self._last_refusal = True, None

    @property
    def awaits_success(self) -> bool:
        """Whether `record_success` has an effect.

        It has an effect until etcd first accepts the session, and after a refusal until the next success.
        """
        return not self.was_accepted or self._backoff.failures > 0

    def record_success(self) -> None:
        """End the back-off after a call that etcd carried out for this session."""
        if self.refusal is not None:
            log.info("etcd accepts %s again", f"user {self._user}" if self._user else "this program")
        self.was_accepted, self.refusal, self._last_refusal = True, None, None
        self._backoff.reset()
        self._limited_log.reset()
