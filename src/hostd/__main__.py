"""Entry point of the program hostd."""

from __future__ import annotations

import sys

from nodestore.daemon.early_stop import end_quietly_on_signals


def main() -> int:
    """Run hostd; return its exit code: 0 after a stop signal, that of the error otherwise."""
    end_quietly_on_signals()
    from hostd import daemon, settings  # here: these imports take a while, and a stop may arrive meanwhile
    from nodestore.daemon import program
    from nodestore.processes import child_processes
    from nodestore.processes.first_process import run_reaping_orphans

    child_processes.utf8_stdio()
    chosen = settings.parse()
    return run_reaping_orphans(
        lambda: program.run("hostd", "hostd", chosen.log_level, daemon.run(chosen), chosen.log_file)
    )


if __name__ == "__main__":
    sys.exit(main())
