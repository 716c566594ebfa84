"""Entry point of the program noded."""

from __future__ import annotations

import sys

from nodestore.daemon.early_stop import end_quietly_on_signals


def main() -> int:
    """Run noded; return its exit code: 0 after a stop signal, 4 if another noded claimed the node, 1 after an error."""
    end_quietly_on_signals()
    from noded import daemon, settings  # here: these imports take a while, and a stop may arrive meanwhile
    from nodestore.daemon import program
    from nodestore.processes import child_processes
    from nodestore.processes.first_process import run_reaping_orphans

    child_processes.utf8_stdio()
    chosen = settings.parse()
    return run_reaping_orphans(
        lambda: program.run("noded", chosen.node, chosen.log_level, daemon.run(chosen), chosen.log_file)
    )


if __name__ == "__main__":
    sys.exit(main())
