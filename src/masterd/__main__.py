"""The program masterd."""

from __future__ import annotations

import sys

from masterd import daemon, settings
from nodestore import procs, programs


def main() -> int:
    """Run until asked to stop (0), or until something is broken (the error's exit code)."""
    procs.utf8_stdio()
    chosen = settings.parse()
    return programs.run("masterd", chosen.master, chosen.log_level, daemon.run(chosen))


if __name__ == "__main__":
    sys.exit(main())
