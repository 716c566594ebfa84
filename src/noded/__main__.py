"""The program noded."""

from __future__ import annotations

import sys

from noded import daemon, settings
from nodestore.daemon import program
from nodestore.processes import child_processes


def main() -> int:
    """Run until asked to stop (0), until another noded has the node (4), or until something is broken (1)."""
    child_processes.utf8_stdio()
    chosen = settings.parse()
    return program.run("noded", chosen.node, chosen.log_level, daemon.run(chosen))


if __name__ == "__main__":
    sys.exit(main())
