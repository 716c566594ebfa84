"""Entry point of the program masterd."""

from __future__ import annotations

import sys

from nodestore.daemon.early_stop import end_quietly_on_signals


def main() -> int:
    """Run masterd. Returns 0 after a stop signal, and the error's exit code after a fatal error."""
    end_quietly_on_signals()
    from masterd import daemon, settings  # here: these imports take a while, and a stop may arrive meanwhile
    from nodestore.daemon import program
    from nodestore.processes import child_processes, quick_close

    child_processes.utf8_stdio()
    chosen = settings.parse()
    if chosen.quick_close:
        quick_close.close_files_first()
    return program.run("masterd", chosen.master, chosen.log_level, daemon.run(chosen), chosen.log_file)


if __name__ == "__main__":
    sys.exit(main())
