"""Entry point of the program masterd."""

from __future__ import annotations

import sys

from masterd import daemon, settings
from nodestore.daemon import program
from nodestore.processes import child_processes


def main() -> int:
    """Run masterd. Returns 0 after a stop signal, and the error's exit code after a fatal error."""
    child_processes.utf8_stdio()
    chosen = settings.parse()
    return program.run("masterd", chosen.master, chosen.log_level, daemon.run(chosen))


if __name__ == "__main__":
    sys.exit(main())
