"""How a session logs in to etcd: with which password, how often it asks again, and what a refusal means.

At the start a refusal is final: somebody gave the wrong user or password, and is there to hear of it. Once etcd has
taken us, it is the password in etcd that was changed, or the user that was deleted: work must not stop for that. So it
is told and waited out like an outage, until the old password is set again or the new one is in the file.
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
"""Between two questions with the same password: etcd takes 0.1 s of a core to check one, on purpose."""
_FILE_READ_EVERY_S = 0.5
"""Between two looks into the file while etcd refuses what was in it."""
_LOG_EVERY_S = 60.0


class Login:
    """Of one session."""

    def __init__(self, settings: EtcdSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._user, self._file = settings.user, settings.password_file
        self._password = settings.password or ""
        self.was_accepted = False
        """Whether etcd has ever taken us, with these credentials or without any."""
        self.refusal: str | None = None
        """Why etcd refuses us although it has taken us before; None while it does not."""
        self._backoff = Backoff(_PAUSE_FIRST_S, _PAUSE_MAX_S)
        self._next_try_at = self._next_read_at = 0.0
        self._last_refusal: str | None = None
        """What was answered last, until there is a token."""
        self._limited_log = RateLimitedLog(log, _LOG_EVERY_S)

    def password(self) -> str:
        """What is in the file now. The password stays as it was if the file has none, as while it is being written."""
        if self._file is not None:
            with suppress(Invalid):
                self._password = read_password(self._file)
        return self._password

    def raise_if_too_early(self) -> None:
        """Raises what etcd answered last, when it is too early to ask again: Denied, or later on Unavailable."""
        now = self._clock()
        if self._last_refusal is None or now >= self._next_try_at:
            return
        if now >= self._next_read_at:
            self._next_read_at = now + _FILE_READ_EVERY_S
            before = self._password
            if self.password() != before:
                return
        raise (
            Unavailable(self._last_refusal) if self.was_accepted else Denied(self._last_refusal)
        )  # anew: a traceback grows at each raise

    def record_refusal(self, error: NodectlError) -> NodectlError:
        """etcd said so: what to raise. Unavailable once it has taken us before, else `error` itself."""
        now = self._clock()
        self._next_try_at, self._next_read_at, self._last_refusal = (
            now + self._backoff.next_s(),
            now + _FILE_READ_EVERY_S,
            str(error),
        )
        if not self.was_accepted:
            return error
        self.refusal = self._last_refusal = self._explain(self._last_refusal.removeprefix("etcd refuses: "))
        self._limited_log.log(logging.ERROR, f"{self.refusal}; goes on as it is meanwhile")
        return Unavailable(self.refusal)

    def _explain(self, why: str) -> str:
        if self._user is None:
            return f"{why}, which it did not before: start this program with --user, or turn its access control off"
        file = f"write its password into {self._file}" if self._file is not None else "use its present password"
        return f"etcd refuses user {self._user}, which it has taken before ({why}): {file}, or put it right in etcd"

    def record_token(self) -> None:
        """There is a token; whether it is worth anything is not known yet."""
        self.was_accepted, self._last_refusal = True, None

    @property
    def awaits_success(self) -> bool:
        """Whether it is news that etcd takes us."""
        return not self.was_accepted or self._backoff.failures > 0

    def record_success(self) -> None:
        """etcd has done something for us."""
        if self.refusal is not None:
            log.info("etcd takes %s again", f"user {self._user}" if self._user else "us")
        self.was_accepted, self.refusal, self._last_refusal = True, None, None
        self._backoff.reset()
        self._limited_log.reset()
