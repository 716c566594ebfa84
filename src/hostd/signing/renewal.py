"""Keeps the certificates of this PC fresh: asks a signer again and again for what it has for this PC.

The signer answers with the present certificates, or with new ones for the same keys once two thirds of their life are
over; with the authorities, of which there are two while one is replaced; and with the revocation lists. Files that have
not changed are not written. The programs read changed ones by themselves.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import NoReturn

from hostd.pc.host_file import HostFile
from hostd.pc.identities import present_requests, write_certificates
from hostd.pc.layout import Layout
from hostd.signing.client import SignerClient
from hostd.signing.joins import content_of, sign_all
from nodestore.errors import NodectlError, Unavailable
from nodestore.pki.authority import Authorities
from nodestore.support.logs import RateLimitedLog

log = logging.getLogger(__name__)

EVERY_S = 60.0
_LOG_EVERY_S = 3_600.0


class Renewal:
    """Runs for as long as hostd does."""

    def __init__(self, layout: Layout, host: HostFile, every_s: float = EVERY_S) -> None:
        self._layout, self._host, self._every_s = layout, host, every_s

    async def run(self) -> NoReturn:
        problems = RateLimitedLog(log, _LOG_EVERY_S)
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self.renew()
            except NodectlError as error:
                problems.log(logging.WARNING, f"the certificates of this PC are not refreshed: {error}")
            else:
                problems.reset()

    async def renew(self) -> list[str]:
        """Ask once; return the names of the files that have changed."""
        requests = await asyncio.to_thread(present_requests, self._layout, self._host.kind, self._host.host)
        texts = {program: request.decode() for program, request in requests.items()}
        received = await (self._sign_here(texts) if self._layout.pki.is_dir() else self._ask(texts))
        contents = {
            program: {name: content_of(text) for name, text in files.items()} for program, files in received.items()
        }
        changed = await asyncio.to_thread(write_certificates, self._layout, contents)
        if changed:
            log.info("certificates of this PC have changed: %s", ", ".join(changed))
        return changed

    async def _sign_here(self, requests: Mapping[str, str]) -> dict[str, dict[str, str]]:
        host = self._host
        return await asyncio.to_thread(
            sign_all, Authorities(self._layout.pki), host.kind, host.host, host.address, requests
        )

    async def _ask(self, requests: dict[str, str]) -> dict[str, dict[str, str]]:
        tls = self._layout.tls_files("hostd", self._host.host).context()
        problem: NodectlError = Unavailable("this PC knows no signer")
        for signer in self._host.signers:
            try:
                return await SignerClient(signer).certificates(tls, requests)
            except NodectlError as error:
                problem = error
        raise problem
