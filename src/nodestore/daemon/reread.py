"""Reads again what a running daemon can read again: certificates, passwords and the level of the log."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, Protocol

from nodestore.daemon.options import read_log_level
from nodestore.daemon.service_notifier import ServiceNotifier
from nodestore.errors import Invalid
from nodestore.support import logs

log = logging.getLogger(__name__)


class Rereadable(Protocol):
    """What can read its files again: a session with etcd, the TLS files of an API."""

    def reread_files(self) -> None: ...


async def reread_on_request(
    requested: asyncio.Event,
    readers: Sequence[Rereadable],
    log_level: str,
    log_level_file: Path | None,
    notifier: ServiceNotifier,
) -> NoReturn:
    """Each time `requested` is set, make the readers read their files again, and set the level of the log.

    `log_level`: the level while there is no file.
    """
    while True:
        await requested.wait()
        requested.clear()
        log.info("SIGHUP: reads certificates, passwords and the log level again")
        with notifier.reloading():
            for reader in readers:
                reader.reread_files()
            try:
                logs.set_level(read_log_level(log_level_file, log_level))
            except Invalid as error:
                log.error("%s; the level stays as it is", error)
