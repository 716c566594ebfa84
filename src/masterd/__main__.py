"""The program masterd."""

from __future__ import annotations

import sys

from masterd import daemon, settings
from nodestore.daemon import program
from nodestore.processes import child_processes


def main() -> int:
    """Run until asked to stop (0), or until something is broken (the error's exit code)."""
    child_processes.utf8_stdio()
    chosen = settings.parse()
    return program.run("masterd", chosen.master, chosen.log_level, daemon.run(chosen))


if __name__ == "__main__":
    sys.exit(main())
