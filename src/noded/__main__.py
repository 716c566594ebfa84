"""The program noded."""

from __future__ import annotations

import asyncio
import logging
import sys

from noded import daemon, settings
from nodestore import logs, procs
from nodestore.errors import NodectlError

log = logging.getLogger("noded")


def main() -> int:
    """Run until asked to stop (0), until another noded has the node (4), or until something is broken (1)."""
    procs.utf8_stdio()
    chosen = settings.parse()
    logs.setup("noded", chosen.node, chosen.log_level)
    try:
        asyncio.run(daemon.run(chosen))
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        reason = daemon.reason_of(error)
        if isinstance(reason, NodectlError):
            log.error("ends: %s", reason)
            return reason.exit_code
        log.debug("ends", exc_info=True)
        log.error("ends: %s: %s", type(reason).__name__, reason)
        return 1
    log.info("has stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
