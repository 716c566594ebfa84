"""Entry point of the program noded."""

from __future__ import annotations

import sys

from noded import daemon, settings
from nodestore.daemon import program
from nodestore.processes import child_processes


def main() -> int:
    """Run noded; return its exit code: 0 after a stop signal, 4 if another noded claimed the node, 1 after an error."""
    child_processes.utf8_stdio()
    chosen = settings.parse()
    return program.run("noded", chosen.node, chosen.log_level, daemon.run(chosen))


if __name__ == "__main__":
    sys.exit(main())
