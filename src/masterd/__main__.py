"""The program masterd."""

from __future__ import annotations

import asyncio
import logging
import sys

from masterd import daemon, settings
from nodestore import logs, procs
from nodestore.errors import NodectlError

log = logging.getLogger("masterd")


def main() -> int:
    """Run until asked to stop (0), or until something is broken (the error's exit code)."""
    procs.utf8_stdio()
    chosen = settings.parse()
    logs.setup("masterd", chosen.master, chosen.log_level)
    try:
        asyncio.run(daemon.run(chosen))
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        reason: BaseException = error
        while isinstance(reason, BaseExceptionGroup):
            reason = reason.exceptions[0]
        log.debug("ends", exc_info=True)
        if isinstance(reason, NodectlError):
            log.error("ends: %s", reason)
            return reason.exit_code
        log.error("ends: %s: %s", type(reason).__name__, reason)
        return 1
    log.info("has stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
