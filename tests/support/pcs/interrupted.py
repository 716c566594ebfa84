"""`nodectl host ...`, killed after one step: `python -m tests.support.pcs.interrupted STEP host init ...`."""

from __future__ import annotations

import os
import signal
import sys

from hostd.setup import steps
from nodectl.__main__ import main


def _kill_after(wanted: str) -> None:
    """Have the process killed, as by kill -9 or a power cut, when this step is done."""
    original = steps.Steps.__init__

    def with_fault(self: steps.Steps, report: steps.ReportLine) -> None:
        def after(name: str) -> None:
            if name == wanted:
                os.kill(os.getpid(), signal.SIGKILL)

        original(self, report, after)

    steps.Steps.__init__ = with_fault  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    _kill_after(sys.argv[1])
    sys.argv = ["nodectl", *sys.argv[2:]]
    main()
