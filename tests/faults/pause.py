"""A program that waits until a signal ends it: `python -m tests.faults.pause`."""

import signal

if __name__ == "__main__":
    signal.pause()
