"""Checks that other programs will trust this masterd at the URL that it advertises.

A certificate that does not name the host of the URL would be noticed only by the others: this masterd could not be
asked for anything, but would seem healthy to itself.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import NoReturn
from urllib.parse import urlsplit

from nodestore.support.tls_errors import explain
from nodestore.support.waiting import set_within

log = logging.getLogger(__name__)

_TIMEOUT_S = 2.0
_CHECK_EVERY_S = 60.0


class OwnCertificate:
    """Connects to `url` once a minute, as another program would. `tls`: the context that others use.

    `renewed`: set it when the files have changed, to have them checked at once.
    """

    def __init__(self, url: str, tls: ssl.SSLContext) -> None:
        self._url, self._tls = url, tls
        self.renewed = asyncio.Event()
        self.warning: str | None = None
        """Why others will not trust this masterd; None if they will, or if it is not known."""

    async def run(self) -> NoReturn:
        while True:
            self.renewed.clear()
            await self.check()
            await set_within(self.renewed, _CHECK_EVERY_S)

    async def check(self) -> None:
        """Connect once. An address that cannot be reached from here, as behind a router, proves nothing."""
        parts = urlsplit(self._url)
        writer, before = None, self.warning
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                _, writer = await asyncio.open_connection(parts.hostname, parts.port or 443, ssl=self._tls)
            self.warning = None
        except ssl.SSLCertVerificationError as error:
            self.warning = f"other programs do not trust {self._url}: {explain(error.verify_message)}"
        except (OSError, UnicodeError) as error:  # the latter: a host that cannot be the name of one
            log.debug("cannot check the certificate at %s: %s", self._url, error)
        finally:
            if writer is not None:
                writer.transport.abort()
        if self.warning is not None and self.warning != before:
            log.error("%s", self.warning)
