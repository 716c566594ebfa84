"""The TLS files of a daemon's connections with other daemons of the cluster, followed while the daemon runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from nodestore.etcd.certificates import CertificateWatch
from nodestore.support.tls_context import FollowingContext
from nodestore.support.tls_files import TlsContents, TlsFiles


class FollowedTls:
    """Contexts whose new connections use the newest contents of `files`; see `FollowingContext`.

    `client` is for connections to other programs. `server` is for connections from them; None without a certificate.
    Set `on_renewed` to be called after the contexts have changed.
    """

    def __init__(self, *, files: TlsFiles, user: str, logs_ends: bool = True) -> None:
        """Read the files. Raises Invalid if they cannot be used.

        user: what uses them, for the log. logs_ends: log certificates that end soon. A session with etcd does that for
        its own files.
        """
        self._watch = CertificateWatch(files, self._renew, _no_members, user=user, logs_ends=logs_ends)
        contents = self._watch.contents
        self.client = FollowingContext(contents, server_side=False)
        self.server = FollowingContext(contents, server_side=True) if contents.server is not None else None
        self.on_renewed: Callable[[], None] = lambda: None

    async def run(self) -> NoReturn:
        """Check the files every second, and use them once they have changed."""
        await self._watch.run()

    def reread_files(self) -> None:
        """Read the files now."""
        self._watch.check(reread=True)

    @property
    def warning(self) -> str | None:
        """That a certificate in use has ended, or ends within 14 days; None if none does."""
        return self._watch.warning

    def _renew(self, contents: TlsContents) -> None:
        self.client.renew(contents)
        if self.server is not None:
            self.server.renew(contents)
        self.on_renewed()


async def _no_members() -> list[str]:
    return []
